"""Every check says yes to what is right, however written, and names what is wrong with the stub and usual mistakes."""

import pickle
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch

from finetune_lessons.exercises.check import Verdict

NOTEBOOKS = sorted((Path(__file__).parents[2] / "nbs").glob("*/[0-9][0-9]_*.ipynb"))
CHECK_CALL = re.compile(r"^(check_\w+)\((\w+)\)$", re.MULTILINE)


def codes(path: Path, solved: bool) -> list[str]:
    "The exercise cells of a notebook, or the solutions hidden in its markdown."
    cells = nbformat.read(path, as_version=4).cells
    if not solved:
        return [c.source for c in cells if c.cell_type == "code" and CHECK_CALL.search(c.source)]
    hidden = [re.findall(r"<summary>Solution</summary>\s*```python\n(.*?)```", c.source, re.DOTALL) for c in cells]
    return [code for found in hidden for code in found]


def verdict(path: Path, code: str) -> Verdict:
    scope = {"torch": torch}
    exec(f"from finetune_lessons.exercises.{path.stem.split('_', 1)[1]} import *\n{code}", scope)
    check, learner = CHECK_CALL.search(code).groups()
    return scope[check](scope[learner])


STUBS = [pytest.param(p, code, id=f"{p.stem}-{i}") for p in NOTEBOOKS for i, code in enumerate(codes(p, False), 1)]
SOLUTIONS = [pytest.param(p, code, id=f"{p.stem}-{i}") for p in NOTEBOOKS for i, code in enumerate(codes(p, True), 1)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_lesson_has_four_exercises_each_with_a_solution(path):
    def checks(solved):
        return [CHECK_CALL.search(code).group(1) for code in codes(path, solved)]

    assert len(checks(False)) >= 4
    assert checks(False) == checks(True)


@pytest.mark.parametrize(("path", "code"), STUBS)
def test_a_stub_does_not_pass(path, code):
    found = verdict(path, code)
    assert not found
    assert "waits for you" in repr(found)


@pytest.mark.parametrize(("path", "code"), SOLUTIONS)
def test_a_solution_passes(path, code):
    assert verdict(path, code), verdict(path, code)


def entries(folder: str, name: str) -> list:
    paths = sorted((Path(__file__).parent / folder).glob("[!_]*.py"))
    found = [(path.stem, getattr(import_module(f"{folder}.{path.stem}"), name)) for path in paths]
    return [pytest.param(*entry, id=f"{stem}-{i}") for stem, of in found for i, entry in enumerate(of, 1)]


RIGHT, WRONG = entries("right_answers", "RIGHT"), entries("wrong_answers", "WRONG")


@pytest.mark.parametrize(("check", "learner"), RIGHT)
def test_a_right_answer_passes_however_it_is_written(check, learner):
    assert check(learner), check(learner)


def test_every_exercise_has_a_right_answer_that_is_written_otherwise():
    checked = {check.__name__ for check, _ in (parameters.values for parameters in RIGHT)}
    assert checked == {CHECK_CALL.search(code).group(1) for path in NOTEBOOKS for code in codes(path, True)}


@pytest.mark.parametrize(("check", "learner"), RIGHT)
def test_no_table_of_answers_passes(check, learner):
    table = {}

    def taking_notes(*given):
        key = pickle.dumps(given)
        table[key] = learner(*given)
        return table[key]

    def from_notes(*given):
        return table.get(pickle.dumps(given))

    assert check(taking_notes)
    assert not check(from_notes)


@pytest.mark.parametrize(("check", "learner", "names"), WRONG)
def test_a_usual_mistake_is_named_with_both_numbers(check, learner, names):
    found = check(learner)
    assert not found
    assert names in repr(found)
    assert re.search(r": .+, expected .+", repr(found))


