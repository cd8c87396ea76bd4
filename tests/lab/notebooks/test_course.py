"""The way through the lessons is what their heads say, as a table and as a picture."""

import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from finetune_lessons.lab.figures.palette import contrast
from finetune_lessons.lab.notebooks import course as course_module
from finetune_lessons.lab.notebooks.course import Lesson, course, course_table, progress, progress_file
from finetune_lessons.lab.notebooks.course_picture import FILLS, course_words, draw_course
from finetune_lessons.lab.notebooks.executing import lessons

NBS = Path(__file__).parents[3] / "nbs"
SVG = "{http://www.w3.org/2000/svg}"


def lesson(number: str, after: str = "", part: str = "Foundations", exercises: int = 2) -> Lesson:
    return Lesson(number, part, f"Lesson {number}", "An idea.", "2 minutes", "2 GB", tuple(after.split()), exercises,
                  NBS / f"1_foundations/{number}_x.ipynb")  # fmt: skip


def test_a_lesson_is_what_its_head_says(tmp_path, monkeypatch):
    head = (
        "# LoRA & more\n\n> A trained matrix.\n\n| | |\n|---|---|\n| **Time** | 2 to 4 minutes to run; an hour |\n"
        "| **Memory** | 6 GB, most of it for two |\n"
        "| **Before** | lessons 11 (cross-entropy) and 14 (surgery); lesson 31 helps; 384 numbers |\n| **After** | x |"
    )
    cells = [nbformat.v4.new_markdown_cell(head), nbformat.v4.new_code_cell("def my_x(): ...\ncheck_x(my_x)")]
    path = tmp_path / "2_parameter_efficient/22_lora.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(course_module, "lessons", lambda: [path])
    said = ("22", "Parameter efficient", "LoRA & more", "A trained matrix.", "2 to 4 minutes", "6 GB", ("11", "14"), 1)
    assert course() == [Lesson(*said, path)]


def test_every_lesson_has_a_place_in_the_table_and_in_the_picture():
    table, picture = course_table(course()), draw_course(course())
    assert len(course()) == len(lessons()) == len(table.splitlines()) - 2
    for each, row in zip(course(), table.splitlines()[2:], strict=True):
        (link,) = re.findall(r"\((\S+\.ipynb)\)", row)
        assert (NBS / link).samefile(each.path) and each.minutes in row and each.exercises >= 3
        assert f"{each.number} {each.title}" in picture


def test_the_table_says_what_is_done():
    rows = course_table([lesson("11"), lesson("14", "11"), lesson("22", "11 14")], {"11": [1, 2], "14": [2]})
    assert [row.split(" | ")[-1] for row in rows.splitlines()] == [
        "exercises done |", "--- |", "\N{CHECK MARK} 2 of 2 |", "1 of 2 |", "0 of 2 |",
    ]  # fmt: skip
    assert course_table([lesson("11")]).splitlines()[2].endswith("| 2 |")


def test_the_picture_draws_a_line_from_what_a_lesson_stands_on_directly():
    some = [lesson("11"), lesson("14", "11"), lesson("22", "11 14", "Tuning"), lesson("31", "11", "Tuning")]
    assert course_words(some) == (
        "The way through the lessons: 11 Lesson 11; 14 Lesson 14 after 11; 22 Lesson 22 after 14; "
        "31 Lesson 31 after 11."
    )
    drawn = ElementTree.fromstring(draw_course(some))
    boxes = [(int(box.get("x")), int(box.get("y"))) for box in drawn.iter(f"{SVG}rect")]
    assert boxes == [(6, 6), (284, 6), (562, 6), (284, 70)]
    assert drawn.find(f"{SVG}title").text == course_words(some) and len(list(drawn.iter(f"{SVG}path"))) == 2 * 3
    assert {text.get("fill") for text in drawn.iter(f"{SVG}text")} == {"#fff"}
    assert int(ElementTree.fromstring(draw_course(course())).get("width")) <= 800


def test_the_picture_reads_on_white_and_on_dark_pages():
    for fill in FILLS:
        assert contrast(fill, "#ffffff") > 4.5 and contrast(fill, "#111111") > 3 and contrast(fill, "#0d1117") > 3


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"11": 3}', None])
def test_without_readable_progress_nothing_is_done(content, tmp_path, monkeypatch):
    file = tmp_path / "progress.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("FINETUNE_LESSONS_PROGRESS", str(file))
    assert progress() == {}
    monkeypatch.setenv("FINETUNE_LESSONS_PROGRESS", "")
    assert progress() == {} and progress_file() is None


def test_progress_is_what_the_checks_keep(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_LESSONS_PROGRESS", str(tmp_path / "progress.json"))
    (tmp_path / "progress.json").write_text('{"11": [1, 2]}')
    assert progress() == {"11": [1, 2]}
    monkeypatch.delenv("FINETUNE_LESSONS_PROGRESS")
    assert progress_file().parts[-2:] == ("finetune_lessons", "progress.json")
