"""One optimizer step of a run: forward and backward passes, the update, and going back where it cannot be taken."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from finetune_lessons.lab.models.modes import buffers_kept, mode
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.ahead import Ahead, Attempt, Buffers
from finetune_lessons.lab.training.batches import Batch, Batches, Plan, count_tokens
from finetune_lessons.lab.training.best import Best
from finetune_lessons.lab.training.faults import nothing_to_learn
from finetune_lessons.lab.training.gradients import accumulate
from finetune_lessons.lab.training.interrupts import uninterrupted
from finetune_lessons.lab.training.objective import Objective
from finetune_lessons.lab.training.optimisation import Schedule, clip, trainable_parameters, training_weights
from finetune_lessons.lab.training.optimisation import without_notes
from finetune_lessons.lab.training.precision import Computing
from finetune_lessons.lab.training.processes import Processes
from finetune_lessons.lab.training.random_state import RandomState
from finetune_lessons.lab.training.sampling import JointRows, Rows
from finetune_lessons.lab.training.steps import Numbers, Step


class Stepping:
    """What of a `Run` takes its steps.

    On a CPU each step is checked before its update. On a GPU (where `can_go_ahead` says so) the processor begins the
    next step while one is computed, and the device skips what is not finite; the error comes with the next step, or
    before the run evaluates, saves or ends, whichever is first, and finds the run as it was before the faulty step.
    """

    config: dict[str, Any]
    processes: Processes
    device: torch.device
    computing: Computing
    precision: str
    splits: dict[str, Batches]
    model: torch.nn.Module
    learner: torch.nn.Module  # the model, with the loss where that can learn too
    objective: Objective
    cache: ActivationCache | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    random_state: RandomState
    steps_per_epoch: int
    best: Best | None
    trained: set[str]
    index: int
    steps: list[Step]
    _compiled: Any  # the model, or what torch.compile made of it
    _ahead: Ahead | None  # None: each step is waited for
    _plan: Plan
    _schedule: Schedule

    def _train_step(self, buffers: Buffers) -> None:
        started, rows = time.perf_counter(), self._plan[self.index]
        batches = self._pieces(rows)
        lr = self._schedule.set_rate(self.index)
        parameters = trainable_parameters(self.learner, self.optimizer)
        losses = self._backward(batches)
        if not losses:
            raise nothing_to_learn(self.index, rows)
        numbers: Any = Numbers(losses, self._clip(list(parameters.values())))
        before = self.index, set(self.trained), self.random_state.state
        attempt = Attempt(rows, batches, self.config["lr"], numbers, before)
        if not self._ahead and (fault := attempt.fault(self.scaler)):
            raise fault
        tokens = int(self.processes.summed(torch.tensor(sum(map(count_tokens, batches)))))
        if self.best:
            self.best.before_training(set(parameters))
        with uninterrupted():
            if self._ahead:
                self._ahead.take(attempt, self.scaler, self.optimizer, buffers)
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            epoch, seconds = self.index // self.steps_per_epoch, time.perf_counter() - started
            self.steps.append(Step(self.index, epoch, numbers, numbers, lr, numbers, tokens, seconds))
            self.index += 1
            self.trained.update(parameters)
            self.random_state.keep()
        self._read_steps(behind=1)

    def _settle(self) -> None:
        "Wait for the steps that a GPU is still computing, and count the time. Raises NonFiniteLoss of one of them."
        if self._ahead and self._ahead.unread:
            started = time.perf_counter()
            with self.random_state.swapped_in():  # no other thread is in the middle of a step
                self._read_steps()
                waited = time.perf_counter() - started
                self.steps[-1] = replace(self.steps[-1], seconds=self.steps[-1].seconds + waited)

    def _read_steps(
        self,
        behind: int = 0,  # newest steps that are not waited for
    ) -> None:
        "Raises NonFiniteLoss for a step that could not be taken; the run is as it was before it."
        while self._ahead and len(self._ahead.unread) > behind:
            fault = self._ahead.unread[0].fault(self.scaler)
            with uninterrupted():
                attempt = self._ahead.unread.popleft()
                if fault:
                    self._ahead = Ahead()
                    self.index, self.trained, self.random_state.state = attempt.before
                    del self.steps[self.index :]
            if fault:
                raise fault

    @contextmanager
    def _training(self) -> Iterator[Buffers]:
        "On the run's own random numbers, from clean gradients; a step that fails leaves nothing behind."
        index = self.index
        with self.random_state.swapped_in(), torch.enable_grad(), mode(self.learner, training=True):
            self.optimizer.zero_grad()
            self.scaler = without_notes(self.scaler, self.precision, self.device)
            try:
                kept = buffers_kept(self.learner, unless=lambda: self.index > index)
                with kept as buffers, training_weights(self.optimizer), self.computing(self.learner):
                    yield buffers
            finally:
                self.optimizer.zero_grad()

    def _backward(self, batches: list[Batch]) -> dict[str, torch.Tensor]:
        terms = [self.objective.terms(batch) for batch in batches]
        return accumulate(batches, terms, self._losses, self.scaler, self.processes)

    def _losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        batch["epoch"] = self.index / self.steps_per_epoch
        with self.computing.autocast(), self._from_cache("train"):
            return self.objective.parts(self._compiled, batch.to(self.device))

    def _clip(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        self.processes.sum_gradients(parameters)
        self.scaler.unscale_(self.optimizer)
        return clip(self.model, self.config["max_grad_norm"])

    def _pieces(self, rows: Rows | JointRows) -> list[Batch]:
        accum = min(self.config["grad_accum"], len(rows.index))
        mine: list[Rows] | list[JointRows] = self.processes.own(rows.split(self.processes.count * accum))  # type: ignore
        cpu = torch.device("cpu")  # where terms and tokens are counted; a piece goes to the device when it is its turn
        return [self.splits["train"].load(piece, cpu) for piece in mine if len(piece.index)]

    def _from_cache(self, split: str) -> AbstractContextManager[None]:
        return self.cache.serving(self.model, self.splits[split]) if self.cache else nullcontext()
