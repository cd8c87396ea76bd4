"""Texts beside their translations, in three splits that never share a text in either language."""

import json
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from finetune_lessons.lab.data.assets import asset_path
from finetune_lessons.lab.data.splits import SPLIT_SEED, letters

if TYPE_CHECKING:
    from datasets import DatasetDict

PAIRED = {"messages_fr": "fr", "messages_zh": "zh"}  # name -> the language beside English
_SIZES = {"validation": 200, "test": 400}

Pair = tuple[str, str]


def load_pairs(
    name: str,  # one of `PAIRED`
    n_train: int | None = None,  # training pairs to draw; None: all
    n_eval: int | None = None,  # validation and test pairs each, at most; None: all
    seed: int = 0,  # of which training pairs are drawn, and of their order
) -> "DatasetDict":
    """Train, validation and test, with the columns en and fr, or en and zh.

    `messages_fr`, `messages_zh`: short texts of a program's menus, settings and dialogues. Runs of spaces and line
    breaks are one space; `%1` stands for a name. Of pairs with the same letters and digits in one of the languages the
    first one is kept. Validation and test are the same for every `seed` and `n_train`.
    Raises ValueError for another name, or more pairs than there are.
    """
    if name not in PAIRED:
        raise ValueError(f"no pairs of texts are called {name!r}; there are {', '.join(PAIRED)}")
    pairs = _without_copies(_messages(name))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(pairs))
    parts = {}
    for split, size in _SIZES.items():
        parts[split], order = order[:size][: _whole("n_eval", n_eval)], order[size:]
    left = np.random.default_rng(seed).permutation(np.sort(order))
    if (_whole("n_train", n_train) or 0) > len(left):
        raise ValueError(f"n_train={n_train:,}, but {name} has {len(left):,} training pairs; ask for at most that many")
    return _to_splits({"train": left[:n_train]} | parts, pairs, ("en", PAIRED[name]))


def _whole(argument: str, n: int | None) -> int | None:
    if n is not None and (not isinstance(n, Integral) or n < 1):
        raise ValueError(f"{argument}={n!r}: expected a whole number above 0, or None for all")
    return n


def _messages(name: str) -> Iterator[Pair]:
    for file in sorted(asset_path(name).glob("messages/*.json")):
        for english, translated in json.loads(file.read_text(encoding="utf-8")).items():
            if english:  # else it is the header of the file
                yield _one_line(english.rpartition("\x04")[2]), _one_line(translated[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _without_copies(pairs: Iterator[Pair]) -> list[Pair]:
    "Those whose letters were in no pair before, in either language; and letters there are."
    kept, seen = [], ({""}, {""})
    for pair in pairs:
        forms = [letters(text) for text in pair]
        if not any(form in of for form, of in zip(forms, seen, strict=True)):
            kept.append(pair)
        for form, of in zip(forms, seen, strict=True):
            of.add(form)
    return kept


def _to_splits(parts: dict[str, np.ndarray], pairs: list[Pair], languages: tuple[str, str]) -> "DatasetDict":
    from datasets import Dataset, DatasetDict

    return DatasetDict(
        {
            split: Dataset.from_dict({lang: [pairs[i][side] for i in indices] for side, lang in enumerate(languages)})
            for split, indices in parts.items()
        }
    )
