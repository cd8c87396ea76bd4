"""Which exercises somebody has done, kept in a small file of the user's."""

import json
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from finetune_lessons.lab.notebooks.course import progress_file


def record(lesson: int, exercise: int) -> int:
    "Note that an exercise is done; how many of the lesson are then, 0 where that cannot be kept."
    with suppress(Exception):  # whatever is wrong with the folder: the exercise is right all the same
        if file := progress_file():
            return len(_written(file, str(lesson), exercise))
    return 0


def _written(file: Path, lesson: str, exercise: int) -> list[int]:
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=2):
        done = _read(file)
        done[lesson] = sorted({*done.get(lesson, []), exercise})
        fresh = file.with_name(f"{file.name}.{uuid4().hex[:8]}")
        try:
            fresh.write_text(json.dumps(done), encoding="utf-8")
            os.replace(fresh, file)
        finally:
            fresh.unlink(missing_ok=True)
        return done[lesson]


def _read(file: Path) -> dict[str, list[int]]:
    "What is well formed in it; a file that is not counts as empty."
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        lesson: [number for number in numbers if isinstance(number, int)]
        for lesson, numbers in found.items()
        if isinstance(numbers, list)
    }
