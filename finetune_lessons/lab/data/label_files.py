"""Labels that a person gives: a CSV file with the columns text and label, written whole after each of them."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from finetune_lessons.lab.data.text_files import decode, replace_file

COLUMNS = ["text", "label"]


def read_labels(
    file: Path,
    names: Sequence[str],  # of the classes
) -> dict[str, str]:
    """Text -> the name of its class, "" where it was passed over; empty where there is no file.

    Raises ValueError for a file that holds anything else.
    """
    if not file.exists():
        return {}
    text, _ = decode(file.read_bytes())
    header, *rows = list(csv.reader(StringIO(text, newline=""))) or [[]]
    if header != COLUMNS or any(len(row) != 2 for row in rows):
        raise ValueError(f"{file} is not a file of labels, with the columns text and label: give another name")
    found = {row[0]: row[1] for row in rows}
    if strange := sorted({label for label in found.values()} - {*names, ""}):
        raise ValueError(f"{file} has labels of other classes, such as {strange[0]!r}: give another name for this task")
    return found


def write_labels(file: Path, labels: Mapping[str, str]) -> None:
    "Whole, or not at all; with the mark by which spreadsheets know UTF-8. Raises OSError where nothing can be written."
    text = StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *labels.items()])
    replace_file(file, text.getvalue().encode("utf-8-sig"))
