"""Which examples meet in a batch, and which tasks in a step: an epoch is planned at once, from its seed alone."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from finetune_lessons.lab.training.token_budget import TokenBudget

WINDOW = 50  # batches whose examples are sorted by length together
STRATEGIES = ("proportional", "round_robin", "together")
Lengths = Mapping[str, np.ndarray]  # task -> tokens of each of its examples


@dataclass(frozen=True, eq=False)
class Rows:
    "Which examples make a batch: row numbers of one task's split."

    task: str
    index: np.ndarray

    def split(self, parts: int) -> "list[Rows]":
        return [Rows(self.task, index) for index in np.array_split(self.index, parts)]


@dataclass(frozen=True, eq=False)
class JointRows:
    "Which examples make a step of all tasks."

    by_task: tuple[Rows, ...]
    task = ""

    @property
    def index(self) -> np.ndarray:
        return np.concatenate([np.empty(0, int), *(rows.index for rows in self.by_task)])

    def split(self, parts: int) -> "list[JointRows]":
        pieces = zip(*(rows.split(parts) for rows in self.by_task), strict=True)
        return [JointRows(tuple(rows for rows in piece if len(rows.index))) for piece in pieces]


def bucketed(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers in batches of similar length, in random order: every row once.

    Rows are shuffled, sorted by length inside windows of 50 batches, cut, and the batches shuffled:
    padding nearly disappears, and which texts meet in a batch still changes each epoch.
    """
    order = rng.permutation(len(lengths))
    windows = [order[i : i + WINDOW * batch_size] for i in range(0, len(order), WINDOW * batch_size)]
    by_length = np.concatenate([w[np.argsort(lengths[w], kind="stable")] for w in windows])
    batches = [by_length[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def is_strategy(sampling: object) -> bool:
    if isinstance(sampling, (int, float)) and not isinstance(sampling, bool):
        return 0 < sampling < math.inf
    return sampling in STRATEGIES


def _cut(lengths: np.ndarray, size: int | TokenBudget, rng: np.random.Generator) -> list[np.ndarray]:
    return size.batches(lengths, rng) if isinstance(size, TokenBudget) else bucketed(lengths, size, rng)


def steps_per_epoch(lengths: Lengths, size: int | TokenBudget, sampling: str | float) -> int:
    batches = [size.steps(n) if isinstance(size, TokenBudget) else -(-len(n) // size) for n in lengths.values()]
    return max(batches) if sampling == "together" else sum(batches)


def plan_epoch(
    lengths: Lengths,
    size: int | TokenBudget,  # of one task's part of a step: how many examples, or how many tokens
    rng: np.random.Generator,
    sampling: str | float = "proportional",
) -> list[Rows] | list[JointRows]:
    """The steps of an epoch.

    "proportional": each step is of one task, in random order, and every example comes once. "round_robin": the tasks
    take turns. A number T: a task of n examples is drawn with a probability in proportion to n^(1/T), so that 1 means
    its size, and more means more of the small tasks (arXiv:1907.05019). "together": each step has a batch of every
    task, and the largest comes once. Tasks that run out start again, shuffled anew.
    """
    if sampling == "proportional":
        batches = [Rows(task, index) for task, n in lengths.items() for index in _cut(n, size, rng)]
        return batches if len(lengths) == 1 else [batches[i] for i in rng.permutation(len(batches))]
    steps = steps_per_epoch(lengths, size, sampling)
    endless = {task: _endless(n, size, rng) for task, n in lengths.items()}
    if sampling == "together":
        return [JointRows(tuple(Rows(task, next(it)) for task, it in endless.items())) for _ in range(steps)]
    return [Rows(task, next(endless[task])) for task in _tasks(lengths, steps, rng, sampling)]


def _endless(lengths: np.ndarray, size: int | TokenBudget, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        yield from _cut(lengths, size, rng)


def _tasks(lengths: Lengths, steps: int, rng: np.random.Generator, sampling: str | float) -> list[str]:
    tasks = list(lengths)
    if isinstance(sampling, str):
        return list(itertools.islice(itertools.cycle(tasks), steps))
    weights = np.array([len(lengths[task]) for task in tasks]) ** (1 / sampling)
    return [tasks[i] for i in rng.choice(len(tasks), steps, p=weights / weights.sum())]
