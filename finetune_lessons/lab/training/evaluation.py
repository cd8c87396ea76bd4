"""What a model is worth on a split, while somebody may be training it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.batches import Batches
from finetune_lessons.lab.models.modes import mode
from finetune_lessons.lab.training.objective import Objective
from finetune_lessons.lab.training.precision import Computing
from finetune_lessons.lab.training.processes import Processes
from finetune_lessons.lab.training.random_state import RandomState
from finetune_lessons.lab.training.scores import Result, forward, prediction_tables, scored, summaries

if TYPE_CHECKING:
    import pandas as pd


class Evaluation:
    "Of one model on the splits of its data; each process takes a part of the batches."

    def __init__(
        self,
        model: torch.nn.Module,
        learner: torch.nn.Module,  # the model, with the loss where that can learn too
        objective: Objective,
        splits: Mapping[str, Batches],
        computing: Computing,
        processes: Processes,
        cache: ActivationCache | None,
        seed: int,  # of what a loss may draw
        max_tokens: int | None = None,  # of a batch, padding counted
    ):
        self._model, self._learner, self._objective, self._splits = model, learner, objective, splits
        self._computing, self._processes, self._cache, self._seed = computing, processes, cache, seed
        self._max_tokens = max_tokens

    def metrics(self, split: str, batch_size: int) -> dict[str, float]:
        tasks = self._batches(split).tasks
        return summaries(self._processes.gathered(scored(self._results(split, batch_size), tasks)), tasks)

    def predictions(self, split: str, batch_size: int) -> "pd.DataFrame":
        "A row an example, in their order; with its text, where the data have texts."
        import pandas as pd

        batches = self._batches(split)
        if len(batches.tasks) > 1:
            raise ValueError(f"predict is for one task; this run has {', '.join(batches.tasks)}")
        ((name, source),) = batches.splits.items()
        tables = list(prediction_tables(self._results(split, batch_size), batches.tasks[name]))
        table = pd.concat([table for part in self._processes.gathered(tables) for table in part]).sort_index()
        if "text" in source.column_names:
            table.insert(0, "text", source["text"][:])
        return table

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        "Without dropout and gradients, and without a trace in the training that another thread may be doing."
        random, autocast = RandomState(self._seed, self._processes.device), self._computing.autocast()
        with random.swapped_in(), torch.no_grad(), autocast, mode(self._learner, training=False):
            with self._computing(self._learner):
                yield

    def _results(self, split: str, batch_size: int) -> Iterator[Result]:
        batches = self._batches(split)
        every = list(batches.in_order(batch_size, self._max_tokens))
        for rows in every[self._processes.rank :: self._processes.count]:
            batch = batches.load(rows, self._processes.device)
            cached = self._cache.serving(self._model, batches) if self._cache else nullcontext()
            with self.undisturbed(), cached:
                result = forward(self._model, self._objective, batch)
            yield result

    def _batches(self, split: str) -> Batches:
        if split not in self._splits:
            raise ValueError(f"no split {split!r} with examples in the data; there are: {', '.join(self._splits)}")
        return self._splits[split]
