"""Which rows of a batch a module has to do with, while one batch mixes several methods."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_rows = threading.local()


def chosen_rows(module: nn.Module) -> list[bool] | None:
    "Whether the module counts, a row; None: it counts in all."
    return getattr(_rows, "chosen", {}).get(module)


@contextmanager
def choosing(rows: Mapping[nn.Module, list[bool]]) -> Iterator[None]:
    "Inside, and in this thread, each of these modules counts in its rows only."
    before = getattr(_rows, "chosen", {})
    _rows.chosen = {**before, **rows}
    try:
        yield
    finally:
        _rows.chosen = before


def blended(output: Any, changed: Any, strength: float, rows: list[bool] | None) -> Any:
    "So much of the change of a module's output, (batch, ...) or a tuple of such; in some rows, where some are chosen."
    if changed is output or (strength == 1 and rows is None):
        return changed
    if isinstance(output, tuple):
        return tuple(blended(one, other, strength, rows) for one, other in zip(output, changed, strict=True))
    if strength != 1:
        changed = output + strength * (changed - output)
    return changed if rows is None else torch.where(_mask(rows, output), changed, output)


def _mask(rows: list[bool], output: Tensor) -> Tensor:
    "(batch, 1, ...): beams of a text lie side by side."
    beams, rest = divmod(len(output), len(rows)) if output.ndim and rows else (0, 1)
    if rest or (output.ndim < 3 and beams != 1):
        raise ValueError(f"methods were named for {len(rows)} rows; a module puts out {tuple(output.shape)}")
    mask = torch.tensor(rows, device=output.device).repeat_interleave(beams)
    return mask.view(-1, *[1] * (output.ndim - 1))
