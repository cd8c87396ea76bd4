"""One notebook, three sizes: how much a lesson trains on."""

import os
from typing import TypeVar

SCALES = ("smoke", "lesson", "full")
VARIABLE = "FINETUNE_LESSONS_SCALE"

T = TypeVar("T")


def scale(
    smoke: T,  # in tests: seconds
    lesson: T,  # on a CPU: a notebook in two minutes
    full: T,  # on a GPU
) -> T:
    """The value for the current scale: FINETUNE_LESSONS_SCALE, or else `full` with a GPU and `lesson` without."""
    return {"smoke": smoke, "lesson": lesson, "full": full}[current_scale()]


def current_scale() -> str:
    """The name of the current scale; a ValueError when FINETUNE_LESSONS_SCALE holds something else."""
    name = os.environ.get(VARIABLE) or _default_scale()
    if name not in SCALES:
        raise ValueError(f"{VARIABLE} is {name!r}; expected one of {', '.join(SCALES)}, or unset it.")
    return name


def _default_scale() -> str:
    import torch

    return "full" if torch.cuda.is_available() else "lesson"
