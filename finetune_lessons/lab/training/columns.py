"""A column of a split, read in chunks: the lists of a million texts never stand in memory together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 10_000  # rows that are looked through at a time


@dataclass(frozen=True)
class Column:
    split: str  # the name of the split, for messages
    name: str
    data: "Dataset"

    @property
    def feature(self) -> Any:
        return self.data.features[self.name]

    @property
    def type(self) -> str:
        "Of a value, or of the values in a list."
        feature = self.feature
        while hasattr(feature, "feature"):
            feature = feature.feature
        return str(getattr(feature, "dtype", ""))

    @property
    def names(self) -> list[str]:
        "Of the classes, where the feature says them."
        feature = getattr(self.feature, "feature", self.feature)
        return list(getattr(feature, "names", None) or [])

    @property
    def is_list(self) -> bool:
        return hasattr(self.feature, "feature") or isinstance(self.feature, list)

    def row(self, number: int) -> str:
        "For messages about a label."
        return f"row {number} of the split {self.split!r} has the label {self.data[int(number)][self.name]!r}"

    def numbers(self) -> np.ndarray:
        "Of a column of single values: (rows,), NaN where there is none."
        parts = [_floats(values) for _, values in self._chunks()]
        return np.concatenate(parts) if parts else np.empty(0)

    def lists(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        "Of the rows that have a list, chunk by chunk: row numbers, lengths (rows,), and all values after one another."
        import pyarrow.compute as pc

        for start, part in self._chunks():
            there = np.flatnonzero(part.is_valid().to_numpy(zero_copy_only=False))
            lists = part.drop_null()
            yield start + there, _lengths(lists), _floats(pc.list_flatten(lists))

    def lengths(self) -> np.ndarray:
        "Of a column of lists: (rows that have one,)."
        return np.concatenate([np.empty(0, int), *(_lengths(part.drop_null()) for _, part in self._chunks())])

    def first_missing(self) -> int | None:
        for start, part in self._chunks():
            if part.null_count:
                return start + int(np.flatnonzero(part.is_null().to_numpy(zero_copy_only=False))[0])
        return None

    def first_wrong(self, is_right: Callable[[np.ndarray], np.ndarray]) -> tuple[int, float] | None:
        "The first value in a list that is not right, and its row."
        for rows, lengths, values in self.lists():
            if len(wrong := np.flatnonzero(~is_right(values))):
                return int(rows[np.searchsorted(lengths.cumsum(), wrong[0], side="right")]), float(values[wrong[0]])
        return None

    def first_of_other_length(self, length: int | None) -> int | None:
        for rows, lengths, _ in self.lists():
            if len(wrong := np.flatnonzero(lengths != length)):
                return int(rows[wrong[0]])
        return None

    def _chunks(self) -> "Iterator[tuple[int, Any]]":
        start = 0
        for part in self.data.select_columns(self.name).with_format("arrow").iter(CHUNK):
            yield start, part[self.name].combine_chunks()
            start += len(part)


def _lengths(lists: Any) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(int)


def _floats(values: Any) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.cast(values, "float64", safe=False).to_numpy(zero_copy_only=False)
