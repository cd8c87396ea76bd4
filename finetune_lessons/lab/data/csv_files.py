"""A learner's own CSV or TSV file: read whole, or refused for a stated reason."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_lessons.lab.data.csv_table import Table, read_table
from finetune_lessons.lab.data.labels import class_names
from finetune_lessons.lab.data.splits import Row, counted_rows, split_rows, with_n_train, without_repeats

if TYPE_CHECKING:
    from datasets import DatasetDict


def read_csv(
    path: str | Path,  # a CSV or TSV file with a header line
    text: str = "text",  # column with the texts
    label: str = "label",  # column with the classes, as words or numbers
    n_train: int | None = None,  # training texts to draw, with the class shares of the whole; None: all
    seed: int = 0,  # of which training texts are drawn, and of their order
) -> "DatasetDict":
    """Train, validation and test (7 : 1 : 2 of each class) from a file, with the columns text and label.

    The encoding (UTF-8, UTF-16 with its mark, GB18030 if the text is Chinese, else Windows-1252) and the separator
    (comma, semicolon, tab, pipe, or the one that a first line like `sep=;` declares) are found.
    Rows without text or label, and repeated texts, are dropped, and their number is printed.
    Raises ValueError that says what is wrong with the file, FileNotFoundError if there is none.
    """
    path = Path(path).expanduser()
    table = _read(path, text, label)
    cells = zip(table.column(text), table.column(label), strict=True)
    rows = [{"text": text_cell, "label": label_cell} for text_cell, label_cell in cells]
    rows = _kept(rows, [row for row in rows if row["text"]], path, "without text")
    rows = _kept(rows, [row for row in rows if row["label"]], path, "without a label")
    names = _name_labels(rows)
    rows = _kept(rows, without_repeats(rows), path, "with a repeated text")
    _check_classes(path, rows, names, label)
    counts = Counter(row["label"] for row in rows)
    tenth = {c: max(1, round(n / 10)) for c, n in counts.items()}
    fifth = {c: max(1, round(n / 5)) for c, n in counts.items()}
    splits = split_rows(rows, {"validation": tenth, "test": fifth}, names)
    return with_n_train(splits, n_train, seed, path.name)


def _read(path: Path, text: str, label: str) -> Table:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; `load_data` reads folders, `read_csv` reads one file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if text == label:
        raise ValueError(f"text and label are two columns; both are given as {text!r}")
    return read_table(path, (text, label))


def _kept(rows: list[Row], kept: list[Row], path: Path, fault: str) -> list[Row]:
    """`kept`, after saying how many of `rows` it lacks for which fault."""
    if len(kept) < len(rows):
        print(f"{path.name}: {counted_rows(len(rows) - len(kept))} {fault} dropped.")
    return kept


def _name_labels(rows: list[Row]) -> list[str]:
    """Write numbers in one form ("1.0" is "1"); the class names, words by alphabet and numbers by size."""
    names, of_value = class_names([row["label"] for row in rows])
    for row in rows:
        row["label"] = of_value[row["label"]]
    return names


def _check_classes(path: Path, rows: list[Row], names: list[str], label: str) -> None:
    counts = Counter(row["label"] for row in rows)
    if not rows:
        raise ValueError(f"{path} has no row with both a text and a label")
    if len(names) == 1:
        raise ValueError(f"{path}: all {len(rows):,} labels are {names[0]!r}; two classes at least are needed")
    if rare := [name for name in names if counts[name] < 3]:
        shown = ", ".join(f"{name!r} ({counts[name]})" for name in rare[:5]) + (" ..." if len(rare) > 5 else "")
        raise ValueError(
            f"{path}: {len(rare)} of the {len(names)} classes in column {label!r} have fewer than 3 texts, too few for "
            f"train, validation and test: {shown}. Remove or merge them, or add texts"
        )
