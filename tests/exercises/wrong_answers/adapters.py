"""Lesson 21."""

import torch.nn.functional as F
from torch import nn

from finetune_lessons.exercises import adapters as checks


def shifted(h, Wd, bd, Wu, bu):
    return F.gelu(h @ Wd.T + bd) @ Wu.T + bu


def keep(down, up):
    nn.init.zeros_(up.weight)


def all_zero(down, up):
    for p in (*down.parameters(), *up.parameters()):
        p.data.zero_()


def usual(down, up):
    down.reset_parameters()
    up.reset_parameters()


def both_read_h(h, one, two):
    return h + shifted(h, *one) + shifted(h, *two)


def swapped(h, one, two):
    for w in (two, one):
        h = h + shifted(h, *w)
    return h


WRONG = [
    (checks.check_adapter_parameters, lambda d, b, n: 2 * n * d * b, "leaves out the biases"),
    (checks.check_adapter_parameters, lambda d, b, n: 2 * d * b + b + d, "one adapter"),
    (checks.check_adapter_parameters, lambda d, b, n: n * (2 * d * b + b), "bias of W_up"),
    (checks.check_adapter_parameters, lambda d, b, n: n * (2 * d * b + d), "bias of W_down"),
    (checks.check_adapter_parameters, lambda d, b, n: n * (d * b + b + d), "one of the two matrices"),
    (checks.check_adapter, shifted, "no residual"),
    (checks.check_adapter, lambda h, Wd, bd, Wu, bu: h + (h @ Wd.T + bd) @ Wu.T + bu, "no function f"),
    (checks.check_adapter, lambda h, Wd, bd, Wu, bu: h + (h @ Wd.T + bd).relu() @ Wu.T + bu, "ReLU"),
    (checks.check_adapter, lambda h, Wd, bd, Wu, bu: h + F.gelu((h @ Wd.T + bd) @ Wu.T + bu), "after both"),
    (checks.check_adapter, lambda h, Wd, bd, Wu, bu: h + F.gelu(h @ Wd.T) @ Wu.T, "leaves out the biases"),
    (checks.check_adapter_start, usual, "changes h at the start"),
    (checks.check_adapter_start, keep, "changes h at the start"),
    (checks.check_adapter_start, all_zero, "can never learn"),
    (checks.check_parallel_adapter, lambda ffn, x, *w: ffn(x) + shifted(ffn(x), *w), "reads what comes out of the FFN"),
    (checks.check_parallel_adapter, lambda ffn, x, *w: x + ffn(x) + shifted(x, *w), "has x added"),
    (checks.check_parallel_adapter, lambda ffn, x, *w: x + shifted(x, *w), "added to ffn(x)"),
    (checks.check_parallel_adapter, lambda ffn, x, *w: shifted(x, *w), "leaves out the FFN"),
    (checks.check_bottleneck, lambda d, n, total, share: int((share * total - d) // (2 * d + 1)), "for all of them"),
    (checks.check_bottleneck, lambda d, n, total, share: int(share * total / n // (2 * d)), "ignores the biases"),
    (checks.check_bottleneck, lambda d, n, total, share: int((share * total / n - d) // (2 * d + 1)), "below 0"),
    (checks.check_bottleneck, lambda d, n, total, share: int(-(-(share * total / n - d) // (2 * d + 1))), "rounded up"),
    (
        checks.check_bottleneck,
        lambda d, n, total, share: max(1, int((share * total / n - d) // (2 * d + 1))),
        "at least 1",
    ),
    (checks.check_bottleneck, lambda d, n, total, share: (share * total / n - d) / (2 * d + 1), "no whole number"),
    (checks.check_adapter_stack, both_read_h, "both read h"),
    (checks.check_adapter_stack, swapped, "other way round"),
    (checks.check_adapter_stack, lambda h, one, two: h + shifted(h, *one), "first alone"),
    (checks.check_adapter_stack, lambda h, one, two: shifted(shifted(h, *one), *two), "no residuals"),
]
