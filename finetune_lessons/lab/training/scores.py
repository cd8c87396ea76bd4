"""What forward passes give, and the part of the metrics that adds up over them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune_lessons.lab.training.objective import Objective
from finetune_lessons.lab.training.steps import prefixed
from finetune_lessons.lab.training.tasks import Task, labelled

if TYPE_CHECKING:
    import pandas as pd


class Result(NamedTuple):
    "What came of one batch."

    batch: dict[str, Any]
    loss: float
    terms: float  # that the loss is the mean of
    logits: Tensor | None  # (batch, outputs), of the model's first call; None where they are none of a text


def forward(
    model: torch.nn.Module,
    objective: Objective,
    batch: dict[str, Any],
) -> Result:
    seen: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None and logits.ndim == 2:  # those of a language model would fill the memory
            seen.append(logits)

    hook = model.register_forward_hook(keep)
    try:
        value = objective.total(model, batch)
    finally:
        hook.remove()
    return Result(batch, value, sum(objective.terms(batch).values()), seen[0].float().cpu() if seen else None)


@dataclass
class Scores:
    "One number or two for each label, never its logits."

    labels: list[np.ndarray] = field(default_factory=list)
    predictions: list[np.ndarray] = field(default_factory=list)
    outputs: int = 0  # of the model, for a text
    total_loss: float = 0.0
    terms: float = 0

    def add(self, task: Task, result: Result) -> None:
        if result.terms:
            self.total_loss += result.loss * result.terms
            self.terms += result.terms
        if result.logits is None or "labels" not in result.batch or not task.is_scored:
            return
        there = labelled(result.batch).reshape(len(result.logits), -1).any(1).cpu().numpy()
        self.labels.append(result.batch["labels"].cpu().numpy()[there])
        self.predictions.append(task.predict(result.logits)["prediction"][there])
        self.outputs = result.logits.shape[1]

    def __add__(self, other: "Scores") -> "Scores":
        return Scores(
            self.labels + other.labels,
            self.predictions + other.predictions,
            max(self.outputs, other.outputs),
            self.total_loss + other.total_loss,
            self.terms + other.terms,
        )

    def summary(self, task: Task) -> dict[str, float]:
        loss = self.total_loss / self.terms if self.terms else float("nan")
        labels, predictions = (np.concatenate(x) if x else np.empty(0) for x in (self.labels, self.predictions))
        return task.summary(labels, predictions, self.outputs, loss)


def scored(
    results: Iterable[Result],
    tasks: Mapping[str, Task],
) -> dict[str, Scores]:
    "The scores of each task that has a batch among the results."
    scores: dict[str, Scores] = {}
    for result in results:
        name = result.batch["task"]
        scores.setdefault(name, Scores()).add(tasks[name], result)
    return scores


def summaries(
    parts: list[dict[str, Scores]],  # one a process
    tasks: Mapping[str, Task],
) -> dict[str, float]:
    "The metrics: of several tasks as `task/metric`."
    found: dict[str, float] = {}
    for name, task in tasks.items():
        if of_task := [part[name] for part in parts if name in part]:
            found |= prefixed(name, sum(of_task, Scores()).summary(task))
    return found


def prediction_tables(
    results: Iterable[Result],
    task: Task,
) -> "Iterator[pd.DataFrame]":
    "A table for each batch, indexed by row number: label, prediction, and of classes confidence and logits."
    import pandas as pd

    for result in results:
        columns = task.predict(result.logits)
        if "labels" in result.batch:
            columns = {"label": result.batch["labels"].cpu().numpy(), **columns}
        by_row = {name: list(values) if values.ndim > 1 else values for name, values in columns.items()}
        yield pd.DataFrame(by_row, index=result.batch["index"].tolist())
