"""Modules that compute something else for a while."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[..., Any]


@contextmanager
def replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    "Inside, each module computes this instead of its own forward."
    with ExitStack() as undo:
        for module, forward in forwards.items():
            undo.callback(_restore, module, vars(module).get("forward"))
            vars(module)["forward"] = forward
        yield


def reach_the_end(
    forwards: Mapping[nn.Module, Forward],  # some of which put out NaN
    call: Callable[[], list[Tensor]],  # what the model puts out
) -> bool:
    "Whether what is no number in these modules' outputs reaches the model's: whether it depends on them."
    with torch.no_grad(), replaced(forwards):
        return not all(x.isfinite().all() for x in call())


def always(output: Any) -> Forward:
    return lambda *_, **__: output


def _restore(module: nn.Module, forward: Forward | None) -> None:
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward
