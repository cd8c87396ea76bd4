"""What is done is kept, whatever becomes of the file; and an exercise that is right never fails for it."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from finetune_lessons.exercises import progress
from finetune_lessons.exercises.adapters import check_adapter_parameters
from finetune_lessons.exercises.multitask import check_best_uncertainty
from finetune_lessons.lab.notebooks.course import PROGRESS

NBS = Path(__file__).parents[2] / "nbs"


@pytest.fixture
def file(tmp_path, monkeypatch):
    file = tmp_path / "of mine" / "progress.json"
    monkeypatch.setenv(PROGRESS, str(file))
    return file


def count(d, b, n):
    return n * (2 * d * b + b + d)


def test_a_pass_is_kept_and_counted(file):
    assert "passes all 3 cases" in repr(check_adapter_parameters(count))
    assert repr(check_adapter_parameters(count)).endswith(" 1 of 6 exercises of this lesson done.")
    assert not check_adapter_parameters(lambda d, b, n: 1)
    assert json.loads(file.read_text()) == {"21": [1]}


def test_what_was_done_stays(file):
    file.parent.mkdir()
    file.write_text('{"32": [1, 5], "11": [2]}')
    assert check_best_uncertainty(lambda L: progress and __import__("math").log(2 * L)).message.endswith(
        "3 of 6 exercises of this lesson done."
    )
    assert json.loads(file.read_text()) == {"32": [1, 2, 5], "11": [2]}


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"21": 3}', '{"21": ["one"]}', "\0"])
def test_a_file_that_is_damaged_counts_as_empty(file, content):
    file.parent.mkdir()
    file.write_text(content)
    assert repr(check_adapter_parameters(count)).endswith("1 of 6 exercises of this lesson done.")


def test_a_folder_that_cannot_be_written_fails_no_check(file):
    file.parent.write_text("a file where the folder should be")
    found = check_adapter_parameters(count)
    assert found and repr(found).endswith("any size).") is False and "exercises of this lesson" not in repr(found)


def test_nothing_is_kept_where_the_variable_is_empty(monkeypatch, tmp_path):
    monkeypatch.setenv(PROGRESS, "")
    assert progress.progress_file() is None
    assert "exercises of this lesson" not in repr(check_adapter_parameters(count))


def test_without_the_variable_it_is_in_the_users_folder(monkeypatch):
    monkeypatch.delenv(PROGRESS)
    assert progress.progress_file().parts[-2:] == ("finetune_lessons", "progress.json")


def test_two_kernels_at_once_lose_nothing(file):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: progress.record(i % 4, i), range(40)))
    assert sum(map(len, json.loads(file.read_text()).values())) == 40
    assert [path.name for path in file.parent.iterdir() if not path.name.endswith(".lock")] == ["progress.json"]


@pytest.mark.parametrize("path", sorted(NBS.glob("*/[0-9][0-9]_*.ipynb")), ids=lambda path: path.stem)
def test_the_number_of_an_exercise_is_that_of_the_lesson(path, file):
    number, name = path.stem.split("_", 1)
    module = import_module(f"finetune_lessons.exercises.{name}")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    in_lesson = [check for source in cells for check in module.__all__ if f"\n{check}(" in source]
    assert in_lesson == module.__all__
    assert module.exercise.lesson == int(number) and module.exercise.count == len(in_lesson)
