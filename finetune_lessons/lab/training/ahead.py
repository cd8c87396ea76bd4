"""Steps that a GPU has not finished when the next one is begun, and going back where one of them could not be taken."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune_lessons.lab.training.batches import Batch
from finetune_lessons.lab.training.faults import NonFiniteLoss, not_finite
from finetune_lessons.lab.training.optimisation import diverged
from finetune_lessons.lab.training.processes import Processes
from finetune_lessons.lab.training.sampling import JointRows, Rows
from finetune_lessons.lab.training.steps import Numbers

Buffers = list[tuple[Tensor, Tensor]]  # each, and as it was before the step


@dataclass(eq=False)
class Attempt:
    "A step whose numbers may still be on their way."

    rows: Rows | JointRows
    batches: list[Batch]
    lr: float
    numbers: Numbers
    before: tuple[int, set[str], dict[str, Any]]  # the run's index, what it has trained, and its random state

    def fault(self, scaler: torch.amp.GradScaler) -> NonFiniteLoss | None:
        "Why the step cannot be taken, if it cannot; waits for its numbers."
        found = self.numbers.read()
        loss, grad_norm = found["loss"], found["grad_norm"]
        if not diverged(loss, grad_norm, scaler):
            return None
        return not_finite(self.before[0], self.rows, loss, grad_norm, self.lr, self.batches)


class Ahead:
    """Steps that nobody has waited for yet.

    From the first on whose loss or gradient is not finite, the device itself skips every update: weights, optimizer
    and buffers stay as they were before it. Who reads that goes back to before it, and begins with a new `Ahead`.
    """

    def __init__(self) -> None:
        self.unread: deque[Attempt] = deque()
        self._stopped: Tensor | None = None

    def take(
        self, attempt: Attempt, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, buffers: Buffers
    ) -> None:
        "Update the weights on the device, unless this step or one before it is not finite."
        stopped = ~attempt.numbers.are_finite()
        self._stopped = stopped if self._stopped is None else self._stopped | stopped
        optimizer.found_inf = self._stopped.float()  # type: ignore[attr-defined]  # as a GradScaler says it
        try:
            scaler.step(optimizer)
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
        for buffer, before in buffers:
            buffer.copy_(torch.where(self._stopped, before, buffer))
        self.unread.append(attempt)


def can_go_ahead(
    device: torch.device, processes: Processes, precision: str, optimizer: torch.optim.Optimizer
) -> bool:
    """Whether steps need no wait: on one CUDA device, with an optimizer that skips an update where the device says so,
    as torch's fused ones do. A loss scaler (fp16) and several processes have to know each step's numbers.
    """
    skips = getattr(optimizer, "_step_supports_amp_scaling", False)
    return device.type == "cuda" and processes.count == 1 and precision != "fp16" and skips
