"""Readers work in copies that do not answer before they did, and whose work nobody overwrites."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from finetune_lessons.lab.notebooks import opening
from finetune_lessons.lab.notebooks.editions import LIBRARY, colab_editions, edition, make_copies
from finetune_lessons.lab.notebooks.executing import lessons

NBS = Path(__file__).parents[3] / "nbs"


def code(source: str, said: str = "42"):
    return new_code_cell(source, outputs=[new_output("execute_result", {"text/plain": said}, execution_count=1)])


def notebook(*cells):
    "Markdown where it is a string."
    made = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    for i, cell in enumerate(made):
        cell.id = f"cell-{i}"
    return new_notebook(cells=made)


def shown(cells) -> list:
    "What a reader sees of each cell: its output, or its text where it is not folded."
    return [
        [output.data["text/plain"] for output in cell.outputs]
        if cell.cell_type == "code"
        else "folded" * cell.source.startswith("<details>") or cell.source
        for cell in cells
    ]


@pytest.mark.parametrize(
    "question",
    [
        "Which is worse? Decide before you run the next cell.",
        "How good is it? **Guess its accuracy**, then look.",
        "**At which token?** Guess, then look.",
        "What will it cost? Write down three guesses.",
        "One run stands there.\n\n**Commit to a prediction first.**",
        "For as many steps; **look at your guess** before you run it.",
    ],
)
def test_what_answers_a_question_is_not_shown(question):
    cells = edition(notebook("## A", code("1"), question, code("2"), code("3"), "Bold is.", "On.", code("4"))).cells
    assert shown(cells) == ["## A", ["42"], question, [], [], "folded", "On.", ["42"]]
    assert "\n\nBold is.\n\n" in cells[5].source, "markdown inside needs empty lines around it"


@pytest.mark.parametrize(
    "text",
    ["The guess of a coin.", "What a model may decide.", "### 2. Count before you train", "It predicts, we write down"],
)
def test_what_asks_nothing_hides_nothing(text):
    cells = [text, code("1"), "And so on."]
    assert shown(edition(notebook(*cells)).cells) == [text, ["42"], "And so on."]


def test_a_heading_ends_what_a_question_hides():
    asked = "Guess, then look."
    assert shown(edition(notebook(asked, code("1"), "## Next", code("2"))).cells) == [asked, [], "## Next", ["42"]]
    later = "Guess, then look.\n\n### First some code"
    assert shown(edition(notebook(later, code("1"), "It is so.")).cells) == [later, ["42"], "It is so."]
    both = "So it is.\n\n## Next\n\nAnd how fast? Guess."
    assert shown(edition(notebook(asked, code("1"), both, code("2"))).cells) == [asked, [], both, []]


def test_a_text_between_question_and_code_does_not_end_it():
    assert shown(edition(notebook("Guess.", "It takes a minute.", code("1"))).cells)[1:] == ["It takes a minute.", []]


def test_library_code_is_folded_and_the_idea_is_not():
    sources = {
        "#| default_exp lora\n#| export\nimport torch\n\nX = 1": True,
        "#| export\ndef _check(x):\n    pass": True,
        "#| exporti\ndef _check(x):\n    pass": True,
        "#| export\ndef _check(x):\n    pass\n\nclass Adapter:\n    pass": False,
        "#| export\nX = [1]": False,
        "import torch": False,
        "def _mine():\n    pass": False,
        "#| results\nprint(1)": False,
        "%pip install x\n#| export": False,
    }
    for source, folded in sources.items():
        (cell,) = edition(notebook(code(source))).cells
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == folded, source
        assert cell.source == (f"{LIBRARY}\n{source}" if folded else source) and cell.outputs


def test_lessons_have_questions_whose_answers_are_not_shown():
    asking = 0
    for path in lessons():
        saved, copy = nbformat.read(path, as_version=4), edition(nbformat.read(path, as_version=4))
        pairs = list(zip(saved.cells, copy.cells, strict=True))
        cleared = [after for before, after in pairs if before.get("outputs") and not after.outputs]
        asking += bool(cleared)
        assert len(cleared) <= 12, path.stem
        assert 1 <= sum(LIBRARY in cell.source for cell in copy.cells) <= 10
    assert asking >= len(lessons()) - 1


# on Colab

BADGE = re.compile(r"\]\(https://colab\.research\.google\.com/github/[\w-]+/[\w-]+/blob/main/(\S+\.ipynb)\)")


def test_colab_opens_an_edition_without_answers(source):
    ((name, opened),) = colab_editions(source)  # of those that have a badge
    assert name == "11_b.ipynb" and shown(opened.cells) == ["# B\n\n> So.", "Guess.", []]


@pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
def test_the_badge_of_a_lesson_opens_what_shows_no_output(path):
    head, *cells = nbformat.read(path, as_version=4).cells
    (opened,) = BADGE.findall(head.source)
    copy = nbformat.read(NBS.parent / opened, as_version=4)
    code = [cell for cell in copy.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
    assert [cell.id for cell in copy.cells[1:]] == [cell.id for cell in cells]
    assert "Open in Colab" not in copy.cells[0].source


# copies


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "nbs"
    head = "# B\n\n[![Open in Colab](https://badge)](https://there)\n\n> So."
    write(folder, "1_a/11_b.ipynb", head, "Guess.", code("1"))
    write(folder, "index.ipynb", "# Index", "a table", code("1"))
    (folder / "results").mkdir()
    (folder / "results/11.json").write_text("{}")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/index.ipynb").write_text("{}")
    return folder


def write(folder: Path, name: str, *cells) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(*cells), folder / name)


def change(path: Path, at: int, source: str | None = None, output: str | None = None) -> None:
    "As JupyterLab saves it, with what it adds."
    copy = nbformat.read(path, as_version=4)
    if source is not None:
        copy.cells[at].source = source
    if output is not None:
        copy.cells[at].outputs = [new_output("stream", text=output)]
    copy.cells[at].metadata["editable"] = True
    copy.metadata.language_info = {"name": "python"}
    nbformat.write(copy, path)


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_copies_are_editions_and_bring_what_lessons_read(source, tmp_path):
    mine = tmp_path / "mine"
    assert list(make_copies(source, mine, {"cell-1": "5 of 6"})) == []
    assert sorted(path.relative_to(mine).as_posix() for path in mine.rglob("*") if path.is_file()) == [
        ".copies.json", "1_a/11_b.ipynb", "index.ipynb", "results/11.json",
    ]  # fmt: skip
    assert sources(mine / "1_a/11_b.ipynb")[0] == "# B\n\n> So." and sources(mine / "index.ipynb")[1] == "5 of 6"
    assert not nbformat.read(mine / "1_a/11_b.ipynb", as_version=4).cells[2].outputs


def test_work_stays_and_the_rest_is_renewed(source, tmp_path):
    mine, lesson, results = tmp_path / "mine", "1_a/11_b.ipynb", "results/11.json"
    write(source, "1_a/12_c.ipynb", "Read.", code("1"))
    list(make_copies(source, mine, {}))
    change(mine / lesson, 2, source="my answer")
    change(mine / "1_a/12_c.ipynb", 1)  # opened and saved, no more
    for path in (lesson, "1_a/12_c.ipynb"):
        change(source / path, 0, source="# New")
    (source / results).write_text("[]")
    said = list(make_copies(source, mine, {}))
    assert len(said) == 1 and said[0].startswith(f"{mine / lesson} stays as you left it; the lesson has changed since")
    assert sources(mine / lesson)[2] == "my answer" and sources(mine / lesson)[0].startswith("# B")
    assert sources(mine / "1_a/12_c.ipynb")[0] == "# New" and (mine / results).read_text() == "[]"
    assert len(list(make_copies(source, mine, {}))) == 1, "it is said each time"
    (mine / lesson).rename(mine / "1_a/11 of mine.ipynb")
    assert list(make_copies(source, mine, {})) == []
    assert sources(mine / lesson)[0] == "# New" and sources(mine / "1_a/11 of mine.ipynb")[2] == "my answer"


def test_what_a_reader_ran_is_work_but_in_the_index(source, tmp_path):
    mine = tmp_path / "mine"
    list(make_copies(source, mine, {"cell-1": "0 of 6"}))
    for name, at in (("1_a/11_b.ipynb", 2), ("index.ipynb", 2)):
        change(mine / name, at, output="my number")
        change(source / name, 0, source="# New")
    assert len(list(make_copies(source, mine, {"cell-1": "1 of 6"}))) == 1
    assert "my number" in (mine / "1_a/11_b.ipynb").read_text()
    assert sources(mine / "index.ipynb")[:2] == ["# New", "1 of 6"]


def test_a_file_that_was_there_before_is_left_alone(source, tmp_path):
    mine = tmp_path / "mine"
    write(mine, "1_a/11_b.ipynb", "mine, from before")
    assert len(list(make_copies(source, mine, {}))) == 1
    assert sources(mine / "1_a/11_b.ipynb") == ["mine, from before"]


def test_copies_lie_beside_the_lessons_where_git_and_the_tools_do_not_look(monkeypatch, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(NBS, checkout / "nbs", ignore=shutil.ignore_patterns(".*"))
    of_checkout = [checkout / path.relative_to(NBS.parent) for path in lessons()]
    monkeypatch.setattr(opening, "lessons", lambda: of_checkout)
    folder = opening.copies()
    assert folder == checkout / "my_lessons" and len(list(folder.glob("*/[0-9][0-9]_*.ipynb"))) == len(lessons())
    assert f"{folder.name}/" in (NBS.parent / ".gitignore").read_text().splitlines()
    monkeypatch.setattr(opening, "lessons", list)
    with pytest.raises(ValueError, match="no lessons here: clone the repository"):
        opening.copies()


def test_a_copy_that_is_no_notebook_any_more_is_left_alone(source, tmp_path):
    mine = tmp_path / "mine"
    list(make_copies(source, mine, {}))
    (mine / "1_a/11_b.ipynb").write_text("{half a notebook")
    assert len(list(make_copies(source, mine, {}))) == 0
    assert (mine / "1_a/11_b.ipynb").read_text() == "{half a notebook"
    (mine / ".copies.json").write_text("{half")
    list(make_copies(source, mine, {}))
    assert (mine / "1_a/11_b.ipynb").read_text() == "{half a notebook"
    assert json.loads((mine / ".copies.json").read_text()) == {}
