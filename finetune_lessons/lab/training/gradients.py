"""The gradients of one step, in pieces that add up to those of the whole."""

from collections.abc import Callable

import torch
from torch import Tensor

from finetune_lessons.lab.training.batches import Batch
from finetune_lessons.lab.training.processes import Processes


def accumulate(
    batches: list[Batch],  # this process's pieces of the step
    terms: list[float],  # that the mean loss of each is over
    losses: Callable[[Batch], dict[str, Tensor]],  # the loss, and its parts
    scaler: torch.amp.GradScaler,
    processes: Processes,
) -> dict[str, float]:
    """Gradients of the mean loss over all terms of the step, in all processes; the loss and its parts.

    Empty where no process has a term.
    """
    all_terms = float(processes.summed(torch.tensor(sum(terms), dtype=torch.float64)))
    total: dict[str, Tensor] = {}
    for batch, n in zip(batches, terms, strict=True):
        if n:
            found = losses(batch)
            scaler.scale(found["loss"] * (n / all_terms)).backward()
            for name, value in found.items():
                total[name] = total.get(name, 0) + value.detach().float().to(processes.device) * (n / all_terms)
    values = torch.stack(list(total.values())).tolist() if total else []
    parts = processes.gathered(dict(zip(total, values, strict=True)))
    names = sorted({name for part in parts for name in part})  # some may have had no example in this step
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
