"""Training on trial: a few steps on a few rows of a run, after which everything is as it was."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn

from finetune_lessons.lab.models.modes import buffers_kept, mode
from finetune_lessons.lab.training.batches import Batch
from finetune_lessons.lab.training.interrupts import uninterrupted
from finetune_lessons.lab.training.optimisation import make_scaler, training_weights
from finetune_lessons.lab.training.sampling import JointRows, Rows
from finetune_lessons.lab.training.trained import parameters_by_name

STEPS = 16  # of one trial
ROWS = 16  # of one of its batches
BATCHES = 2  # at least; one of each task where there are more


@dataclass(frozen=True)
class Outcome:
    "What a trial did to the loss of its own rows, without dropout."

    rate: float
    before: float
    after: float
    texts: int

    @property
    def fall(self) -> float:
        "As a share of the loss before; below zero where it rose."
        if not math.isfinite(self.after):
            return -math.inf
        return (self.before - self.after) / max(abs(self.before), 1e-12)

    @property
    def change(self) -> str:
        return f"from {self.before:.3g} to {self.after:.3g} at lr={self.rate:.3g}"

    def __str__(self) -> str:
        return f"{STEPS} steps take the loss of {self.texts} training texts {self.change}"


class Trial:
    "A few rows of the run's training data, and what becomes of their loss."

    def __init__(self, run: Any):
        self.run = run
        chosen = _few(run)
        self.batches = [run.splits["train"].load(rows, run.device) for rows in chosen]
        self.texts = sum(len(rows.index) for rows in chosen)
        self.trained = [p for p in run.learner.parameters() if p.requires_grad]
        self.peak = run.optimizer.param_groups[0]["initial_lr"] or run.lr  # a loss may have a rate of its own
        self.before = self.loss()

    def loss(self) -> float:
        "The mean over the batches, in evaluation."
        values = [self.evaluated(batch, self.run.objective.total) for batch in self.batches]
        return sum(values) / len(values)

    def evaluated(self, batch: Batch, function: Callable[[nn.Module, Batch], Any]) -> Any:
        "function(model, batch), without dropout and gradients."
        run = self.run
        with torch.no_grad(), mode(run.learner, training=False), run.computing(run.learner), run.computing.autocast():
            return function(run.model, self._fresh(batch))

    def gradients(self) -> dict[str, float]:
        "The norm of the gradient of each trained parameter, over the batches; 0 where none arrives."
        with self._restored():
            for batch in self.batches:
                self._backward(batch, lambda loss: loss, training=True)
            named = parameters_by_name(self.run.learner).items()
            return {name: float(p.grad.norm()) if p.grad is not None else 0.0 for name, p in named if p.requires_grad}

    def train(
        self,
        factor: float = 1.0,  # of the run's peak rates
        clipped: bool = True,
        dropout: bool = True,
    ) -> Outcome:
        "Some steps at one rate, after a short warm-up."
        run, limit = self.run, self.run.config["max_grad_norm"] if clipped else math.inf
        with self._restored():
            optimizer, scaler = _like(run.optimizer, factor), make_scaler(run.precision, run.device)
            rates = [group["lr"] for group in optimizer.param_groups]
            with training_weights(optimizer):
                for step in range(STEPS):
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * min(1.0, (step + 1) / 4)
                    optimizer.zero_grad()
                    self._backward(self.batches[step % len(self.batches)], scaler.scale, dropout)
                    scaler.unscale_(optimizer)
                    norm = float(torch.nn.utils.clip_grad_norm_(self.trained, limit))
                    if not math.isfinite(norm) and not scaler.is_enabled():
                        return Outcome(self.peak * factor, self.before, math.nan, self.texts)
                    scaler.step(optimizer)
                    scaler.update()
            return Outcome(self.peak * factor, self.before, self.loss(), self.texts)

    def _backward(self, batch: Batch, scaled: Callable[[torch.Tensor], torch.Tensor], training: bool) -> None:
        run = self.run
        with torch.enable_grad(), mode(run.learner, training), run.computing(run.learner):
            with run.computing.autocast():
                loss = run.objective.parts(run.model, self._fresh(batch))["loss"]
            scaled(loss).backward()

    def _fresh(self, batch: Batch) -> Batch:
        "With the epoch, as a run gives it; a loss may change its batch."
        return Batch({**batch, "epoch": self.run.index / self.run.steps_per_epoch})

    @contextmanager
    def _restored(self) -> Iterator[None]:
        "What the block does to parameters, gradients, buffers and random numbers is undone at its end."
        kept = [(p, p.detach().clone(), p.grad) for p in self.trained]
        with self.run.random_state.swapped_in(), buffers_kept(self.run.learner, unless=lambda: False):
            try:
                for parameter in self.trained:
                    parameter.grad = None
                yield
            finally:
                with uninterrupted(), torch.no_grad():
                    for parameter, value, gradient in kept:
                        parameter.copy_(value)
                        parameter.grad = gradient


def _few(run: Any) -> list[Rows | JointRows]:
    "Some rows of the first steps that the run would take; of several tasks, a batch of each."
    train, settings = run.splits["train"], run.config
    planned = train.epoch(settings["batch_size"], settings["seed"], 0, settings["sampling"])
    if len(train.tasks) > 1 and not isinstance(planned[0], JointRows):
        planned = list({rows.task: rows for rows in reversed(planned)}.values())
        return [_cut(rows) for rows in planned]
    return [_cut(rows) for rows in planned[:BATCHES]]


def _cut(rows: Rows | JointRows) -> Rows | JointRows:
    if isinstance(rows, JointRows):
        return JointRows(tuple(Rows(part.task, part.index[:ROWS]) for part in rows.by_task))
    return Rows(rows.task, rows.index[:ROWS])


def _like(optimizer: torch.optim.Optimizer, factor: float) -> torch.optim.Optimizer:
    "A new one of the same kind and settings for what is trained, at another rate; AdamW where it cannot be made anew."
    kind, groups = type(optimizer), []
    taken = signature(kind.__init__).parameters
    for group in optimizer.param_groups:
        kept = {name: value for name, value in group.items() if name in taken and name != "params"}
        trained = [p for p in group["params"] if p.requires_grad]
        if trained:
            groups.append({**kept, "params": trained, "lr": group["initial_lr"] * factor})
    try:
        return kind(groups, **{name: value for name, value in optimizer.defaults.items() if name in taken})
    except Exception:  # a class of somebody's own, with other arguments
        return torch.optim.AdamW(
            [{"params": g["params"], "lr": g["lr"], "weight_decay": g.get("weight_decay", 0.0)} for g in groups]
        )
