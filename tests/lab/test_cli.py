"""The command `finetune-lessons`, and the notebooks that it finds, executes and saves."""

import os
import signal
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from finetune_lessons.lab.cli import commands, main
from finetune_lessons.lab.data import assets
from finetune_lessons.lab.notebooks import executing as notebooks
from finetune_lessons.lab.notebooks.scale import scale

GOOD = [
    new_markdown_cell("# A lesson\n\n> One sentence."),
    new_code_cell("import os\nfrom pathlib import Path\nprint('not a result')"),
    new_markdown_cell("## The table"),
    new_code_cell("#| results\nprint(os.environ['FINETUNE_LESSONS_SCALE'], Path.cwd().name)\n6 * 7"),
]


@pytest.fixture
def notebook(tmp_path):
    def write(*cells):
        path = tmp_path / "11_lesson.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


# finding


@pytest.fixture
def three_lessons(tmp_path, monkeypatch):
    for name in ("1_one/11_cross_entropy", "1_one/12_optimizers", "2_two/22_lora"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setattr(notebooks, "_notebook_folder", lambda: tmp_path)


@pytest.mark.parametrize("lesson", ["22", "lora", "22_lora"])
def test_lesson_is_found_by_number_or_name(three_lessons, lesson):
    assert notebooks.find_lesson(lesson).name == "22_lora.ipynb"


def test_unknown_lesson_lists_the_known_ones(three_lessons, capsys):
    assert main(["run", "99"]) == 1
    error = capsys.readouterr().err
    assert "'99'" in error
    assert all(name in error for name in ("11  cross_entropy", "12  optimizers", "22  lora"))


def test_path_that_does_not_exist_is_an_unknown_lesson(three_lessons, capsys):
    assert main(["run", "nowhere/11_cross_entropy.ipynb"]) == 1
    assert "unknown lesson" in capsys.readouterr().err


# running


def test_run_prints_results_only_and_leaves_the_file_alone(notebook, capsys):
    path = notebook(*GOOD)
    before = path.read_bytes()
    assert main(["run", str(path), "--scale", "smoke"]) == 0
    printed = capsys.readouterr()
    assert f"The table\nsmoke {path.parent.name}\n42\n" in printed.out
    assert "not a result" not in printed.out
    assert "cell 2 of 2" in printed.err
    assert path.read_bytes() == before


def test_failing_cell_is_named_with_its_source(notebook, capsys):
    path = notebook(*GOOD, new_code_cell("rate = 1\nrate / 0"), new_code_cell("print('never')"))
    assert main(["run", str(path), "--scale", "smoke"]) == 1
    error = capsys.readouterr().err
    assert "cell 3 of 4, under 'The table', failed:\n\n    rate = 1\n    rate / 0\n\n" in error
    assert error.endswith("ZeroDivisionError: division by zero\n")
    assert "Traceback" not in error


def test_dead_kernel_is_reported(notebook, capsys):
    path = notebook(new_code_cell("import os\nos._exit(1)"))
    assert main(["run", str(path)]) == 1
    assert "The kernel died" in capsys.readouterr().err


def test_interrupt_stops_run_and_kernel(notebook, tmp_path):
    source = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + '.')\ntime.sleep(600)"
    path = notebook(new_code_cell(source))
    command = [sys.executable, "-m", "finetune_lessons.lab.cli", "run", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()).endswith("."):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error.endswith("finetune-lessons: interrupted\n")
    assert "Traceback" not in error
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.rstrip(".")), 0)


# saving


def test_saved_notebook_is_portable(notebook, tmp_path, capsys):
    pytest.importorskip("nbdev")
    cells = [
        new_code_cell("from pathlib import Path\nprint(Path.home() / 'x', Path.cwd() / 'y')"),
        new_code_cell("import ipywidgets\nipywidgets.IntSlider()"),
        new_code_cell("from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass"),
        new_code_cell("import sys\nprint('a'); print('b', file=sys.stderr); print('c')"),
        new_code_cell("object()"),
    ]
    ids = [cell.id for cell in cells]
    path = notebook(*cells)
    assert main(["run", str(path), "--scale", "smoke", "--save"]) == 0
    saved = nbformat.read(path, as_version=4)
    assert [cell.id for cell in saved.cells] == ids
    assert saved.metadata == {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    assert all(cell.metadata == {} and cell.execution_count is None for cell in saved.cells)
    paths, slider, progress, streams, identity = (cell.outputs for cell in saved.cells)
    assert paths[0].text.startswith("~/x $TMPDIR/")
    assert not slider and not progress
    assert {output.name: output.text for output in streams} == {"stdout": "a\nc\n", "stderr": "b\n"}
    assert identity[0].data["text/plain"] == "<object>"


def test_saving_twice_changes_nothing(notebook):
    pytest.importorskip("nbdev")
    path = notebook(*GOOD)
    main(["run", str(path), "--scale", "smoke", "--save"])
    first = path.read_bytes()
    main(["run", str(path), "--scale", "smoke", "--save"])
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("missing", "arguments"), [("nbdev", ["--save"]), ("nbclient", []), ("nbformat nbclient ipykernel", [])]
)
def test_what_is_not_installed_is_said_before_a_cell_runs(notebook, tmp_path, monkeypatch, capsys, missing, arguments):
    path = notebook(new_code_cell("open('ran', 'w').close()"))
    for name in missing.split():
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["run", str(path), *arguments]) == 1
    said = f"finetune-lessons: this needs what is not installed here: pip install {missing}\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "ran").exists()


