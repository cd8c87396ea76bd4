"""The gradients of one step, in pieces that add up to those of the whole."""

from collections.abc import Callable

import torch
from torch import Tensor

from finetune_lessons.lab.training.batches import Batch
from finetune_lessons.lab.training.processes import Processes

Terms = dict[str, float]  # part of the loss -> what its mean is over


def accumulate(
    batches: list[Batch],  # this process's pieces of the step
    terms: list[Terms],  # of each
    losses: Callable[[Batch], dict[str, Tensor]],  # the loss, and its parts
    scaler: torch.amp.GradScaler,
    processes: Processes,
) -> dict[str, Tensor]:
    """Gradients of the mean loss over all terms of the step, in all processes; the loss and its parts.

    One process leaves these on the device; several wait for them, and for each other's terms.

    Where parts of the loss have terms of their own, each batch gets their `shares`: how much more or less a part counts
    than the batch itself. Empty where no process has a term.
    """
    whole = _summed([part for parts in processes.gathered(terms) for part in parts])
    total: dict[str, Tensor] = {}
    for batch, own in zip(batches, terms, strict=True):
        if any(own.values()):
            counts = sum(own.values()) / sum(whole.values())
            if len(whole) > 1 and counts < 1:
                batch["shares"] = {part: n / whole[part] / counts for part, n in own.items() if n}
            found = losses(batch)
            scaler.scale(found["loss"] * counts).backward()
            for name, value in found.items():
                total[name] = total.get(name, 0) + value.detach().float().to(processes.device) * counts
    if processes.count == 1:
        return {name: total[name] for name in sorted(total)}
    values = torch.stack(list(total.values())).tolist() if total else []
    summed = _summed(processes.gathered(dict(zip(total, values, strict=True))))
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in summed.items()}


def _summed(parts: list[dict[str, float]]) -> dict[str, float]:
    "By name; some may have no number for one."
    names = sorted({name for part in parts for name in part})
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
