"""Checks of the learner's functions, which say what is wrong: each knows the right answer and the usual mistakes."""

import secrets
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import wraps
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune_lessons.exercises.blame import line_at_fault
from finetune_lessons.exercises.calls import called
from finetune_lessons.exercises.progress import record

Function = Callable[..., Any]
Check = Callable[[Any], "Verdict"]


@dataclass(frozen=True)
class Verdict:
    "What a check found. It shows as its message, and is true when the function is right."

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.message


class Exercises:
    "Those of one lesson: a decorator of its checks, which stand in their order."

    def __init__(self, lesson: int):
        self.lesson, self.count = lesson, 0

    def __call__(self, check: Check) -> Check:
        self.count += 1
        number = self.count

        @wraps(check)
        def checked(learner: Any) -> Verdict:
            if not callable(learner):
                return Verdict(False, _no_function(check.__name__, learner))
            verdict = check(learner)
            done = record(self.lesson, number) if verdict else 0
            return replace(verdict, message=f"{verdict} {self._counted(done)}") if done else verdict

        return checked

    def _counted(self, done: int) -> str:
        return f"{done} of {self.count} exercises of this lesson done."


def _no_function(check: str, given: Any) -> str:
    what = "None" if given is None else f"a {type(given).__name__}"
    why = "did the cell that defines it run?" if given is None else "leave out the brackets behind its name"
    return f"Not yet: give your function itself, as in {check}(my_function); given is {what}: {why}"


def name_of(function: Any) -> str:
    "Also of a `partial`, or of an object that can be called."
    inner = getattr(function, "func", None)
    if inner is not None and not hasattr(function, "__name__"):
        return name_of(inner)
    return getattr(function, "__name__", type(function).__name__)


class Draw:
    "Numbers that no other call of a check draws, so that no table of answers passes."

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(secrets.randbits(63))

    def __call__(self, *shape: int, size: float = 3.0) -> Tensor:
        "A tensor of random numbers, normally distributed around 0."
        return size * torch.randn(*shape, generator=self._random)

    def whole(self, low: int, high: int) -> int:
        "From low to high, both included."
        return int(torch.randint(low, high + 1, (), generator=self._random))

    def wholes(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self._random)

    def number(self, low: float, high: float) -> float:
        "To four digits behind the point, as one would write it."
        return round(low + (high - low) * float(torch.rand((), generator=self._random)), 4)

    def order(self, n: int) -> Tensor:
        "0 to n - 1, shuffled."
        return torch.randperm(n, generator=self._random)

    def sample(self, probabilities: Tensor) -> Tensor:
        "A class for each row of probabilities: (rows,)."
        return torch.multinomial(probabilities, 1, generator=self._random).squeeze(1)


def check(
    learner: Function,
    cases: Mapping[str, tuple],  # what the case is about -> the arguments
    solution: Function,  # called with the same arguments; returns a number or a tensor
    mistakes: Mapping[str, Function],  # "your loss ..." -> the function that makes this mistake
    tolerance: float = 1e-4,
    *,
    without: Collection[str] = (),  # names of functions, of torch or of a lesson, that are not to be called
    unchanged: Mapping[str, int] = MappingProxyType({}),  # arguments that are to stay as they are: name -> place
) -> Verdict:
    "Call the learner's function on every case, and say of the first wrong answer what it is and why, if that is known."
    name = name_of(learner)
    used: list[str] = []
    for about, arguments in cases.items():
        expected, given = _numbers(call(solution, arguments)), deepcopy(arguments)
        try:
            with called(without, used):
                got = learner(*given)
        except NotImplementedError:
            return Verdict(False, f"Not yet: `{name}` still waits for you to write it.")
        except Exception as error:  # whatever the learner's code raises is the verdict
            raised = f"`{name}` raised {type(error).__name__}: {error}{line_at_fault(error)}"
            return Verdict(False, f"Not yet: with {about}, {raised}")
        problem = _problem(got, expected, arguments, mistakes, tolerance)
        if problem := problem or _changed(given, arguments, unchanged):
            return Verdict(False, f"Not yet: with {about}, {problem}")
    if used:
        return Verdict(False, f"Not yet: the answers are right, but `{name}` calls `{used[0]}`; do without it")
    return Verdict(True, f"Right: `{name}` passes all {len(cases)} cases ({', '.join(cases)}).")


def call(function: Function, arguments: tuple) -> Any:
    "With arguments of its own, which it may change: tensors, modules."
    return function(*deepcopy(arguments))


def _problem(got: Any, expected: Tensor, arguments: tuple, mistakes: Mapping[str, Function], tolerance: float) -> str:
    if got is None:
        return "your function returned None: is there a `return`?"
    if (answer := as_tensor(got)) is None:
        return f"your function returned a {type(got).__name__}; expected a number or a tensor"
    if answer.shape != expected.shape:
        return f"the answer has shape {tuple(answer.shape)}; expected {tuple(expected.shape)}"
    if _close(answer, expected, tolerance):
        return ""
    for sentence, mistaken in mistakes.items():
        if _close(answer, _numbers(call(mistaken, arguments)), tolerance):
            return f"{sentence}: {_short(answer)}, expected {_short(expected)}"
    return f"the answer is {_short(answer)}, expected {_short(expected)}"


def as_tensor(answer: Any) -> Tensor | None:
    "Of a number or numbers in any form: Python's, numpy's, torch's, or lists of these; None for anything else."
    if isinstance(answer, Tensor):
        return answer.detach()
    if isinstance(answer, list | tuple) and answer:
        parts = [as_tensor(part) for part in answer]
        same = all(part is not None and part.shape == parts[0].shape for part in parts)  # type: ignore[union-attr]
        return torch.stack([part.double() for part in parts if part is not None]) if same else None
    if isinstance(answer, int | float | np.generic | np.ndarray):
        array = np.asarray(answer)
        return torch.as_tensor(array.astype(float)) if array.dtype.kind in "biuf" else None
    return None


def _numbers(answer: Any) -> Tensor:
    "Of a solution or a mistake, which give nothing else."
    numbers = as_tensor(answer)
    assert numbers is not None
    return numbers


def _changed(given: tuple, before: tuple, unchanged: Mapping[str, int]) -> str:
    for name, place in unchanged.items():
        now, then = given[place], before[place]
        if not torch.equal(now, then):
            return f"your function changes `{name}` itself: {_short(now)}, expected {_short(then)}; work on a copy"
    return ""


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), tolerance, tolerance, equal_nan=True)


def _short(value: Tensor) -> str:
    numbers = [f"{x:.4g}" for x in value.flatten()[:4].tolist()]
    return numbers[0] if value.ndim == 0 else f"[{', '.join(numbers)}{', ...' if value.numel() > 4 else ''}]"
