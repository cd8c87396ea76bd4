"""Every notebook runs, at the smallest scale, through the function that `finetune-lessons run` uses."""

import re
from pathlib import Path

import nbformat
import pytest
from transformers import pipeline

from finetune_lessons.lab.notebooks.executing import execute, lessons

NBS = Path(__file__).parents[3] / "nbs"


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_lessons_have_unique_numbers_and_names():
    numbers, names = zip(*(path.stem.split("_", 1) for path in lessons()), strict=True)
    assert "11" in numbers
    assert len(set(numbers)) == len(set(names)) == len(lessons())


PAGES = [NBS / f"{name}.ipynb" for name in ("benchmarks", "which_method_when", "why_does_my_loss_not_fall")]


@pytest.mark.parametrize("path", [*lessons(), *PAGES], ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = execute(path, "smoke")
    assert outputs(notebook)
    noise = [output.text for output in outputs(notebook) if output.get("name") == "stderr" and "Warning" in output.text]
    assert not noise


def test_examples_of_the_readme_run(tmp_path):
    notebook = nbformat.read(NBS / "index.ipynb", as_version=4)
    examples = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 'read_csv("reviews.csv")' in examples[0].source and "n_train=2000" in examples[1].source
    said = {"late": "It came {} days late.", "broken": "Part {} broke at once.", "good": "Just what I wanted, all {}!"}
    rows = [f'"{text.format(i)}",{label}' for label, text in said.items() for i in range(20)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    for example in examples:
        example.source = re.sub(r"\bepochs=\d", "epochs=1", example.source.replace("n_train=2000", "n_train=64"))
    nbformat.write(notebook, tmp_path / "index.ipynb")
    executed = execute(tmp_path / "index.ipynb")
    assert any("accuracy" in output.get("data", {}).get("text/plain", "") for output in outputs(executed))
    assert (tmp_path / "movies_adapters" / "method.json").is_file()
    assert list((tmp_path / "runs" / "movies").iterdir())
    for folder, labels in {"movies_model": {"negative", "positive"}, "reviews_model": set(said)}.items():
        (found,) = pipeline("text-classification", str(tmp_path / folder))(["What a film!"])
        assert found["label"] in labels
