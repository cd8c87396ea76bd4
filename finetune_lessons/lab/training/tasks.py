"""What the labels of a run mean: decided once, when it is made, and asked from then on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from finetune_lessons.lab.training.metrics import classification_metrics, multi_label_metrics
from finetune_lessons.lab.training.metrics import perplexity, regression_metrics
from finetune_lessons.lab.training.padding import padded

IGNORE_INDEX = -100  # in labels that are numbers of classes or of tokens: this one is missing


def labelled(batch: Mapping[str, Any]) -> Tensor:
    "Which of the batch's labels are there, in their shape: its `labelled`, or what class numbers and NaN say."
    if "labelled" in batch:
        return batch["labelled"]
    labels = batch["labels"]
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORE_INDEX


class Task:
    "Labels that only the loss knows what to do with, or none: the mean is over examples, and the loss is the metric."

    kind: ClassVar[str] = "a loss of its own"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    is_scored: ClassVar[bool] = False  # whether the logits of a text are compared with its label
    problem_type: ClassVar[str | None] = None  # as configurations of transformers call it

    def __init__(
        self,
        column: str | None = None,  # of the labels
        classes: Sequence[str] = (),  # their names, where the data name them
    ):
        self.column, self.classes = column, tuple(classes)

    def load(self, values: list, side: str) -> dict[str, Any]:
        "The batch's `labels`, and `labelled`: which of them are there. Sequences are padded on `side`."
        labels = self._labels(values, side)
        return {"labels": labels, "labelled": labelled({"labels": labels})}

    def _labels(self, values: list, side: str) -> Tensor:
        return torch.tensor([math.nan if value is None else value for value in values])

    def terms(self, batch: Mapping[str, Any]) -> int:
        "How many terms a loss is the mean of, if it does not say: the labels that are there, or the examples."
        return int(labelled(batch).sum()) if "labelled" in batch else len(batch["index"])

    def predict(self, logits: Tensor | None) -> dict[str, np.ndarray]:
        "What the logits of a batch say, a row an example: prediction, confidence, logits."
        raise ValueError(
            f"predict is for classes and numbers of texts; this run learns {self.kind}. "
            "run.model(**inputs) gives its outputs, and generate(model, tokenizer, prompts) has a language model write"
        )

    def score(self, labels: np.ndarray, predictions: np.ndarray, outputs: int) -> dict[str, float]:
        "The metrics but for the loss: of all labels that are there, and what a model of so many outputs predicted."
        return {}

    def summary(self, labels: np.ndarray, predictions: np.ndarray, outputs: int, loss: float) -> dict[str, float]:
        return {**(self.score(labels, predictions, outputs) if len(labels) else {}), "loss": loss}


class Classification(Task):
    "One class a text; a number of a class from 0, -100 where it is missing."

    kind, problem_type = "a classification", "single_label_classification"
    metrics = ("accuracy", "precision", "recall", "f1", "loss")
    is_scored = True

    def _labels(self, values: list, side: str) -> Tensor:
        return torch.tensor([IGNORE_INDEX if is_missing(value) else int(value) for value in values])

    def predict(self, logits: Tensor | None) -> dict[str, np.ndarray]:
        if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"the labels are classes, so the logits must be (texts, classes); {_seen(logits)}")
        confidence, prediction = logits.softmax(-1).max(-1)
        return {"prediction": prediction.numpy(), "confidence": confidence.numpy(), "logits": logits.numpy()}

    def score(self, labels: np.ndarray, predictions: np.ndarray, outputs: int) -> dict[str, float]:
        return classification_metrics(labels, predictions, outputs)


class MultiLabel(Task):
    "Any number of classes a text: a row of yes (1) and no (0), or of probabilities; NaN where one is missing."

    kind, problem_type = "several classes a text", "multi_label_classification"
    metrics = ("f1_micro", "f1_macro", "exact_match", "loss")
    is_scored = True
    threshold = 0.5

    def __init__(
        self,
        column: str,
        classes: Sequence[str],
        outputs: int,
        numbers: bool,  # whether the data list the numbers of the classes that hold
    ):
        super().__init__(column, classes)
        self.outputs, self.numbers = outputs, numbers

    def _labels(self, values: list, side: str) -> Tensor:
        return torch.tensor([self._row(value) for value in values])

    def _row(self, value: list | None) -> list[float]:
        if value is None:
            return [math.nan] * self.outputs
        if self.numbers:
            return [float(number in value) for number in range(self.outputs)]
        return [math.nan if is_missing(x) else float(x) for x in value]

    def predict(self, logits: Tensor | None) -> dict[str, np.ndarray]:
        if logits is None or logits.ndim != 2:
            raise ValueError(f"the labels are classes, so the logits must be (texts, classes); {_seen(logits)}")
        p = logits.sigmoid()
        sure = torch.where(p > self.threshold, p, 1 - p).min(-1).values
        return {"prediction": (p > self.threshold).long().numpy(), "confidence": sure.numpy(), "logits": logits.numpy()}

    def score(self, labels: np.ndarray, predictions: np.ndarray, outputs: int) -> dict[str, float]:
        return multi_label_metrics(labels, predictions)


class Regression(Task):
    """One number a text, or several; NaN where one is missing.

    -100 is a number like any other, but for rows that several tasks share: there it says that one has no label.
    """

    kind, problem_type = "numbers", "regression"
    metrics = ("mse", "mae", "pearson", "loss")
    is_scored = True

    def __init__(self, column: str, outputs: int = 1, ignored: float | None = None):
        super().__init__(column)
        self.outputs, self.ignored = outputs, ignored

    def _labels(self, values: list, side: str) -> Tensor:
        nothing: Any = math.nan if self.outputs == 1 else [math.nan] * self.outputs
        rows = [nothing if value is None else value for value in values]
        labels = torch.tensor(np.array(rows, dtype=float), dtype=torch.float32)
        if self.ignored is not None:
            labels = labels.masked_fill(labels == self.ignored, math.nan)
        return labels

    def predict(self, logits: Tensor | None) -> dict[str, np.ndarray]:
        if logits is None or logits.ndim != 2 or logits.shape[1] != self.outputs:
            raise ValueError(f"a text has {self.outputs} number(s) for a label, and so many outputs; {_seen(logits)}")
        return {"prediction": logits.squeeze(-1).numpy()}

    def score(self, labels: np.ndarray, predictions: np.ndarray, outputs: int) -> dict[str, float]:
        return regression_metrics(labels, predictions)


class Tokens(Task):
    "A label a token, or a sequence of tokens to write; -100 where there is none."

    kind = "the tokens of texts"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity")

    def __init__(
        self,
        column: str | None,  # None: each token is its own label
        causal: bool,  # a token is named after those before it, so that the first counts for nothing
    ):
        super().__init__(column)
        self.causal = causal

    def _labels(self, values: list, side: str) -> Tensor:
        return padded(values, IGNORE_INDEX, side)

    def terms(self, batch: Mapping[str, Any]) -> int:
        if "labels" not in batch and "attention_mask" not in batch:
            return len(batch["index"])
        counted = labelled(batch) if "labels" in batch else batch["attention_mask"] > 0
        return int((counted[:, 1:] if self.causal else counted).sum())

    def summary(self, labels: np.ndarray, predictions: np.ndarray, outputs: int, loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": perplexity(loss)}


class TokenClasses(Tokens):
    "A class a token, such as a part of speech; -100 where there is none."

    kind = "a class for each token"
    metrics = ("loss",)
    summary = Task.summary


def _seen(logits: Tensor | None) -> str:
    if logits is None:
        return "the loss called no model that gives them"
    hint = ": float labels make a regression" if logits.shape[-1] == 1 else ""
    return f"the model gives {tuple(logits.shape)}{hint}"


def is_missing(value: Any) -> bool:
    return value is None or value == IGNORE_INDEX or value != value


def metric_names(tasks: Mapping[str, Task]) -> list[str]:
    "What an evaluation of these tasks gives."
    return [f"{name}/{metric}" if name else metric for name, task in tasks.items() for metric in task.metrics]


def lower_is_better(metric: str) -> bool:
    return metric.rpartition("/")[2] in ("loss", "perplexity", "mse", "mae", "ece", "calibration error")

