"""A hub data set or a local folder as it comes: all its splits, by name, with all their columns."""

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_lessons.lab.data.csv_table import read_table

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features


def load_source(
    name: str,  # a hub id ("glue/sst2", "stanfordnlp/imdb") or a local folder
    packaged: Sequence[str],  # names that need no hub, to point to when `name` cannot be loaded
    columns: Sequence[str],  # names to look for in the header of a CSV file
) -> "dict[str, Dataset]":
    """All splits by name; the cells of CSV files are strings, as they stand there.

    Raises ValueError that says what was tried, or what is wrong with a CSV file.
    """
    import datasets

    folder = Path(name).expanduser()
    ways: list[tuple[Callable, tuple[str, ...]]]
    if folder.is_file():
        raise ValueError(f"{name} is a file; `read_csv` reads CSV and TSV files, `load_data` takes their folder")
    if folder.is_dir():
        saved = any((folder / mark).exists() for mark in ("dataset_dict.json", "state.json"))
        if not saved and (files := _csv_files(folder)):
            return {split: _read_split(paths, columns) for split, paths in files.items()}
        ways = [(datasets.load_from_disk if saved else datasets.load_dataset, (str(folder),))]
    else:
        _check_not_misspelt(name, packaged)
        ways = [(datasets.load_dataset, arguments) for arguments in _hub_arguments(name)]
    failures = []
    for load, arguments in ways:
        try:
            with _no_retry_notices():
                loaded = _splits(load(*arguments))
                if load is datasets.load_dataset and (strings := _read_by_pandas(loaded)):
                    loaded = _splits(load(*arguments, features=strings, na_filter=False))
            return loaded
        except Exception as error:  # whatever the hub, the network or a reader of files may raise
            reason = str(error).strip().partition("\n")[0]
            failures.append(f"{load.__name__}({', '.join(map(repr, arguments))}): {type(error).__name__}: {reason}")
            if isinstance(error, ConnectionError):
                break  # the next way would wait for the same network
    raise ValueError(
        f"cannot load {name!r}. Packaged, and in need of no hub: {', '.join(packaged)}. "
        "Anything else is a folder here or a hub id, which needs a network once. Tried " + "; ".join(failures)
    )


def _csv_files(folder: Path) -> dict[str, list[Path]] | None:
    """CSV and TSV files by split, as the `datasets` library finds them; None if that is not all the folder holds."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(str(folder))
    except Exception:  # `load_dataset` will raise the same, and its words are passed on
        return None
    if builder.info.builder_name != "csv" or builder.info.features:
        return None
    files = {str(split): [Path(file) for file in paths] for split, paths in builder.config.data_files.items()}
    plain = all(file.suffix.lower() in (".csv", ".tsv") for paths in files.values() for file in paths)
    return files if plain else None


def _read_split(files: list[Path], columns: Sequence[str]) -> "Dataset":
    from datasets import Dataset, concatenate_datasets

    tables = [read_table(file, columns) for file in files]
    parts = [{name: table.column(name) for name in _readable(table.names, columns)} for table in tables]
    return concatenate_datasets([Dataset.from_dict(part) for part in parts])


def _readable(names: list[str], columns: Sequence[str]) -> list[str]:
    """Without columns that have no name, or one that others have, unless it is a name to look for."""
    return [name for name in names if name in columns or (name and names.count(name) == 1)]


def _splits(loaded: "Dataset | DatasetDict") -> "dict[str, Dataset]":
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _read_by_pandas(splits: "dict[str, Dataset]") -> "Features | None":
    """For CSV files, their columns as strings: pandas takes a class called None for a missing label, 007 for a 7."""
    from datasets import ClassLabel, Features, Value

    if any(part.info.builder_name != "csv" for part in splits.values()):
        return None
    features = next(iter(splits.values())).features
    if any(isinstance(feature, ClassLabel) for feature in features.values()):
        return None
    return Features({column: Value("string") for column in features})


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
