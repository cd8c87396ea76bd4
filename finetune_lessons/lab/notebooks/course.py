"""The lessons as a course: what each is about, what it stands on, and which exercises somebody has passed."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_lessons.lab.data.json_files import read_json
from finetune_lessons.lab.notebooks.executing import lessons

PROGRESS = "FINETUNE_LESSONS_PROGRESS"  # a file instead of the user's; empty: none
TABLE = "index-path"  # the cell of the index that holds the table


@dataclass(frozen=True)
class Lesson:
    "What the head of a lesson says of it."

    number: str
    part: str  # of the course
    title: str
    idea: str  # in one sentence
    minutes: str  # of a laptop's processor, to run
    memory: str
    after: tuple[str, ...]  # numbers of the lessons that it stands on
    exercises: int
    path: Path


def course() -> list[Lesson]:
    "All lessons, in the order of their numbers; empty where there is no source checkout."
    return [_lesson(path) for path in lessons()]


def _lesson(path: Path) -> Lesson:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    head = notebook.cells[0].source
    rows = dict(re.findall(r"^\| \*\*(\w+)\*\* \| (.*) \|$", head, flags=re.MULTILINE))
    (title,), (idea,) = re.findall(r"^# (.*)$", head, re.MULTILINE), re.findall(r"^> (.*)$", head, re.MULTILINE)
    needed = [part for part in rows["Before"].split(";") if not re.search("helps|faster", part)]
    exercises = sum(cell.source.count("\ncheck_") for cell in notebook.cells if cell.cell_type == "code")
    minutes = re.match(r"[\d to]+ minutes?", rows["Time"])
    return Lesson(
        number=path.stem[:2],
        part=path.parent.name[2:].replace("_", " ").capitalize(),
        title=title,
        idea=idea,
        minutes=minutes[0] if minutes else rows["Time"],
        memory=rows["Memory"].split(",")[0],
        after=tuple(re.findall(r"\b\d\d\b", " ".join(needed))),
        exercises=exercises,
        path=path,
    )


def course_table(
    lessons: Sequence[Lesson],
    done: Mapping[str, list[int]] | None = None,  # exercises by lesson; None: without their column
) -> str:
    "The path in markdown, a row a lesson."
    heads = ["lesson", "what it is about", "to run", "memory", "after", "exercises" + (" done" if done else "")]
    rows = [heads, ["---"] * len(heads), *(_row(lesson, done) for lesson in lessons)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(lesson: Lesson, done: Mapping[str, list[int]] | None) -> list[str]:
    link = f"{lesson.number} [{lesson.title}]({lesson.path.parent.name}/{lesson.path.name})"
    return [link, lesson.idea, lesson.minutes, lesson.memory, ", ".join(lesson.after), _exercises(lesson, done)]


def _exercises(lesson: Lesson, done: Mapping[str, list[int]] | None) -> str:
    if not done:
        return str(lesson.exercises)
    count = len(done.get(lesson.number, []))
    mark = "\N{CHECK MARK} " if count >= lesson.exercises else ""
    return f"{mark}{count} of {lesson.exercises}"


def progress() -> Mapping[str, list[int]]:
    "The numbers of the exercises that somebody passed on this computer, by lesson: none where none is kept."
    kept = read_json(file) if (file := progress_file()) else {}
    return {
        lesson: [number for number in numbers if isinstance(number, int)]
        for lesson, numbers in kept.items()
        if isinstance(numbers, list)
    }


def progress_file() -> Path | None:
    "Where the checks of the exercises note what was passed; FINETUNE_LESSONS_PROGRESS names another, or, empty, none."
    import platformdirs

    named = os.environ.get(PROGRESS)
    if named is None:
        return platformdirs.user_data_path("finetune_lessons", appauthor=False) / "progress.json"
    return Path(named).expanduser() if named else None
