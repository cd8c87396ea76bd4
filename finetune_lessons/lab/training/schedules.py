"""How the learning rate goes: what the peak rate is multiplied by at a step, as functions of nothing but the step."""

import math
from collections.abc import Callable


def constant(step: int, steps: int, warmup: int = 0) -> float:
    "Climbs from 0 to 1, and stays there."
    return 1.0 if step >= warmup else step / warmup


def linear(step: int, steps: int, warmup: int = 0) -> float:
    "Climbs from 0 to 1, and falls to 0 in a straight line."
    return step / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))


def slanted_triangular(step: int, steps: int, warmup: int = 0) -> float:
    "Climbs from 1/32 to 1, and falls to 1/32 in a straight line (arXiv:1801.06146)."
    return (1 + 31 * linear(step, steps, warmup)) / 32


def cosine(step: int, steps: int, warmup: int = 0) -> float:
    "Climbs from 0 to 1, and falls to 0 along half a wave: slowly, fast, slowly."
    share = (step - warmup) / max(1, steps - warmup)
    return step / warmup if step < warmup else max(0.0, 0.5 * (1 + math.cos(math.pi * share)))


def inverse_sqrt(step: int, steps: int, warmup: int = 0) -> float:
    "Climbs from 0 to 1, and falls as 1 / sqrt(step), whatever the number of steps; without a warm-up over 10,000."
    scale = warmup or 10_000
    return step / warmup if step < warmup else math.sqrt(scale / (step - warmup + scale))


def one_cycle(step: int, steps: int, warmup: int = 0) -> float:
    "Climbs from 1/25 to 1, and falls to 1/250,000, both along half a wave (arXiv:1708.07120)."
    top = warmup - 1  # the step at the peak
    if step <= top:
        return _wave(1 / 25, 1.0, step / max(1, top))
    return _wave(1.0, 1 / 250_000, (step - top) / max(1, steps - 1 - top))


def _wave(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, share)))


# (step, steps, warmup): the step from 0, of how many, how many are warm-up
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "linear": linear, "cosine": cosine, "constant": constant, "one_cycle": one_cycle, "inverse_sqrt": inverse_sqrt,
    "slanted_triangular": slanted_triangular,
}  # fmt: skip
