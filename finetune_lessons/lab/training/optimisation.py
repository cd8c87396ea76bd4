"""How gradients move parameters: the optimizer and its groups, the learning rate, clipping, the loss scaler."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune_lessons.lab.training.schedules import SCHEDULES
from finetune_lessons.lab.training.trained import parameters_by_name

OptimizerFactory = Callable[..., torch.optim.Optimizer]


def make_optimizer(
    factory: OptimizerFactory | None,  # factory(groups, lr=lr); None: AdamW
    model: torch.nn.Module,
    loss: Any,  # a Module's parameters are trained too, at the rate `loss.lr` if it has one
    lr: float,
    weight_decay: float,  # of matrices only
) -> torch.optim.Optimizer:
    "Frozen parameters are in it too: it skips them until somebody unfreezes them."
    if factory is not None and not callable(factory):
        raise ValueError(
            "optimizer is made by the run: pass a function such as torch.optim.SGD or "
            "lambda groups, lr: torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))"
        )
    of_loss = list(loss.parameters()) if isinstance(loss, torch.nn.Module) else []
    if not any(p.requires_grad for p in [*model.parameters(), *of_loss]):
        raise ValueError("no parameter of the model requires a gradient: there is nothing to train")
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if of_loss:
        groups.append({"params": of_loss, "weight_decay": 0.0, "lr": getattr(loss, "lr", None) or lr})
    optimizer = factory(groups, lr=lr) if factory else _adamw(groups, lr)
    if any(group.get("lr_scale", 1) != 1 for group in optimizer.param_groups):
        raise ValueError(
            "the optimizer's groups have lr_scale, which only the schedulers of timm multiply by: "
            'before the optimizer is made, set group["lr"] = lr * group.pop("lr_scale") in each'
        )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _adamw(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    "In one kernel, where torch has it for the device of the parameters."
    try:
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(groups, lr=lr)


@contextmanager
def training_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """In the block the model has the weights at which an optimizer takes its gradients, outside those to use.

    They are others for one that has `train()` and `eval()`, such as schedule-free AdamW, and the same for all the rest.
    """
    train, use = getattr(optimizer, "train", None), getattr(optimizer, "eval", None)
    if not callable(train) or not callable(use):
        yield
        return
    train()
    try:
        yield
    finally:
        use()


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    "Of losses in fp16, whose small gradients would round to zero."
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def without_notes(scaler: torch.amp.GradScaler, precision: str, device: torch.device) -> torch.amp.GradScaler:
    "The scaler with its scale, and without what an interrupted step left in it."
    if not scaler.is_enabled():
        return scaler
    fresh = make_scaler(precision, device)
    fresh.load_state_dict(scaler.state_dict())
    return fresh


class Schedule:
    "The learning rate's factor at each step: a climb from 0, then the named way down; anew for each part of the run."

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        name: str,  # a key of SCHEDULES
        warmup: float,  # share of a part's steps in which the rate climbs
    ):
        self._optimizer, self._name, self._warmup = optimizer, name, warmup
        self._parts: list[tuple[int, Callable[[int], float]]] = []  # first step, factor of a step from there

    def add(self, start: int, end: int) -> None:
        "A part of the run, from the step `start` up to `end`."
        steps = end - start
        schedule, warmup = SCHEDULES[self._name], round(self._warmup * steps)
        self._parts.append((start, lambda step: schedule(step, steps, warmup)))

    def set_rate(self, index: int) -> float:
        "Give every parameter group its rate for the step, one added on the way too; returns that of the first."
        for group in self._optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.factor(index)
        return self._optimizer.param_groups[0]["lr"]

    def factor(self, index: int) -> float:
        "What the peak rates are multiplied by at the step."
        start, factor = next(part for part in reversed(self._parts) if part[0] <= index)
        return factor(index - start)


def trainable_parameters(
    learner: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> dict[str, torch.nn.Parameter]:
    "By name. Raises ValueError for one that the optimizer does not know, or that is not float32."
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = {name: p for name, p in parameters_by_name(learner).items() if p.requires_grad}
    if unknown := [name for name, p in named.items() if id(p) not in known]:
        raise ValueError(
            f"the optimizer does not know {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}: "
            "change the model before you make the Run, or make a new Run"
        )
    if half := [name for name, p in named.items() if p.dtype != torch.float32]:
        raise ValueError(
            f"trainable parameters must be float32, but {half[0]} is {named[half[0]].dtype}: "
            "load the model with dtype=torch.float32; precision= says what is computed in half precision"
        )
    return named


def clip(model: torch.nn.Module, max_norm: float) -> torch.Tensor:
    "Scale the model's gradients down to `max_norm`; returns their norm before that."
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.nn.utils.clip_grad_norm_(trained, max_norm)


def diverged(loss: float, grad_norm: float, scaler: torch.amp.GradScaler) -> bool:
    "Whether a step must not be taken. An infinite gradient in fp16 first has the scaler try smaller scales."
    scaled = scaler.is_enabled() and scaler.get_scale() > 1
    return not (math.isfinite(loss) and (math.isfinite(grad_norm) or scaled))
