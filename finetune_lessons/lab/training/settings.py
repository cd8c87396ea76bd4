"""The numbers and names that a run is made with: checked before anything is loaded or trained."""

import math
from typing import Any

import numpy as np

from finetune_lessons.lab.training.precision import DTYPES
from finetune_lessons.lab.training.sampling import STRATEGIES, is_strategy
from finetune_lessons.lab.training.schedules import SCHEDULES


NAMES = (
    "lr", "epochs", "batch_size", "schedule", "warmup", "weight_decay", "max_grad_norm", "grad_accum", "sampling",
    "precision", "eval_every", "seed", "keep_best", "max_tokens", "compile",
)  # fmt: skip


def checked(
    settings: dict[str, Any],  # those of a `Run`, by name
) -> dict[str, Any]:
    "The settings with numpy's numbers made Python's. Raises ValueError for the first that cannot train."
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    for name, (holds, expected) in _rules(settings).items():
        if not holds:
            raise ValueError(f"{name} must be {expected}; given: {settings[name]!r}")
    if settings["max_tokens"] and settings["sampling"] == "together":
        raise ValueError(
            "max_tokens limits batches of one task, and sampling='together' has all tasks in every batch: leave one out"
        )
    return settings


def _rules(s: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {
        "lr": (_finite(s["lr"]) and s["lr"] > 0, "a number above 0, such as 1e-4"),
        "epochs": (is_epochs(s["epochs"]), "a number above 0, at most a million"),
        "batch_size": (is_whole(s["batch_size"], 1), "a whole number of at least 1"),
        "grad_accum": (is_whole(s["grad_accum"], 1), "a whole number of at least 1"),
        "warmup": (_finite(s["warmup"]) and 0 <= s["warmup"] <= 1, "a share of the steps, 0 to 1"),
        "weight_decay": (_finite(s["weight_decay"]) and s["weight_decay"] >= 0, "a number of at least 0"),
        "max_grad_norm": (_positive(s["max_grad_norm"]), "a number above 0 (math.inf: no clipping)"),
        "schedule": (s["schedule"] in list(SCHEDULES), f"one of {', '.join(SCHEDULES)}"),
        "sampling": (is_strategy(s["sampling"]), f"one of {', '.join(STRATEGIES)}, or a temperature above 0"),
        "precision": (s["precision"] in ("auto", *DTYPES), f"one of auto, {', '.join(DTYPES)}"),
        "eval_every": (s["eval_every"] is None or is_whole(s["eval_every"], 0), "None or a number of steps"),
        "seed": (is_whole(s["seed"], 0) and s["seed"] < 2**31, "a whole number from 0 to 2**31 - 1"),
        "max_tokens": (s["max_tokens"] is None or is_whole(s["max_tokens"], 1), "None or a number of tokens"),
        "compile": (isinstance(s["compile"], bool), "True or False"),
        "keep_best": (s["keep_best"] is None or isinstance(s["keep_best"], str), "None or the name of a metric"),
    }


def is_epochs(value: Any) -> bool:
    return _finite(value) and 0 < value <= 1e6


def is_whole(value: Any, least: int) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= least


def _positive(value: Any) -> bool:
    return value == math.inf or (_finite(value) and value > 0)


def _finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
