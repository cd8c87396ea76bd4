"""Checks of the learner's functions, which say what is wrong: each knows the right answer and the usual mistakes."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


@dataclass(frozen=True)
class Verdict:
    "What a check found. It shows as its message, and is true when the function is right."

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.message


def check(
    learner: Function,
    cases: Mapping[str, tuple],  # what the case is about -> the arguments
    solution: Function,  # called with the same arguments; returns a number or a tensor
    mistakes: Mapping[str, Function],  # "your loss ..." -> the function that makes this mistake
    tolerance: float = 1e-4,
) -> Verdict:
    "Call the learner's function on every case, and say of the first wrong answer what it is and why, if that is known."
    for about, arguments in cases.items():
        expected = torch.as_tensor(call(solution, arguments))
        try:
            got = call(learner, arguments)
        except NotImplementedError:
            return Verdict(False, f"Not yet: `{learner.__name__}` still waits for you to write it.")
        except Exception as error:  # whatever the learner's code raises is the verdict
            return Verdict(False, f"Not yet: with {about}, `{learner.__name__}` raised {type(error).__name__}: {error}")
        if problem := _problem(got, expected, arguments, mistakes, tolerance):
            return Verdict(False, f"Not yet: with {about}, {problem}")
    return Verdict(True, f"Right: `{learner.__name__}` passes all {len(cases)} cases ({', '.join(cases)}).")


def call(function: Function, arguments: tuple) -> Any:
    "With arguments of its own, which it may change: tensors, modules."
    return function(*deepcopy(arguments))


def _problem(got: Any, expected: Tensor, arguments: tuple, mistakes: Mapping[str, Function], tolerance: float) -> str:
    if got is None:
        return "your function returned None: is there a `return`?"
    if not isinstance(got, (Tensor, int, float)):
        return f"your function returned a {type(got).__name__}; expected a number or a tensor"
    got = torch.as_tensor(got).detach()
    if got.shape != expected.shape:
        return f"the answer has shape {tuple(got.shape)}; expected {tuple(expected.shape)}"
    if _close(got, expected, tolerance):
        return ""
    for sentence, mistaken in mistakes.items():
        if _close(got, torch.as_tensor(call(mistaken, arguments)), tolerance):
            return f"{sentence}: {_short(got)}, expected {_short(expected)}"
    return f"the answer is {_short(got)}, expected {_short(expected)}"


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), tolerance, tolerance, equal_nan=True)


def _short(value: Tensor) -> str:
    numbers = [f"{x:.4g}" for x in value.flatten()[:4].tolist()]
    return numbers[0] if value.ndim == 0 else f"[{', '.join(numbers)}{', ...' if value.numel() > 4 else ''}]"


def random_tensor(*shape: int, seed: int = 0, size: float = 3.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
