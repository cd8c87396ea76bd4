"""`python -m finetune_lessons.lab.notebooks.opening`: JupyterLab on the reader's own copies of the lessons."""

import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_lessons.lab.notebooks.course import TABLE, course, course_table, progress
from finetune_lessons.lab.notebooks.editions import make_copies
from finetune_lessons.lab.notebooks.executing import lessons

COPIES = "my_lessons"


def open_lessons(
    arguments: Sequence[str] = (),  # of JupyterLab
) -> None:
    "Bring the copies up to date, say which stay as they are, and start JupyterLab on their index."
    from jupyterlab.labapp import LabApp

    folder = copies()
    LabApp.launch_instance([str(folder), "--LabApp.default_url=/lab/tree/index.ipynb", *arguments])


def copies() -> Path:
    "The folder of the reader's own copies, up to date; ValueError where there is no source checkout."
    if not lessons():
        raise ValueError("no lessons here: clone the repository and run this inside it")
    source = lessons()[0].parents[1]
    folder = source.parent / COPIES
    for said in make_copies(source, folder, {TABLE: course_table(course(), progress())}):
        print(said, file=sys.stderr)
    return folder


if __name__ == "__main__":
    open_lessons(sys.argv[1:])
