"""Data from elsewhere: a hub data set or a local folder, in three splits that share no text."""

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune_lessons.lab.data.splits import SPLIT_SEED, class_names, counted_rows, normal_form, stratified_draw

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset

TEXT_COLUMNS = ("text", "sentence", "content", "review")  # the first of these that a data set has is its text


def external_splits(
    name: str,  # a hub id ("glue/sst2", "stanfordnlp/imdb") or a local folder
    packaged: Sequence[str],  # names that need no hub, to point to when `name` cannot be loaded
) -> "dict[str, Dataset]":
    """Train, validation and test, with the columns text and label, and no text in two splits; steps are printed.

    Raises ValueError for anything that cannot be loaded.
    """
    splits = {_split_name(split): _text_and_label(part, name) for split, part in _load(name, packaged).items()}
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    splits = _with_visible_labels(splits, name)
    if unused := sorted(splits.keys() - {"train", "validation", "test"}):
        print(f"{name}: not used: {', '.join(unused)}.")
    if "train" not in splits:
        raise ValueError(f"{name} has no split named train with labels; it has {', '.join(splits) or 'none'}")
    if "test" not in splits and "validation" in splits:
        print(f"{name}: the validation split serves as the test split.")
        splits["test"] = splits.pop("validation")
    for split in ("test", "validation"):
        if split not in splits:
            splits["train"], splits[split] = _carve(splits["train"])
            print(f"{name}: {len(splits[split]):,} texts of train serve as the {split} split.")
    return _without_overlap(splits, name)


def _split_name(split: str) -> str:
    return "validation" if split in ("valid", "val", "dev") else split


def _load(name: str, packaged: Sequence[str]) -> "dict[str, Dataset]":
    """All splits of a local folder or a hub data set, by name."""
    import datasets

    folder = Path(name).expanduser()
    ways: list[tuple[Callable, tuple[str, ...]]]
    if folder.is_file():
        raise ValueError(f"{name} is a file; `read_csv` reads CSV and TSV files, `load_data` takes their folder")
    if folder.is_dir():
        saved = any((folder / mark).exists() for mark in ("dataset_dict.json", "state.json"))
        ways = [(datasets.load_from_disk if saved else datasets.load_dataset, (str(folder),))]
    else:
        _check_not_misspelt(name, packaged)
        ways = [(datasets.load_dataset, arguments) for arguments in _hub_arguments(name)]
    failures = []
    for load, arguments in ways:
        try:
            with _no_retry_notices():
                loaded = load(*arguments)
            return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
        except Exception as error:  # whatever the hub, the network or a reader of files may raise
            reason = str(error).strip().partition("\n")[0]
            failures.append(f"{load.__name__}({', '.join(map(repr, arguments))}): {type(error).__name__}: {reason}")
            if isinstance(error, ConnectionError):
                break  # the next way would wait for the same network
    raise ValueError(
        f"cannot load {name!r}. Packaged, and in need of no network: {', '.join(packaged)}. "
        "Anything else is a folder here or a hub id, which needs a network once. Tried " + "; ".join(failures)
    )


def _check_not_misspelt(name: str, packaged: Sequence[str]) -> None:
    if close := difflib.get_close_matches(name.casefold(), packaged, n=1, cutoff=0.75):
        raise ValueError(f"unknown data set {name!r}; did you mean {close[0]!r}? Packaged: {', '.join(packaged)}")


@contextmanager
def _no_retry_notices() -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub.utils._http")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _hub_arguments(name: str) -> list[tuple[str, ...]]:
    """Ways to read a hub name: "a/b" is a user's data set or a configuration of data set a; "a/b/c" is one of a/b."""
    first, _, last = name.rpartition("/")
    if name.count("/") == 1:
        return [(name,), (first, last)]
    return [(first, last)] if first else [(name,)]


def _text_and_label(part: "Dataset", name: str) -> "Dataset":
    """Only the columns text and label, without rows that lack one."""
    column = next((c for c in TEXT_COLUMNS if c in part.column_names), None)
    if column is None or "label" not in part.column_names:
        raise ValueError(
            f"{name} needs a column label and one of {', '.join(TEXT_COLUMNS)}; it has {', '.join(part.column_names)}. "
            "Load it with datasets.load_dataset and rename its columns"
        )
    if column != "text":
        part = part.rename_column(column, "text")
    part = part.select_columns(["text", "label"])
    texts, labels = part["text"][:], part["label"][:]
    whole = [i for i in range(len(part)) if texts[i] and str(texts[i]).strip() and labels[i] is not None]
    if len(whole) < len(part):
        print(f"{name}: {counted_rows(len(part) - len(whole))} without text or label dropped.")
    return part.select(whole)


def _with_visible_labels(splits: "dict[str, Dataset]", name: str) -> "dict[str, Dataset]":
    """Labels as one ClassLabel for all splits; splits with hidden labels (-1) are left out."""
    visible = {}
    for split, part in splits.items():
        if -1 in part["label"][:]:
            print(f"{name}: the labels of the {split} split are hidden (-1); it is not used.")
        else:
            visible[split] = part
    return _as_class_labels(visible, name)


def _as_class_labels(splits: "dict[str, Dataset]", name: str) -> "dict[str, Dataset]":
    from datasets import ClassLabel

    if all(isinstance(part.features["label"], ClassLabel) for part in splits.values()):
        return splits
    given = [label for part in splits.values() for label in part["label"][:]]
    if odd := next((label for label in given if not isinstance(label, int | str)), None):
        raise ValueError(f"the labels of {name} are not classes; one of them is {odd!r}")
    names, of_value = class_names([str(label) for label in given])
    feature = ClassLabel(names=names)
    return {split: _with_labels(part, feature, of_value) for split, part in splits.items()}


def _with_labels(part: "Dataset", feature: "ClassLabel", of_value: dict[str, str]) -> "Dataset":
    from datasets import Dataset, Features

    ids = [feature.str2int(of_value[str(label)]) for label in part["label"][:]]
    features = Features({"text": part.features["text"], "label": feature})
    return Dataset.from_dict({"text": part["text"][:], "label": ids}, features=features)


def _carve(train: "Dataset") -> "tuple[Dataset, Dataset]":
    """Take a tenth, at most 1,000 texts, off a train split."""
    labels = np.array(train["label"])
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
