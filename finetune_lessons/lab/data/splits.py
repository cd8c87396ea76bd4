"""Rows to train, validation and test that share no text, with the same class shares in each."""

import unicodedata
from collections.abc import Callable, Hashable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SPLIT_SEED = 20140601  # validation and test depend on nothing but the source

Row = dict[str, Any]


def normal_form(text: str) -> str:
    """Two texts with the same normal form count as the same text."""
    return " ".join(text.casefold().split())


def also_among(texts: list[str], others: list[str]) -> list[str]:
    """Those texts that stand among the others too."""
    known = set(map(normal_form, others))
    return [text for text in texts if normal_form(text) in known]


def letters(text: str) -> str:
    """Its letters and digits alone, small and of usual width: what is left of it for one who looks for copies."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def without_repeats(
    rows: list[Row],
    key: Callable[[Row], Hashable] = lambda row: normal_form(row["text"]),
) -> list[Row]:
    """The first row of each key; none of those whose labels contradict each other."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return [group[0] for group in groups.values() if len({row["label"] for row in group}) == 1]


def without_copies(
    rows: list[Row],
    form: Callable[[str], str],  # of a text
    n: int,  # characters of that form
) -> list[Row]:
    """Of the rows that begin alike what `without_repeats` keeps, and then of those that end alike."""
    once = without_repeats(rows, lambda row: form(row["text"])[:n])
    return without_repeats(once, lambda row: form(row["text"])[-n:])


def balanced(rows: list[Row]) -> list[Row]:
    """As many rows of each label as of the rarest, drawn the same way always, in their order."""
    labels = np.unique([row["label"] for row in rows], return_inverse=True)[1]
    rarest = np.bincount(labels).min()
    drawn = _draw(labels, dict.fromkeys(range(labels.max() + 1), rarest), np.random.default_rng(SPLIT_SEED))
    return [rows[i] for i in np.sort(drawn)]


def split_rows(
    rows: list[Row],  # with different texts
    sizes: Mapping[str, int | dict[str, int]],  # of validation and test: all in all, or of each class
    names: list[str],  # of the classes, in the order of their numbers
) -> "dict[str, Dataset]":
    """Draw each of `sizes`, a plain number with the class shares of the rows; the rest is train."""
    labels = np.array([names.index(row["label"]) for row in rows])
    rng = np.random.default_rng(SPLIT_SEED)
    left = np.arange(len(rows))
    parts = {}
    for split, size in sizes.items():
        if isinstance(size, dict):
            per_class = {names.index(c): n for c, n in size.items()}
        else:
            per_class = _shares(labels[left], size)
        parts[split] = left[_draw(labels[left], per_class, rng)]
        left = np.setdiff1d(left, parts[split])
    return {
        split: _to_dataset([rows[i] for i in indices], names) for split, indices in ({"train": left} | parts).items()
    }


def _to_dataset(rows: list[Row], names: list[str]) -> "Dataset":
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    types = {
        "text": Value("string"),
        "label": ClassLabel(names=names),
        "intensity": Value("float64"),
        "ratings": Sequence(Value("int8")),
        "title": Value("string"),
    }
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    return Dataset.from_dict(columns, features=Features({column: types[column] for column in columns}))


def with_n_train(
    splits: "dict[str, Dataset]",
    n_train: int | None,  # None: all, in an order drawn as well
    seed: int,
    name: str,  # of the source, for messages
) -> "DatasetDict":
    """The three splits, train cut to `n_train` texts that `seed` draws."""
    from datasets import DatasetDict

    train = splits["train"]
    labels = np.array(train["label"][:])
    n = len(train) if n_train is None else n_train
    _check_covers_classes("n_train", n, labels)
    if n > len(train):
        raise ValueError(f"n_train={n:,}, but {name} has {len(train):,} training texts; ask for at most that many")
    drawn = stratified_draw(labels, n, seed)
    return DatasetDict(train=train.select(drawn), validation=splits["validation"], test=splits["test"])


def with_n_eval(
    splits: "dict[str, Dataset]",
    n_eval: int | None,  # None: all
) -> "dict[str, Dataset]":
    """Validation and test cut to `n_eval` texts each, always the same ones; a smaller split is kept whole."""
    if n_eval is None:
        return splits
    _check_covers_classes("n_eval", n_eval, np.array(splits["train"]["label"][:]))
    return splits | {split: _at_most(splits[split], n_eval) for split in ("validation", "test")}


def _at_most(part: "Dataset", n: int) -> "Dataset":
    return part if len(part) <= n else part.select(stratified_draw(np.array(part["label"][:]), n, SPLIT_SEED))


def _check_covers_classes(argument: str, n: int, labels: np.ndarray) -> None:
    n_classes = len(np.unique(labels))
    if not isinstance(n, Integral) or n < n_classes:
        raise ValueError(f"{argument}={n!r}: expected a whole number, at least the number of classes ({n_classes})")


def stratified_draw(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Indices of `n` labels with the class shares of all of them, in random order."""
    return _draw(labels, _shares(labels, n), np.random.default_rng(seed))


def _shares(labels: np.ndarray, n: int) -> dict[int, int]:
    """How many of each class make n with the class shares of `labels` (largest remainders)."""
    classes, counts = np.unique(labels, return_counts=True)
    quota = counts * n / len(labels)
    take = np.floor(quota).astype(int)
    take[np.argsort(take - quota, kind="stable")[: n - take.sum()]] += 1
    return dict(zip(classes.tolist(), take.tolist(), strict=True))


def _draw(labels: np.ndarray, per_class: dict[int, int], rng: np.random.Generator) -> np.ndarray:
    """Indices of so many of each class, in random order."""
    picks = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in per_class.items()]
    return rng.permutation(np.concatenate(picks))


def counted_rows(n: int) -> str:
    """A number of rows in words, for messages."""
    return f"{n:,} row" if n == 1 else f"{n:,} rows"
