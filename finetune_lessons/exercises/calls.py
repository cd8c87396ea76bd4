"""Which functions a learner's function calls."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch.overrides import TorchFunctionMode, resolve_name

AUTOGRAD = ("backward", "grad")
LOSSES = ("cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss_nd", "log_softmax")


@contextmanager
def called(
    without: Collection[str],  # names of functions
    used: list[str],  # takes those that the block calls, of torch; and the function of a lesson that calls torch
) -> Iterator[None]:
    with _Watch(without, used) if without else nullcontext():
        yield


class _Watch(TorchFunctionMode):
    def __init__(self, without: Collection[str], used: list[str]):
        super().__init__()
        self._without, self._used = without, used

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = resolve_name(func) or f"{getattr(func, '__module__', '')}.{getattr(func, '__name__', '')}"
        if name.rpartition(".")[2] in self._without:
            self._used.append(name)
        elif lesson := _lessons_function():
            self._used.append(lesson)
        return func(*args, **(kwargs or {}))


def _lessons_function() -> str:
    "The function of a lesson that is under way, if there is one."
    frame = sys._getframe(2)
    while frame and frame.f_globals.get("__name__") != "finetune_lessons.exercises.check":
        module = frame.f_globals.get("__name__", "")
        if module.startswith("finetune_lessons.") and not module.startswith("finetune_lessons.exercises."):
            return f"{module}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
