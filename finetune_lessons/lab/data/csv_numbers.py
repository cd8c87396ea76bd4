"""A column of numbers that are to be predicted: a regression."""

import re
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from finetune_lessons.lab.data.splits import SPLIT_SEED, Row

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_FLOAT = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]{1,2})?")
MOST_CLASSES = 20  # different numbers with a fraction that may still be classes, such as 0.5 to 5 stars


def number_in(label: str) -> float | None:
    """None for anything else; a comma may stand for the point."""
    return float(label.replace(",", ".")) if _FLOAT.fullmatch(label) else None


def are_measurements(counts: Mapping[str, int]) -> bool:
    """Of labels in writing: numbers, some with a fraction, and too many different ones, or too rare, to be classes."""
    numbers = [number_in(label) for label in counts]
    if any(number is None for number in numbers) or all(number.is_integer() for number in numbers if number):
        return False
    return len(counts) > MOST_CLASSES or (min(counts.values()) < 3 and len(counts) > 2)


def split_numbers(
    rows: list[Row],  # with different texts, and numbers in writing
    file: str,
    column: str,  # of the labels, for messages
    n_train: int | None,  # None: all
    seed: int,
) -> "DatasetDict":
    """Train, validation and test (7 : 1 : 2) with labels that are floats; says so."""
    from datasets import DatasetDict

    if len(rows) < 3:
        raise ValueError(f"{file} has {len(rows)} rows that can be used; 3 at least make train, validation and test")
    numbers = [number_in(row["label"]) or 0.0 for row in rows]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    tenth, fifth = max(1, round(len(rows) / 10)), max(1, round(len(rows) / 5))
    validation, test, train = np.split(order, [tenth, tenth + fifth])
    if n_train is not None and (not isinstance(n_train, Integral) or not 0 < n_train <= len(train)):
        raise ValueError(f"n_train={n_train!r}: expected a whole number from 1 to {len(train)}, the training texts")
    train = np.random.default_rng(seed).permutation(train)[:n_train]
    print(
        f"{file}: the labels in column {column!r} are {len(set(numbers))} different numbers from {min(numbers):g} to "
        f"{max(numbers):g}: read as a regression, for a model with num_labels=1."
    )
    parts = {"train": train, "validation": np.sort(validation), "test": np.sort(test)}
    texts = [row["text"] for row in rows]
    return DatasetDict({name: _dataset(texts, numbers, part) for name, part in parts.items()})


def _dataset(texts: list[str], numbers: list[float], part: np.ndarray) -> "Dataset":
    from datasets import Dataset, Features, Value

    columns = {"text": [texts[i] for i in part], "label": [numbers[i] for i in part]}
    return Dataset.from_dict(columns, features=Features({"text": Value("string"), "label": Value("float64")}))
