"""Copies of the lessons to work in, which do not answer a question before the reader did."""

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.data.json_files import read_json, write_json

if TYPE_CHECKING:
    from nbformat import NotebookNode

INDEX = "index"
RECORD = ".copies.json"  # what was written, so that the reader's own work is told from it
ASKS = re.compile(r"(?:^|[.?!:*] ?\*{0,2})(?:Decide|Guess|Write down|Commit to)\b|\byour guess\b", re.MULTILINE)
EXPORTED = re.compile(r"(#\| .*\n)*#\| exporti?\b")
HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)
COLAB = re.compile(r"\[!\[Open in Colab\].*\n+")
LIBRARY = "#@title Library code: skip at first reading"  # as Colab shows it above a cell whose code is folded
FOLDED = "<details><summary>Answer first, run the cells above, then open this</summary>\n\n{}\n\n</details>"


def edition(
    notebook: "NotebookNode",
    outputs: bool = True,  # whether those that answer no question stay
) -> "NotebookNode":
    """The notebook as a reader should meet it; it is changed and returned.

    What the cells below a question ("Guess", "Decide", "Write down", "Commit to") put out is cleared, up to the next
    heading, and the text below them is folded. So is library code: exported cells that only import, or define what
    other modules do not see. The badge that opens Colab is left out.
    """
    for cell, answers in zip(notebook.cells, _answers(notebook.cells), strict=True):
        if cell.cell_type == "markdown":
            source = COLAB.sub("", cell.source)
            cell.source = FOLDED.format(source) if answers else source
        elif cell.cell_type == "code":
            if answers or not outputs:
                cell.outputs, cell.execution_count = [], None
            if _is_library(cell.source):
                cell.source = f"{LIBRARY}\n{cell.source}"
                cell.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}  # of JupyterLab, of Colab
    return notebook


def _answers(cells: "list[NotebookNode]") -> Iterator[bool]:
    "Which cells give away what was asked: the code below a question, and the one text below that."
    asked = ran = False
    for cell in cells:
        if cell.cell_type == "code":
            ran = asked
            yield asked
            continue
        under = re.split(HEADING, cell.source)  # what stands before the first heading in it, and below each
        asks = bool(ASKS.search(under[-1]))
        yield ran and len(under) == 1 and not asks
        asked, ran = asks or asked and not ran and len(under) == 1, False


def _is_library(source: str) -> bool:
    if not EXPORTED.match(source):
        return False
    body = ast.parse(source).body
    made = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return all(name.startswith("_") for name in made) if made else isinstance(body[0], (ast.Import, ast.ImportFrom))


def colab_editions(
    source: Path,  # the folder of the lessons, such as nbs
) -> "Iterator[tuple[str, NotebookNode]]":
    "What the badge of a notebook opens: its name, and the edition without any output."
    import nbformat

    for path in _sources(source):
        if path.suffix == ".ipynb" and COLAB.search((notebook := nbformat.read(path, as_version=4)).cells[0].source):
            yield path.name, edition(notebook, outputs=False)


def make_copies(
    source: Path,  # the folder of the lessons, such as nbs
    folder: Path,  # of the copies
    cells: Mapping[str, str],  # what stands in a copy instead, by the cell's id
) -> Iterator[str]:
    """Copy what is in the source, notebooks as `edition`, and say what the reader should know of.

    A copy that the reader worked in stays as it is, for ever; where its lesson has changed since, that is said. Of the
    index, which holds no exercise, only what is written counts as work, and not what was run.
    """
    record = folder / RECORD
    known = read_json(record)
    for path in _sources(source):
        name, copy = path.relative_to(source).as_posix(), folder / path.relative_to(source)
        old, lesson = known.get(name, {}), _digest(path.read_bytes())
        if copy.is_file() and old.get("copy") != _state(copy):
            if old.get("lesson") != lesson:
                yield f"{copy} stays as you left it; the lesson has changed since. For the new one, rename yours."
            continue
        if not copy.is_file() or old.get("lesson") != lesson or path.stem == INDEX:
            _write(path, copy, cells)
        known[name] = {"lesson": lesson, "copy": _state(copy)}
    write_json(record, known)


def _sources(source: Path) -> list[Path]:
    files = (path for path in source.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(source).parts))


def _write(path: Path, copy: Path, cells: Mapping[str, str]) -> None:
    import nbformat

    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".ipynb":
        shutil.copyfile(path, copy)
        return
    notebook = edition(nbformat.read(path, as_version=4))
    for cell in notebook.cells:
        cell.source = cells.get(cell.id, cell.source)
    nbformat.write(notebook, copy)


def _state(path: Path) -> str:
    "Of what a reader makes: cells and their outputs. A kernel's name and what JupyterLab notes beside them is no work."
    with suppress(ValueError, KeyError, TypeError):  # else it is no notebook, or no longer one
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return _digest(json.dumps([_work(cell, outputs=path.stem != INDEX) for cell in cells]).encode())
    return _digest(path.read_bytes())


def _work(cell: dict[str, Any], outputs: bool) -> list[Any]:
    shown = [output for output in cell.get("outputs", []) if outputs]
    for output in shown:
        output.pop("execution_count", None)
    return [cell["cell_type"], "".join(cell["source"]), shown]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
