"""Cases that tell: on which one mistake cannot be taken for another."""

from collections.abc import Callable, Collection, Iterable
from itertools import combinations

import torch

from finetune_lessons.exercises.check import Function, as_tensor, call

TRIES = 10_000


def telling(
    make: Callable[[], tuple],  # draws the arguments of a case
    solution: Function,
    mistakes: Iterable[Function],
    apart: float = 0.002,  # answers that differ by less, of themselves or of 1, count as alike
) -> tuple:
    "The arguments of a case on which no two of the answers are alike; RuntimeError where ten thousand draws hold none."
    functions = [solution, *mistakes]
    for _ in range(TRIES):
        case = make()
        if _all_differ([as_tensor(call(function, case)) for function in functions], apart):
            return case
    raise RuntimeError(f"No case of {TRIES} tells these {len(functions)} functions apart; let it draw other cases.")


def _all_differ(answers: Collection[torch.Tensor | None], apart: float) -> bool:
    return not any(_alike(a, b, apart) for a, b in combinations(answers, 2))


def _alike(a: torch.Tensor | None, b: torch.Tensor | None, apart: float) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), apart, apart, equal_nan=True)
