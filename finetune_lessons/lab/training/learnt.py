"""Whether a run has learnt."""

import math
import statistics
from itertools import pairwise
from typing import Any


def learnt(
    run: Any,  # a `Run`, or anything with `steps` that have a `loss`
) -> bool:
    "Whether the loss at the end of what was trained is below that at the start, by more than its noise."
    losses = [step.loss for step in run.steps]
    if len(losses) < 4:
        return len(losses) < 2 or losses[-1] < losses[0]
    late, early = losses[-max(2, len(losses) // 4) :], losses[: max(1, len(losses) // 10)]
    noise = math.sqrt(statistics.fmean((b - a) ** 2 for a, b in pairwise(losses[len(losses) // 2 :])) / 2)
    start = min(statistics.fmean(early), losses[0] + noise)  # the first is from before any step
    return statistics.fmean(late) < start - 2 * noise * math.sqrt(1 / len(late) + 1 / len(early))
