"""What a model is worth on a split: numbers over examples, never averages of batches."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune_lessons.lab.training.batches import IGNORE_INDEX

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[[Any, dict], "torch.Tensor | dict[str, torch.Tensor]"]


def count_terms(
    model: torch.nn.Module,
    loss: Loss,  # its own count is asked first, if it has one: `loss.terms(batch)`
    batch: dict[str, Any],
) -> int:
    """How many terms the mean in `loss(model, batch)` is over: labels that are not -100, or else examples.

    A causal language model names each token after those before it: the first of a row counts for nothing, and
    without labels the tokens count.
    """
    if hasattr(loss, "terms"):
        return int(loss.terms(batch))
    labels, causal = batch.get("labels"), is_causal(model)
    if labels is None and not causal:
        return len(batch["index"])
    counted = batch["attention_mask"] > 0 if labels is None else labels != IGNORE_INDEX
    return int((counted[:, 1:] if causal and counted.ndim == 2 else counted).sum())


def count_tokens(batch: dict[str, Any]) -> int:
    "Tokens without padding."
    if "tasks" in batch:
        return sum(map(count_tokens, batch["tasks"].values()))
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else 0


def predicts_tokens(
    model: torch.nn.Module,
    batch: dict[str, Any],
) -> bool:
    "Whether the labels are tokens, so that the exponential of the mean loss is a perplexity."
    labels = batch.get("labels")
    return is_causal(model) if labels is None else labels.ndim == 2 and not labels.is_floating_point()


def is_causal(model: Any) -> bool:
    return hasattr(model, "can_generate") and model.can_generate() and not model.config.is_encoder_decoder


def classification_metrics(
    labels: np.ndarray,  # (examples,) class numbers
    predictions: np.ndarray,  # (examples,) class numbers
    classes: int,  # how many there are, seen here or not
) -> dict[str, float]:
    "Accuracy, precision, recall and F1: of class 1 where there are two classes, else the mean over the classes."
    from sklearn.metrics import precision_recall_fscore_support

    average = "binary" if classes == 2 else "macro"
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions, average=average, zero_division=0)
    accuracy = float((labels == predictions).mean())
    return {"accuracy": accuracy, "precision": float(precision), "recall": float(recall), "f1": float(f1)}


def regression_metrics(
    labels: np.ndarray,  # (examples,)
    predictions: np.ndarray,  # (examples,)
) -> dict[str, float]:
    "Mean squared error, mean absolute error and Pearson's correlation (NaN where one side is constant)."
    error = predictions - labels
    constant = labels.std() == 0 or predictions.std() == 0
    pearson = math.nan if constant else float(np.corrcoef(labels, predictions)[0, 1])
    return {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean()), "pearson": pearson}


def expected_calibration_error(
    confidence: np.ndarray,  # (examples,) the probability that the model gave its prediction
    correct: np.ndarray,  # (examples,) whether the prediction was right
    bins: int = 10,  # of equal width on 0..1
) -> float:
    "Mean gap between confidence and accuracy, weighted by bin size (Guo et al. 2017, arXiv:1706.04599)."
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((confidence - correct)[which == b].sum()) for b in np.unique(which)]
    return float(sum(gaps) / len(which))


def forward(
    model: torch.nn.Module,
    loss: Loss,
    batch: dict[str, Any],
) -> tuple[float, torch.Tensor | None]:
    "The batch's loss, and the logits, (batch, outputs), of the classifier or regression that it called first, or None."
    seen: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None and logits.ndim == 2:  # those of a language model would fill the memory
            seen.append(logits)

    hook = model.register_forward_hook(keep)
    try:
        value = loss(model, batch)
    finally:
        hook.remove()
    return float(value["loss"] if isinstance(value, dict) else value), seen[0] if seen else None


@dataclass
class Scores:
    "The part of the metrics that adds up over batches: one number or two an example, never its logits."

    labels: list[float] = field(default_factory=list)
    predictions: list[float] = field(default_factory=list)
    classes: int = 0  # 0: not a classifier
    total_loss: float = 0.0
    terms: int = 0
    tokens: bool = False  # whether the loss is that of tokens

    def add(self, batch: dict[str, Any], mean_loss: float, terms: int, logits: torch.Tensor | None) -> None:
        if terms:
            self.total_loss += mean_loss * terms
            self.terms += terms
        labels = batch.get("labels")
        if labels is None or labels.ndim != 1 or logits is None:
            return
        outputs = logits.shape[1]
        if outputs > 1 and labels.is_floating_point():
            return
        self.classes = outputs if outputs > 1 else 0
        labelled = labels != IGNORE_INDEX
        predictions = logits.argmax(1) if self.classes else logits[:, 0].float()
        self.labels += labels[labelled].tolist()
        self.predictions += predictions[labelled].tolist()

    def __add__(self, other: "Scores") -> "Scores":
        return Scores(
            self.labels + other.labels,
            self.predictions + other.predictions,
            max(self.classes, other.classes),
            self.total_loss + other.total_loss,
            self.terms + other.terms,
            self.tokens or other.tokens,
        )

    def summary(self) -> dict[str, float]:
        "The metrics: of a classifier, of a regression (one output), of a language model, or of any other loss."
        loss = self.total_loss / self.terms if self.terms else math.nan
        if not self.labels:
            return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))} if self.tokens else {"loss": loss}
        labels, predictions = np.array(self.labels), np.array(self.predictions)
        if self.classes:
            return {**classification_metrics(labels, predictions, self.classes), "loss": loss}
        return {**regression_metrics(labels, predictions), "loss": loss}


def prediction_tables(
    results: Iterable[tuple[dict[str, Any], float, torch.Tensor | None]],  # batch, loss and logits of each batch
) -> "Iterator[pd.DataFrame]":
    """A table for each batch, indexed by row number: label, prediction, confidence, logits (an array of `num_labels`).

    Raises ValueError for a loss that never calls a classifier.
    """
    import pandas as pd

    for batch, _, logits in results:
        if logits is None or logits.shape[1] < 2:
            raise ValueError("predict is for classifiers: the loss must call a model whose logits are (batch, classes)")
        logits = logits.float().cpu()
        confidence, prediction = logits.softmax(-1).max(-1)
        columns = {"prediction": prediction, "confidence": confidence}
        if "labels" in batch:
            columns = {"label": batch["labels"].cpu(), **columns}
        table = pd.DataFrame({name: column.numpy() for name, column in columns.items()}, index=batch["index"].tolist())
        yield table.assign(logits=list(logits.numpy()))
