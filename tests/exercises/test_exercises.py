"""Every check says yes to the lesson's solution, and names what is wrong with the stub and with the usual mistakes."""

import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

from finetune_lessons.exercises.check import Verdict
from finetune_lessons.exercises.cross_entropy import check_cross_entropy

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


WRONG = [
    pytest.param(*entry, id=f"{path.stem}-{i}")
    for path in sorted((Path(__file__).parent / "wrong_answers").glob("[!_]*.py"))
    for i, entry in enumerate(import_module(f"wrong_answers.{path.stem}").WRONG, 1)
]


@pytest.mark.parametrize(("check", "learner", "names"), WRONG)
def test_a_usual_mistake_is_named_with_both_numbers(check, learner, names):
    found = check(learner)
    assert not found
    assert names in repr(found)
    assert re.search(r": .+, expected .+", repr(found))


@pytest.mark.parametrize(
    ("learner", "says"),
    [
        (lambda z, y: None, "returned None"),
        (lambda z, y: "2.3", "returned a str"),
        (lambda z, y: z, "shape (6, 4); expected ()"),
        (lambda z, y: z.nonsense, "AttributeError"),
        (lambda z: z, "TypeError"),
        (lambda z, y: 17.0, "the answer is 17, expected"),
    ],
)
def test_any_answer_gets_a_sentence(learner, says):
    assert says in repr(check_cross_entropy(learner))


def test_a_check_does_not_let_the_learner_change_its_inputs():
    def greedy(z, y):
        z.zero_()
        y.zero_()
        return F.cross_entropy(z, y)

    first, second = check_cross_entropy(greedy), check_cross_entropy(greedy)
    assert not first and repr(first) == repr(second)