# scale


@pytest.mark.parametrize("name", ["smoke", "lesson", "full"])
def test_scale_follows_the_environment(monkeypatch, name):
    monkeypatch.setenv("FINETUNE_LESSONS_SCALE", name)
    assert scale(smoke="smoke", lesson="lesson", full="full") == name


@pytest.mark.parametrize(("gpu", "expected"), [(True, None), (False, 2000)])
def test_scale_without_environment_depends_on_the_gpu(monkeypatch, gpu, expected):
    monkeypatch.delenv("FINETUNE_LESSONS_SCALE", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert scale(smoke=64, lesson=2000, full=None) == expected


def test_unknown_scale_is_refused(monkeypatch):
    monkeypatch.setenv("FINETUNE_LESSONS_SCALE", "huge")
    with pytest.raises(ValueError, match="'huge'; expected one of smoke, lesson, full"):
        scale(smoke=1, lesson=2, full=3)


# the other commands


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"\n    {command} " in printed for command in ("run", "list", "assets", "bench", "train", "predict"))


def test_list_gives_number_name_and_minutes(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "22  lora                      2 minutes" in lines
    assert "31  distillation         2 to 4 minutes" in lines
    assert [line[:2] for line in lines] == [path.stem[:2] for path in notebooks.lessons()]


def test_list_says_where_the_lessons_are_if_not_here(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(notebooks, "_notebook_folder", lambda: tmp_path)
    assert main(["list"]) == 1
    assert "no lessons here: the installed package holds only their code" in capsys.readouterr().err


def test_an_unknown_option_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["assets", "--colour", "red"])
    assert stop.value.code == 2 and "unknown: --colour" in capsys.readouterr().err


def test_assets_lists_licence_and_citation_without_fetching(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FINETUNE_LESSONS_HOME", str(tmp_path))
    assert main(["assets", "minilm"]) == 0
    printed = capsys.readouterr().out
    assert assets.ASSETS["minilm"].licence in printed
    assert "smollm2" not in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--fetch", "--verify"])
def test_what_set_up_does_not_need_is_fetched_by_its_name_only(monkeypatch, tmp_path, option):
    monkeypatch.setenv("FINETUNE_LESSONS_HOME", str(tmp_path))
    fetched = []
    monkeypatch.setattr(commands, "asset_path", lambda name, verify: fetched.append(name))
    main(["assets", option])
    assert fetched == ["minilm", "smollm2", "vader", "news"]
    main(["assets", "reviews_zh", "e5", option])
    assert fetched[4:] == ["reviews_zh", "e5"]


def test_whatever_is_cached_is_verified(monkeypatch):
    table = [{"name": name, "cached": name == "e5"} for name in assets.ASSETS]
    verified = []
    monkeypatch.setattr(commands, "assets_table", lambda: table)
    monkeypatch.setattr(commands, "asset_path", lambda name, verify: verified.append((name, verify)))
    main(["assets", "--verify"])
    assert ("e5", True) in verified and ("reviews_zh", True) not in verified


def test_unknown_asset_lists_the_known_ones(capsys):
    assert main(["assets", "bert"]) == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ("'bert'", *assets.ASSETS))


def test_unknown_benchmark_lists_the_known_ones(capsys):
    assert main(["bench", "nothing"]) == 1
    assert "training" in capsys.readouterr().err


def test_train_prints_metrics_and_writes_the_history(tmp_path, capsys):
    rows = "\n".join(f"{word} film number {i},{label}" for i in range(30) for word, label in (("good", 1), ("bad", 0)))
    (tmp_path / "films.csv").write_text(f"review,stars\n{rows}\n")
    arguments = ["--csv", str(tmp_path / "films.csv"), "--text", "review", "--label", "stars", "--epochs", "1"]
    history = tmp_path / "history.csv"
    assert main(["train", *arguments, "--history", str(history), "--save", str(tmp_path / "run.pt")]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert "loss" in history.read_text().splitlines()[0]
    assert (tmp_path / "run.pt").stat().st_size > 0


@pytest.mark.parametrize(
    ("wrong", "said"), [(["--lr", "0"], "lr"), (["--precision", "fp8"], "fp8"), (["--csv", "none.csv"], "none.csv")]
)
def test_train_refuses_bad_input_in_words(wrong, said, capsys):
    assert main(["train", "--n-train", "64", *wrong]) == 1
    error = capsys.readouterr().err
    assert error.startswith("finetune-lessons: ") and said in error
