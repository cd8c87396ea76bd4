"""A learner's own CSV or TSV file: read whole, or refused for a stated reason."""

import csv
import difflib
import io
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_lessons.lab.data.splits import Row, class_names, counted_rows, split_rows, with_n_train, without_repeats

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

    The encoding (UTF-8, UTF-16 with its mark, else Windows-1252) and the separator (comma, semicolon, tab) are found.
    Rows without text or label, and repeated texts, are dropped, and their number is printed.
    Raises ValueError that says what is wrong with the file, FileNotFoundError if there is none.
    """
    path = Path(path).expanduser()
    table = _read_table(path, text, label)
    rows = [{"text": t.strip(), "label": c.strip()} for t, c in table]
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


def _read_table(path: Path, text: str, label: str) -> list[tuple[str, str]]:
    """The cells of the two columns, row by row; a row that ends early has empty cells."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; `load_data` reads folders, `read_csv` reads one file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if text == label:
        raise ValueError(f"text and label are two columns; both are given as {text!r}")
    content, encoding = decode(path.read_bytes())
    if "\0" in content:
        raise ValueError(f"{path} is not a text file; save it as CSV in UTF-8")
    if not content.strip():
        raise ValueError(f"{path} is empty")
    if encoding not in ("utf-8-sig", "utf-16"):
        print(f"{path.name}: not UTF-8, read as {encoding}.")
    header, *rows = _parse(path, content, _separator(content, text, label))
    columns = [_column(path, header, wanted) for wanted in (text, label)]
    for line, cells in rows:
        if len(cells) > len(header[1]):
            raise ValueError(
                f"{path}, line {line}: {len(cells)} cells under {len(header[1])} columns; "
                "put a text that contains the separator in double quotes"
            )
    return [tuple(cells[c] if c < len(cells) else "" for c in columns) for _, cells in rows]  # type: ignore[misc]


def decode(content: bytes) -> tuple[str, str]:
    """The text, and the encoding that fits."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16", "cp1252", "latin-1"]
    else:
        encodings = ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            return content.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes any bytes")


def _separator(content: str, text: str, label: str) -> str:
    """The separator that makes the wanted columns appear in the header, else the one that makes most columns."""
    header = re.split(r"[\r\n]", content.lstrip("\r\n"), maxsplit=1)[0]

    def fit(separator: str) -> tuple[bool, int]:
        names = [cell.strip(' "') for cell in header.split(separator)]
        return {text, label} <= set(names), len(names)

    return max(",;\t", key=fit)


def _parse(path: Path, content: str, separator: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row that is not blank."""
    limit = csv.field_size_limit(2**31 - 1)  # a text may be a book
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; "
            'put a text with double quotes in double quotes, and write each of its own twice ("")'
        ) from error
    finally:
        csv.field_size_limit(limit)


def _column(path: Path, header: tuple[int, list[str]], wanted: str) -> int:
    names = [name.strip() for name in header[1]]
    if names.count(wanted) == 1:
        return names.index(wanted)
    if wanted in names:
        raise ValueError(f"{path} has {names.count(wanted)} columns named {wanted!r}; rename all but one")
    close = difflib.get_close_matches(wanted.casefold(), [name.casefold() for name in names], n=1, cutoff=0.5)
    hint = next((f"; did you mean {name!r}?" for name in names if close and name.casefold() == close[0]), "")
    raise ValueError(f"{path} has no column {wanted!r}; its columns are {', '.join(map(repr, names))}{hint}")


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
