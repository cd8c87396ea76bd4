"""What this processor is, how many threads it runs well, and the precision in which it multiplies fastest."""

import os
import platform
import sys
import time
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from finetune_lessons.lab.data.cached import home
from finetune_lessons.lab.data.json_files import read_json, write_json

ROWS, WIDEST = 256, 1024  # of the products that are timed: wide enough for the full rate, small enough for the budget
BUDGET = 0.05  # seconds
WORTH = 1.1  # bf16 rounds: it has to be as much faster


def name() -> str:
    return capabilities().get("cpu_name") or platform.processor() or platform.machine()


def capabilities() -> dict[str, Any]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell


def has_bf16() -> bool:
    return any(capabilities().get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))


@cache
def fitting_threads() -> int:
    "As many as there are physical cores, as this process may use, and as its control group has time for."
    from joblib import cpu_count

    return cpu_count(only_physical_cores=True)


def use_no_more_threads_than_fit() -> None:
    "More wait for each other: a step can take thirty times as long. OMP_NUM_THREADS, where it is set, is obeyed."
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > fitting_threads():
        torch.set_num_threads(fitting_threads())


def gain_of_bf16(
    shape: tuple[int, int],  # outputs and inputs of a linear layer
) -> float:
    """How many times as fast as in fp32 its forward and backward products are in bf16, with the casts of autocast.

    Measured in about 50 ms, said, and kept in the folder of all that is fetched: the same runs compute alike tomorrow.
    """
    outputs, inputs = (min(size, WIDEST) for size in shape)
    key, file = f"{name()}, torch {torch.__version__}, {outputs} x {inputs}", home() / "bf16.json"
    kept = {of: ratio for of, ratio in read_json(file).items() if isinstance(ratio, float) and ratio > 0}
    if key not in kept:
        gain = round(_measured(outputs, inputs), 3)
        print(f"Measured once, for {key}: bf16 is {gain:.2g} times as fast as fp32.", file=sys.stderr)
        with suppress(OSError):  # where nothing can be written, the next process measures again
            write_json(file, kept | {key: gain})
        return gain
    return kept[key]


def _measured(outputs: int, inputs: int) -> float:
    x, w = (torch.full(size, 0.01, requires_grad=True) for size in ((ROWS, inputs), (outputs, inputs)))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    until = time.perf_counter() + BUDGET
    while len(seconds[True]) < 2 or time.perf_counter() < until:
        for half in seconds:
            started = time.perf_counter()
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                torch.autograd.grad(torch.nn.functional.linear(x, w).sum(), (x, w))
            seconds[half].append(time.perf_counter() - started)
    return min(seconds[False]) / min(seconds[True])
