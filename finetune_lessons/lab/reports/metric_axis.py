"""Axes that begin where it means something, so that a small difference is not drawn as a large one."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_lessons.lab.training.tasks import IGNORE_INDEX, Classification

if TYPE_CHECKING:
    from finetune_lessons.lab.training.run import Run

SHARES = {"accuracy", "precision", "recall", "f1", "f1_micro", "f1_macro", "exact_match"}
FROM_ZERO = {"loss", "mse", "mae"}
GAP = 0.6  # of the whole range, between two neighbours: those beyond it are far off
FEW = 1 / 3  # of the methods may stand at the edge


@dataclass(frozen=True)
class MetricAxis:
    "The axis of one validation metric of some runs."

    share: bool  # of texts, so between 0 and 1
    from_zero: bool
    unlearnt: float | None  # the accuracy of naming the commonest class always
    texts: int | None  # that the share is of, if all runs have as many

    @classmethod
    def of(
        cls,
        runs: "Iterable[Run]",
        metric: str,  # "accuracy", or "task/accuracy"
    ) -> "MetricAxis":
        task, _, name = metric.rpartition("/")
        counted = {_counted(run, task) for run in runs} if name == "accuracy" else set()
        texts, unlearnt = counted.pop() if len(counted) == 1 else (None, None)
        return cls(name in SHARES, name in FROM_ZERO, unlearnt, texts)

    def standard_error(self, value: float) -> float:
        "Of a share of `texts` texts: in two of three samples of so many, the share lies no farther off than that."
        return math.sqrt(value * (1 - value) / self.texts) if self.texts else 0.0

    def limits(
        self,
        drawn: tuple[float, float],  # what fits the curves alone
    ) -> tuple[float, float]:
        "A share goes from what is had without learning, or 0, up to 1; a loss begins at 0."
        low, high = drawn
        if self.share:
            return min(low, 0 if self.unlearnt is None else self.unlearnt - 0.02), 1.02
        return (min(low, 0), high) if self.from_zero else drawn


def _counted(run: "Run", task: str) -> tuple[int | None, float | None]:
    "How many validation texts have a class, and the share of the commonest."
    batches = run.splits.get("validation")
    tasks = batches.tasks if batches else {}
    name = task or next(iter(tasks), "")
    if batches is None or not isinstance(tasks.get(name), Classification):
        return None, None
    column = batches.splits[name][tasks[name].column]
    classes = Counter(int(value) for value in column if value is not None and value != IGNORE_INDEX)
    return (classes.total(), max(classes.values()) / classes.total()) if classes else (None, None)


def outliers(
    means: Mapping[str, float],  # of a metric, by method
) -> dict[str, int]:
    """The few methods so far off that an axis with them would squeeze the others: -1 below these, 1 above.

    A third of the methods at most, beyond a gap of more than 0.6 of the whole range.
    """
    order = sorted(means, key=lambda name: means[name])
    span = means[order[-1]] - means[order[0]]
    few = int(len(order) * FEW)
    for count in range(1, few + 1):
        if means[order[count]] - means[order[count - 1]] > GAP * span:
            return dict.fromkeys(order[:count], -1)
        if means[order[-count]] - means[order[-count - 1]] > GAP * span:
            return dict.fromkeys(order[-count:], 1)
    return {}
