"""The cells of a CSV or TSV file as they stand in it, whoever wrote it."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from finetune_lessons.lab.data.text_files import decode

SEPARATORS = ",;\t|"
_DECLARED = re.compile(r'\s*"?sep=(\\t|\t|[^\w\s"])"?[,;\t| ]*[\r\n]', re.IGNORECASE)  # a first line that Excel knows


@dataclass(frozen=True)
class Table:
    """A header and rows of strings without spaces around them."""

    path: Path
    names: list[str]  # of the columns
    rows: list[tuple[int, list[str]]]  # line in the file, and cells

    def column(self, name: str) -> list[str]:
        """The cells below a name, empty where a row ends early; raises ValueError if no column, or two, have it."""
        i = self._index(name)
        return [cells[i] if i < len(cells) else "" for cells in self._checked_rows()]

    def _index(self, name: str) -> int:
        if self.names.count(name) == 1:
            return self.names.index(name)
        if name in self.names:
            raise ValueError(f"{self.path} has {self.names.count(name)} columns named {name!r}; rename all but one")
        raise ValueError(f"{self.path} has no column {name!r}; its columns are {', '.join(map(repr, self.names))}")

    def _checked_rows(self) -> Iterator[list[str]]:
        for line, cells in self.rows:
            if len(cells) > len(self.names):
                raise ValueError(
                    f"{self.path}, line {line}: {len(cells)} cells under {len(self.names)} columns; "
                    "put a text that contains the separator in double quotes"
                )
            yield cells


def read_table(
    path: Path,
    wanted: Collection[str],  # names that a header may have: the separator is the one that shows most of them
) -> Table:
    """The whole file; an encoding other than Unicode is said. Raises ValueError that says what is wrong with it."""
    content, encoding = decode(path.read_bytes())
    if "\0" in content:
        raise ValueError(f"{path} is not a text file; save it as CSV in UTF-8")
    if not content.strip():
        raise ValueError(f"{path} is empty")
    if encoding not in ("utf-8-sig", "utf-16"):
        print(f"{path.name}: not UTF-8, read as {encoding}; if its letters look wrong, save it as UTF-8.")
    declared = _DECLARED.match(content)
    rows = _parse(path, content, _dialect(content, declared, wanted))[1 if declared else 0 :]
    if not rows:
        raise ValueError(f"{path} has no line below {content.strip()!r}")
    (_, names), *rows = rows
    return Table(path, names, rows)


def _dialect(content: str, declared: re.Match | None, wanted: Collection[str]) -> dict[str, Any]:
    """How to split lines: the way that shows most of the wanted names in the header, then the most columns."""
    separators = [declared[1].replace("\\t", "\t")] if declared else list(SEPARATORS)
    header = content[declared.end() if declared else 0 :].lstrip("\r\n")

    def fit(dialect: dict[str, Any]) -> tuple[int, int]:
        try:
            names = [cell.strip() for cell in next(csv.reader(io.StringIO(header, newline=""), **dialect), [])]
        except csv.Error:
            return 0, 0
        return len(set(wanted) & set(names)), len(names)

    dialects = [
        {"delimiter": separator, "skipinitialspace": spaced, "strict": True}  # spaced: "text", "label"
        for spaced, separator in product((False, True), separators)
    ]
    return max(dialects, key=fit)


def _parse(path: Path, content: str, dialect: dict[str, Any]) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row that is not blank."""
    limit = csv.field_size_limit(2**31 - 1)  # a text may be a book
    reader = csv.reader(io.StringIO(content, newline=""), **dialect)
    try:
        return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; "
            'put a text with double quotes in double quotes, and write each of its own twice ("")'
        ) from error
    finally:
        csv.field_size_limit(limit)
