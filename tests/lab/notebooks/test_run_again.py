"""Whoever has worked through a lesson may run an earlier section again: its names are still what they were."""

import ast
import dis
import re
from collections.abc import Iterator
from types import CodeType

import nbformat
import pytest

from finetune_lessons.lab.notebooks.executing import lessons

SECTIONS = [path for path in lessons() if path.name[:2] in ("11", "14", "21", "22")]
IDS = [path.stem for path in SECTIONS]
Section = tuple[str, list[nbformat.NotebookNode]]  # a heading, and the code cells up to the next


def sections(notebook: nbformat.NotebookNode) -> list[Section]:
    found: list[Section] = [("", [])]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            headings = re.findall(r"^#+ +(.+?) *$", prose, flags=re.MULTILINE)
            found += [(headings[-1], [])] if headings else []
        elif cell.source.strip():
            found[-1][1].append(cell)
    return [section for section in found if section[1]]


def uses(source: str) -> tuple[list[tuple[str, bool]], set[str]]:
    "The names of the notebook that the code reads (False) and gives a value (True), in order; those that are imported."
    source = re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.MULTILINE)  # a line for the notebook itself
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name.partition(".")[0] for node in nodes for alias in node.names}
    return list(_in(compile(source, "cell", "exec"), outside=True)), imported


def _in(code: CodeType, outside: bool) -> Iterator[tuple[str, bool]]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
            yield step.argval, False
        elif outside and step.opname in ("STORE_NAME", "STORE_GLOBAL"):
            yield step.argval, True
        elif isinstance(step.argval, CodeType):
            yield from _in(step.argval, outside=False)


def overwritten(notebook: nbformat.NotebookNode) -> list[str]:
    "What a section has from an earlier one, and a later one gives another value."
    reads, writes = [], []
    for _, cells in (found := sections(notebook)):
        needed, given, imports = set[str](), set[str](), set[str]()
        for names, imported in (uses(cell.source) for cell in cells):
            imports |= imported
            for name, is_given in names:
                (given if is_given else needed).update({name} - given)
        reads.append(needed)
        writes.append(given - imports)
    return [
        f"{heading!r} reads {name}, which {found[later][0]!r} overwrites"
        for i, (heading, _) in enumerate(found)
        for name in sorted(reads[i] & set().union(*writes[: i + 1]))
        for later in range(i + 1, len(found))
        if name in writes[later]
    ]


def cell(source: str, kind: str = "code") -> nbformat.NotebookNode:
    return (nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell)(source)


def test_a_name_that_a_later_section_overwrites_is_found():
    cells = [cell("# One", "markdown"), cell("import os\nx = 1"), cell("# Two", "markdown"), cell("def f(): return x")]
    cells += [cell("# Three", "markdown"), cell("import os\nf()\nfor x in range(3): pass")]
    assert overwritten(nbformat.v4.new_notebook(cells=cells)) == ["'Two' reads x, which 'Three' overwrites"]
    cells[-1] = cell("y = f()\nx_of_three = [x for x in range(3)]")
    assert overwritten(nbformat.v4.new_notebook(cells=cells)) == []


@pytest.mark.parametrize("path", SECTIONS, ids=IDS)
def test_no_section_overwrites_what_an_earlier_one_reads(path):
    assert overwritten(nbformat.read(path, as_version=4)) == []
