"""Data from elsewhere: a hub data set or a local folder, in three splits that share no text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_lessons.lab.data.labels import label_words, with_class_labels
from finetune_lessons.lab.data.sources import load_source
from finetune_lessons.lab.data.splits import SPLIT_SEED, counted_rows, normal_form, stratified_draw

if TYPE_CHECKING:
    from datasets import Dataset

TEXT_COLUMNS = ("text", "sentence", "content", "review")  # the first of these that a data set has is its text
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
HIDDEN = (-1, "-1", "-1.0")


def external_splits(
    name: str,  # a hub id ("glue/sst2", "stanfordnlp/imdb") or a local folder
    packaged: Sequence[str],  # names that need no hub, to point to when `name` cannot be loaded
) -> "dict[str, Dataset]":
    """Train, validation and test, with the columns text and label, and no text in two splits; steps are printed.

    Raises ValueError for anything that cannot be loaded.
    """
    source = load_source(name, packaged, columns=(*TEXT_COLUMNS, "label"))
    found = {split: _text_and_label(part, split, name) for split, part in _by_standard_name(source, name).items()}
    splits = {split: part for split, part in found.items() if part is not None}
    if "train" not in splits:
        raise ValueError(f"{name} has no split named train with labels; its splits are {', '.join(source) or 'none'}")
    splits = with_class_labels(splits, name)
    if "test" not in splits and "validation" in splits:
        print(f"{name}: the validation split serves as the test split.")
        splits["test"] = splits.pop("validation")
    for split in ("test", "validation"):
        if split not in splits:
            splits["train"], splits[split] = _carve(splits["train"])
            print(f"{name}: {len(splits[split]):,} texts of train serve as the {split} split.")
    return _without_overlap(splits, name)


def _by_standard_name(source: "dict[str, Dataset]", name: str) -> "dict[str, Dataset]":
    """Train, validation and test, whichever there are; a split that is alone is train."""
    if len(source) == 1:
        return {"train": next(iter(source.values()))}
    there = {standard: [split for split in names if split in source] for standard, names in SPLIT_NAMES.items()}
    chosen = {standard: names[0] for standard, names in there.items() if names}
    if unused := sorted(source.keys() - chosen.values()):
        print(f"{name}: not used: {', '.join(unused)}.")
    return {standard: source[split] for standard, split in chosen.items()}


def _text_and_label(part: "Dataset", split: str, name: str) -> "Dataset | None":
    """Only the columns text and label, without rows that lack one; None if no label is known."""
    column = next((c for c in TEXT_COLUMNS if c in part.column_names), None)
    if column is None or (split == "train" and "label" not in part.column_names):
        raise ValueError(
            f"{name} needs a column label and one of {', '.join(TEXT_COLUMNS)}; it has {', '.join(part.column_names)}. "
            "Load it with datasets.load_dataset and rename its columns"
        )
    labels = label_words(part) if "label" in part.column_names else []
    if all(label is None or label in HIDDEN for label in labels):
        print(f"{name}: the labels of the {split} split are hidden (-1) or missing; it is not used.")
        return None
    texts = part[column][:]
    if odd := {type(text).__name__: text for text in texts if not isinstance(text, str | None)}:
        kind = min(odd)
        raise ValueError(f"the texts of {name}, its column {column!r}, must be strings; some are {kind}: {odd[kind]!r}")
    rows = enumerate(zip(texts, labels, strict=True))
    whole = [i for i, (text, label) in rows if text and not text.isspace() and label is not None]
    if len(whole) < len(part):
        print(f"{name}, {split}: {counted_rows(len(part) - len(whole))} without text or label dropped.")
    return part.select_columns([column, "label"]).rename_columns({column: "text"}).select(whole)


def _carve(train: "Dataset") -> "tuple[Dataset, Dataset]":
    """Take a tenth, at most 1,000 texts, off a train split."""
    labels = np.array(train["label"][:])
    n = min(1000, max(len(np.unique(labels)), len(labels) // 10))
    if n >= len(labels):
        raise ValueError(f"{len(labels)} training texts are too few to take a validation or test split from")
    carved = stratified_draw(labels, n, SPLIT_SEED)
    return train.select(np.setdiff1d(np.arange(len(labels)), carved)), train.select(carved)


def _without_overlap(splits: "dict[str, Dataset]", name: str) -> "dict[str, Dataset]":
    """Test is kept whole; validation and train lose the texts that an earlier split has."""
    seen: set[str] = set()
    clean = {}
    for split in ("test", "validation", "train"):
        texts = [normal_form(text) for text in splits[split]["text"][:]]
        kept = [i for i, text in enumerate(texts) if text not in seen]
        if len(kept) < len(texts):
            dropped = counted_rows(len(texts) - len(kept))
            print(f"{name}: {dropped} of {split} dropped, another split has the same text.")
        if not kept:
            raise ValueError(f"{name} has too few different texts: none is left for {split}")
        clean[split] = splits[split].select(kept)
        seen.update(texts)
    return clean
