"""What a run reports of each step."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor


class Numbers:
    "What loss, parts and gradient of a step came to: on a GPU they are on their way, and only `read` waits for them."

    def __init__(
        self,
        losses: dict[str, Tensor],  # "loss", and its parts
        grad_norm: Tensor,
    ):
        self._parts = [name for name in losses if name != "loss"]
        self._tensors = [losses["loss"], *(losses[part] for part in self._parts), grad_norm]
        self._read: dict[str, Any] | None = None
        if grad_norm.is_cuda:
            self._copy = torch.stack([x.float() for x in self._tensors]).to("cpu", non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def are_finite(self) -> Tensor:
        "Whether loss and gradient are, said on their own device; before they are read."
        return self._tensors[0].isfinite() & self._tensors[-1].isfinite()

    def read(self) -> dict[str, Any]:
        "The fields of a `Step`."
        if self._read is None:
            if self._tensors[-1].is_cuda:
                self._copied.synchronize()
                self._tensors = list(self._copy)
            loss, *parts, grad_norm = (x.item() for x in self._tensors)
            self._read = {"loss": loss, "parts": dict(zip(self._parts, parts, strict=True)), "grad_norm": grad_norm}
            self._tensors.clear()
        return self._read


@dataclass(frozen=True, slots=True)
class Step:
    "What happened in one optimizer step. On a GPU, reading its loss, parts or gradient waits until they are computed."

    index: int  # number of the step, from 0
    epoch: int  # from 0
    loss: float  # mean over the step's examples (or tokens), before the update
    parts: dict[str, float]  # the loss's parts, where it names some
    lr: float  # of the first parameter group
    grad_norm: float  # over all trained parameters, before clipping
    tokens: int  # without padding
    seconds: float  # without evaluation
    metrics: dict[str, float] = field(default_factory=dict)  # of the validation split, at the end of an epoch

    def row(self) -> dict[str, float]:
        "Its numbers by name, flat: the fields, the loss's parts, and the metrics as `validation/...`."
        return {name: getattr(self, name) for name in NUMBERS} | self.parts | prefixed("validation", self.metrics)

    if not TYPE_CHECKING:  # else any name would be there

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            if isinstance(value, Numbers):
                value = value.read()[name]
                object.__setattr__(self, name, value)
            return value


NUMBERS = [f.name for f in fields(Step) if f.name not in ("parts", "metrics")]


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}" if prefix else name: value for name, value in metrics.items()}
