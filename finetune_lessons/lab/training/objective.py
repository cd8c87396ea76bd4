"""A loss, and what its mean is over."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from finetune_lessons.lab.training.batches import Batches
from finetune_lessons.lab.training.tasks import Task

Loss = Callable[[Any, dict], "Tensor | dict[str, Tensor]"]


class Objective:
    """What a run makes small: `loss(model, batch)`, a mean, and the number of terms that the mean is over.

    That number is what `loss.terms(batch)` says, if the loss has it: for a mean with weights their sum, for a sum of
    means a dict with the number of each. Such a loss finds the `shares` of its parts in a batch that is a piece of a
    step. Of a `functools.partial` it is `loss.func.terms(batch, **loss.keywords)`. Else the batch's task counts labels.
    """

    def __init__(self, loss: Loss, tasks: Mapping[str, Task]):
        check_loss(loss)
        self.loss, self._tasks, self._counts = loss, tasks, counter(loss)

    def terms(self, batch: dict[str, Any]) -> dict[str, float]:
        "By part of the loss, where it is a sum of means that each have their own; else of the part ''."
        count = self._counts(batch) if self._counts else self._tasks[batch["task"]].terms(batch)
        return count if isinstance(count, dict) else {"": float(count)}

    def check(self, train: Batches, sampling: str | float) -> None:
        "That the loss can count the terms of a batch, and knows what to do with batches of several tasks."
        if sampling == "together" and (len(train.tasks) == 1 or not hasattr(self.loss, "terms")):
            alone = len(train.tasks) == 1
            why = "there is one task" if alone else "this loss does not know what to do with them: use MultiTask"
            raise ValueError(f"sampling='together' makes batches of several tasks, but {why}")
        self.terms(train.load(next(train.in_order(1)), torch.device("cpu")))

    def parts(self, model: torch.nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        "The loss, and its parts where it names some. Raises ValueError for what is no loss, or has no gradient."
        losses = self.loss(model, batch)
        losses = losses if isinstance(losses, dict) else {"loss": losses}
        for name, value in {"loss": None, **losses}.items():
            if not isinstance(value, Tensor) or value.ndim:
                given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ValueError(
                    "loss(model, batch) must return a scalar tensor, or a dict of them with the total as 'loss'; "
                    f"{name!r} is {given}"
                )
        if not losses["loss"].requires_grad:
            raise ValueError("the loss does not depend on any trainable parameter: is everything it uses frozen?")
        return losses

    def total(self, model: torch.nn.Module, batch: dict[str, Any]) -> float:
        value = self.loss(model, batch)
        return float(value["loss"] if isinstance(value, dict) else value)


def check_loss(loss: Any) -> None:
    "Raises ValueError for what cannot be called as loss(model, batch), such as a loss of torch's."
    called = (
        "a loss is called as loss(model, batch), such as classification_loss, or lambda model, batch: "
        "cross_entropy(model(**model_inputs(batch)).logits, batch['labels'])"
    )
    if not callable(loss) or isinstance(loss, type):
        raise ValueError(f"loss is {loss!r}, and that cannot be called; {called}")
    inner = loss.func if isinstance(loss, partial) else loss
    if (getattr(inner, "__module__", None) or "").startswith(("torch.nn.functional", "torch.nn.modules.loss")):
        raise ValueError(f"loss is {_name(inner)}, which takes logits and labels; {called}")
    try:
        taken = signature(loss)
    except (TypeError, ValueError):  # a built-in one, which does not say
        return
    try:
        taken.bind(None, None)
    except TypeError:
        raise ValueError(f"loss is {_name(inner)}{taken}; {called}") from None


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def with_loss(model: torch.nn.Module, loss: Loss, device: torch.device) -> torch.nn.Module:
    "All that learns: the model; with the loss, where that can learn too."
    if not isinstance(loss, torch.nn.Module):
        return model
    return torch.nn.ModuleDict({"model": model, "loss": loss.to(device)})


def counter(loss: Any) -> Callable[[Mapping[str, Any]], Any] | None:
    "The loss's own count of the terms of its mean; None if it has none."
    if hasattr(loss, "terms"):
        return loss.terms
    inner = counter(loss.func) if isinstance(loss, partial) else None
    if inner is None:
        return None
    taken = signature(inner).parameters
    return partial(inner, **{name: value for name, value in loss.keywords.items() if name in taken})
