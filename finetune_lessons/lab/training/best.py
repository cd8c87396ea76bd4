"""The weights at the best validation of a run, kept on disk, and stopping when none gets better."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from finetune_lessons.lab.training.batches import Batches
from finetune_lessons.lab.training.steps import Step
from finetune_lessons.lab.training.tasks import lower_is_better, metric_names
from finetune_lessons.lab.training.trained import detached, trained_tensors


class Best:
    "Which validation was the best one, and what was trained then; `load()` puts those weights into the model."

    def __init__(
        self,
        learner: nn.Module,
        metric: str,  # of the validation split
    ):
        self.metric = metric
        self.value: float | None = None  # None: nothing has been validated yet
        self.step: int | None = None  # index of the step after which it was
        self._learner, self._trained = learner, set[str]()
        self._folder = TemporaryDirectory(prefix="best-", ignore_cleanup_errors=True)

    def consider(self, metrics: Mapping[str, float], step: int, trained: set[str]) -> None:
        "Keep what is trained if these metrics beat all before."
        value = metrics[self.metric]
        if self.value is None or is_better(self.metric, value, self.value):
            self.keep(value, step, trained_tensors(self._learner, trained))

    def keep(self, value: float, step: int, tensors: Mapping[str, Tensor]) -> None:
        self.value, self.step, self._trained = value, step, set(tensors)
        save_file(detached({name: tensor.cpu() for name, tensor in tensors.items()}), self._file)

    def before_training(self, names: set[str]) -> None:
        "Add parameters that are trained for the first time now: at the best validation they were what they still are."
        if self.value is not None and self.step is not None and (new := names - self._trained):
            now = trained_tensors(self._learner, new)
            self.keep(self.value, self.step, self.tensors() | {name: now[name] for name in new})

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.value is None else load(self._file.read_bytes())

    @torch.no_grad()
    def load(self) -> None:
        "Raises ValueError where nothing has been validated yet."
        if self.value is None:
            raise ValueError("nothing has been validated yet: train to the end of an epoch, or set eval_every")
        kept = self.tensors()
        for name, target in trained_tensors(self._learner, self._trained).items():
            target.copy_(kept[name])

    @property
    def _file(self) -> Path:
        return Path(self._folder.name) / "best.safetensors"

    def __repr__(self) -> str:
        if self.value is None:
            return f"the best {self.metric}: nothing validated yet"
        return f"the best {self.metric}: {self.value:.4g}, after step {self.step}"


def check_metric(name: str, splits: Mapping[str, Batches], eval_every: int | None) -> None:
    "Raises ValueError unless the validation split is evaluated on the way, and gives this metric."
    if "validation" not in splits or eval_every == 0:
        why = "eval_every=0 says never" if eval_every == 0 else "the data have no validation split"
        raise ValueError(f"{name!r} is to be measured on the way, but {why}")
    if name not in (known := metric_names(splits["validation"].tasks)):
        raise ValueError(f"an evaluation does not give {name!r}; it gives {', '.join(known)}")


def is_better(metric: str, value: float, than: float) -> bool:
    return value < than if lower_is_better(metric) else value > than


def early_stopping(
    run: Any,  # a `Run`
    patience: int = 2,  # validations in a row that may be no better than the best one before them
    metric: str = "loss",  # of the validation split
    min_delta: float = 0.0,  # by how much a validation must be better than the last that was
) -> Iterator[Step]:
    """The run's steps, until the metric has stopped getting better: `for step in early_stopping(run, patience=2)`.

    The weights of the best validation are in `run.best`, as with `keep_best=metric`, if the run has validated nothing
    before. It goes by the run's history, so leaving the loop, or saving and resuming the run, changes nothing.
    Raises ValueError for a metric that the run does not have.
    """
    check_metric(metric, run.splits, run.config["eval_every"])
    if patience < 1:
        raise ValueError(f"patience is a number of validations, at least 1; given: {patience!r}")
    if not 0 <= min_delta < math.inf:
        raise ValueError(f"min_delta is a difference of the metric, at least 0; given: {min_delta!r}")
    if run.best is None and not any(step.metrics for step in run.steps):
        run.config, run.best = {**run.config, "keep_best": metric}, Best(run.learner, metric)
    for step in run:
        yield step
        if step.metrics and _since_better(run.steps, metric, min_delta) >= patience:
            return


def _since_better(steps: Sequence[Step], metric: str, min_delta: float) -> int:
    "Validations since the last that was better by more than `min_delta` than the last before that was."
    values = [step.metrics[metric] for step in steps if step.metrics]
    last = 0
    for i, value in enumerate(values):
        if is_better(metric, value, values[last]) and abs(value - values[last]) > min_delta:
            last = i
    return len(values) - 1 - last
