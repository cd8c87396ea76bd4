"""A learner's own CSV or TSV file: read whole, or refused for a stated reason."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_lessons.lab.data.csv_columns import check_columns
from finetune_lessons.lab.data.csv_numbers import MOST_CLASSES, are_measurements, split_numbers
from finetune_lessons.lab.data.csv_table import Table, read_table
from finetune_lessons.lab.data.labels import class_names, is_number
from finetune_lessons.lab.data.splits import Row, counted_rows, normal_form, split_rows, with_n_train, without_repeats

if TYPE_CHECKING:
    from datasets import DatasetDict


def read_csv(
    path: str | Path,  # a CSV or TSV file with a header line
    text: str = "text",  # column with the texts
    label: str = "label",  # column with the classes, as words or numbers, or with numbers to be predicted
    n_train: int | None = None,  # training texts to draw, with the class shares of the whole; None: all
    seed: int = 0,  # of which training texts are drawn, and of their order
) -> "DatasetDict":
    """Train, validation and test (7 : 1 : 2 of each class) from a file, with the columns text and label.

    The encoding (UTF-8, UTF-16 with its mark, GB18030 if the text is Chinese, else Windows-1252) and the separator
    (comma, semicolon, tab, pipe, or the one that a first line like `sep=;` declares) are found.
    Rows without text or label, repeated texts, and texts with several labels are dropped, and their number is printed.
    Numbers with a fraction that are too many to be classes are a regression, and that is printed too.
    Raises ValueError that says what is wrong with the file, FileNotFoundError if there is none.
    """
    path = Path(path).expanduser()
    table = _read(path, text, label)
    cells = zip(table.column(text), table.column(label), strict=True)
    rows = [{"text": text_cell, "label": label_cell} for text_cell, label_cell in cells]
    rows = _kept(rows, [row for row in rows if row["text"]], path, "without text")
    rows = _kept(rows, [row for row in rows if row["label"]], path, "without a label")
    if not rows:
        raise ValueError(f"{path} has no row with both a text and a label")
    names = _name_labels(rows)
    rows = _with_one_label_a_text(rows, path)
    rows = _kept(rows, without_repeats(rows), path, "with a repeated text")
    counts = Counter(row["label"] for row in rows)
    if are_measurements(counts):
        return split_numbers(rows, path.name, label, n_train, seed)
    names = [name for name in names if counts[name]]
    _check_classes(path, counts, names, label)
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
    table = read_table(path, (text, label))
    check_columns(table, text, label)
    return table


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


def _with_one_label_a_text(rows: list[Row], path: Path) -> list[Row]:
    labels: dict[str, dict[str, None]] = {}
    for row in rows:
        labels.setdefault(normal_form(row["text"]), {})[row["label"]] = None
    torn = [row for row in rows if len(labels[normal_form(row["text"])]) > 1]
    if not torn:
        return rows
    text = torn[0]["text"]
    shown = f"{text if len(text) < 40 else text[:40] + '...'!r} ({', '.join(labels[normal_form(text)])})"
    if len(torn) == len(rows):
        raise ValueError(f"{path}: every text has several labels, such as {shown}: keep one label for each text")
    whole = [row for row in rows if len(labels[normal_form(row["text"])]) == 1]
    return _kept(rows, whole, path, f"whose text has several labels, as {shown},")


def _check_classes(path: Path, counts: Counter, names: list[str], label: str) -> None:
    if len(names) == 1:
        raise ValueError(f"{path}: all {counts.total():,} labels are {names[0]!r}; two classes at least are needed")
    if rare := [name for name in names if counts[name] < 3]:
        shown = ", ".join(f"{name!r} ({counts[name]})" for name in rare[:5]) + (" ..." if len(rare) > 5 else "")
        raise ValueError(
            f"{path}: {len(rare)} of the {len(names)} classes in column {label!r} have fewer than 3 texts, too few for "
            f"train, validation and test: {shown}. Remove or merge them, or add texts{_no_classes(names)}"
        )


def _no_classes(names: list[str]) -> str:
    if len(names) <= MOST_CLASSES or not all(map(is_number, names)):
        return ""
    return (
        ". If they are numbers to be predicted, load the file with datasets.load_dataset('csv', data_files=...) and "
        "cast the column: data.cast_column('label', Value('float64'))"
    )
