"""Whether labels can be told from texts at all: two quick probes that know nothing of the model's training."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from finetune_lessons.lab.models.inputs import accepted, unwrapped
from finetune_lessons.lab.models.modes import mode
from finetune_lessons.lab.training.sampling import Rows
from finetune_lessons.lab.training.tasks import Regression

LEAST = 60  # labelled texts, below which a probe says nothing
MOST = 1000
FOLDS = 5


class Score(NamedTuple):
    "Of a probe on texts that it has not seen."

    value: float  # the mean of the classes' accuracies; of numbers the correlation
    chance: float
    error: float  # the standard error at chance
    texts: int

    @property
    def sees_something(self) -> bool:
        return self.value > self.chance + 2 * self.error

    def __str__(self) -> str:
        return f"{self.value:.2f} (chance: {self.chance:.2f} ± {self.error:.2f})"


def targets(batches: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    "Row numbers and labels, one a text: at most MOST rows that have one, of a task whose labels are of texts."
    task, split = batches.tasks[name], batches.splits[name]
    chosen = np.random.default_rng(0).permutation(len(split))[:MOST]
    values = np.array([_one(label) for label in task.load(split[chosen][task.column], "right")["labels"].tolist()])
    there = ~np.isnan(values) if isinstance(task, Regression) else values >= 0
    return chosen[there], values[there]


def _one(label: Any) -> float:
    "Of several labels a text the first stands for all."
    return float(label[0] if isinstance(label, list) else label)


def word_probe(
    tokens: Sequence[Sequence[int]],  # of each text
    labels: np.ndarray,  # one a text
    numbers: bool,  # whether the labels are numbers, not classes
) -> Score | None:
    "From which tokens a text has; None where there are too few texts of each class."
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    bag = CountVectorizer(analyzer=lambda ids: ids, binary=True)
    learner = Ridge(alpha=10.0) if numbers else MultinomialNB(fit_prior=False)
    return _score(
        make_pipeline(bag, learner), np.array([list(map(int, t)) for t in tokens], dtype=object), labels, numbers
    )


def feature_probe(run: Any, name: str, rows: np.ndarray, labels: np.ndarray, numbers: bool) -> Score | None:
    "From the mean of what the model's body puts out for a text; None where it has no body that takes the tokens."
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = _features(run, name, rows)
    if features is None or not np.isfinite(features).all():
        return None
    learner = Ridge(alpha=10.0) if numbers else LogisticRegression(class_weight="balanced", max_iter=200, C=0.1)
    return _score(make_pipeline(StandardScaler(), learner), features, labels, numbers)


def _features(run: Any, name: str, rows: np.ndarray) -> np.ndarray | None:
    body = getattr(unwrapped(run.model), "base_model", None)
    if body is None:
        return None
    size, means = run.config["batch_size"], []
    for part in (rows[i : i + size] for i in range(0, len(rows), size)):
        batch = run.splits["train"].load(Rows(name, part), run.device)
        texts = {input: batch[input] for input in ("input_ids", "attention_mask")}
        try:
            with torch.no_grad(), mode(run.learner, training=False):
                hidden = body(**accepted(body, texts))[0].float()
        except Exception:  # a body of another kind
            return None
        real = batch["attention_mask"].unsqueeze(-1).float()
        means.append(((hidden * real).sum(1) / real.sum(1).clamp(min=1)).cpu().numpy())
    return np.concatenate(means)


def _score(learner: Any, inputs: Any, labels: np.ndarray, numbers: bool) -> Score | None:
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict

    if not numbers:
        classes, counts = np.unique(labels, return_counts=True)
        kept = np.isin(labels, classes[counts >= FOLDS])
        inputs, labels = inputs[kept], labels[kept]
    if len(labels) < LEAST or len(np.unique(labels)) < 2:
        return None
    folds = (KFold if numbers else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an optimisation that was stopped
        said = cross_val_predict(learner, inputs, labels, cv=folds)
    if numbers:
        constant = said.std() == 0 or labels.std() == 0
        return Score(0.0 if constant else float(np.corrcoef(said, labels)[0, 1]), 0.0, len(labels) ** -0.5, len(labels))
    counts = np.unique(labels, return_counts=True)[1]
    right = [float((said[labels == c] == c).mean()) for c in np.unique(labels)]
    chance, k = 1 / len(counts), len(counts)
    error = math.sqrt(sum(chance * (1 - chance) / n for n in counts)) / k
    return Score(float(np.mean(right)), chance, error, len(labels))
