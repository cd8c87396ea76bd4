"""A lesson's page says what stands below it: numbers, equal budgets, a picture early on, one's own data at the end."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from finetune_lessons.lab.notebooks.executing import lessons
from finetune_lessons.lab.panel.names import KNOWN

RESULTS = Path(__file__).parents[2] / "nbs" / "results"
ALL = pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
REVIEWS = [path for path in lessons() if path.stem[:2] in ("23", "24", "31", "32")]  # whose own data are reviews

MEASURED = re.compile(r"(?<![\w./^:-])[+-]?\d+(?:\.\d{2,}|(?:\.\d+)?%)(?![\w/])")
NOT_PROSE = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`]*`|\]\([^)]*\)|arXiv:\S+|<details>.*?</details>", re.DOTALL
)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def shown(cell):
    "All text of a cell's outputs."
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from (str(value) for mime, value in output.get("data", {}).items() if mime.startswith("text/"))
        yield from (str(words) for words in output.get("metadata", {}).values())


def pictures(cell):
    for output in cell.get("outputs", []):
        for mime in ("image/png", "image/svg+xml"):
            if mime in output.get("data", {}):
                yield output.get("metadata", {}).get(mime, {}).get("alt", "")


@ALL
def test_measured_numbers_in_the_prose_stand_in_an_output(path):
    code = cells(path, "code")
    known = "\n".join([text for cell in code for text in shown(cell)] + [cell.source for cell in code])
    prose = "\n".join(NOT_PROSE.sub(" ", cell.source) for cell in cells(path, "markdown"))
    said = {number.lstrip("+-") for number in MEASURED.findall(prose)}
    assert sorted(number for number in said if number.rstrip("%") not in known) == []


@ALL
def test_a_table_compares_rows_of_one_budget(path):
    "Files of results that one lesson puts into one table have one number of epochs, or say the steps of each row."
    together = set()
    for cell in cells(path, "code"):
        if "pd.concat" in cell.source or "reference_results(" in cell.source:
            together |= set(re.findall(r"results/(\d+\.json)", cell.source))
    kept = {name: json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in together}
    budgets = {name: results["config"].get("epochs") for name, results in kept.items()}
    if len(budgets) > 1:
        assert len(set(map(str, budgets.values()))) == 1, budgets
    for name, budget in budgets.items():
        assert not isinstance(budget, dict) or all("steps" in run for run in kept[name]["runs"]), (name, budget)


@ALL
def test_the_picture_of_the_idea_comes_in_the_first_third(path):
    notebook = nbformat.read(path, as_version=4)
    early = notebook.cells[: len(notebook.cells) // 3]
    assert any(len(alt) > 40 for cell in early for alt in pictures(cell))


@ALL
def test_every_knob_says_what_it_is(path):
    code = [ast.parse(cell.source) for cell in cells(path, "code") if re.search(r"\b(?:Panel|explore)\(", cell.source)]
    calls = [node for tree in code for node in ast.walk(tree) if isinstance(node, ast.Call)]
    turned = [call for call in calls if getattr(call.func, "id", "") in ("Panel", "explore")]
    assert len(turned) >= 2 or path.stem[:2] == "32"
    for call in turned:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        said = ast.literal_eval(given.pop("help")) if "help" in given else {}
        knobs = given.keys() - {"ask", "hide", "lock", "xlabel"}
        assert knobs and all(said.get(name) or KNOWN.get(name, " ")[-1].strip() for name in knobs), sorted(knobs)


@pytest.mark.parametrize("path", REVIEWS, ids=lambda path: path.stem)
def test_ones_own_data_and_the_next_lesson_stand_at_the_end(path):
    notebook = nbformat.read(path, as_version=4)
    (start,) = [i for i, cell in enumerate(notebook.cells) if re.search("^## Your turn", cell.source, re.MULTILINE)]
    turn = [cell for cell in notebook.cells[start:] if cell.cell_type == "code"]
    code = "\n".join(cell.source for cell in turn)
    assert "read_csv(path" in code
    assert all(cell.outputs for cell in turn if "check_" not in cell.source)
    assert "It broke after two days." in code
    assert "**Next" in notebook.cells[-1].source
