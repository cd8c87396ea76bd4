"""Lesson 21."""

import torch.nn.functional as F
from torch import nn

from finetune_lessons import lab


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
    (lab.check_adapter_parameters, lambda d, b, n: 2 * n * d * b, "leaves out the biases"),
    (lab.check_adapter_parameters, lambda d, b, n: 2 * d * b + b + d, "one adapter"),
    (lab.check_adapter_parameters, lambda d, b, n: n * (2 * d * b + b), "bias of W_up"),
    (lab.check_adapter_parameters, lambda d, b, n: n * (2 * d * b + d), "bias of W_down"),
    (lab.check_adapter_parameters, lambda d, b, n: n * (d * b + b + d), "one of the two matrices"),
    (lab.check_adapter, shifted, "no residual"),
    (lab.check_adapter, lambda h, Wd, bd, Wu, bu: h + (h @ Wd.T + bd) @ Wu.T + bu, "no function f"),
    (lab.check_adapter, lambda h, Wd, bd, Wu, bu: h + (h @ Wd.T + bd).relu() @ Wu.T + bu, "ReLU"),
    (lab.check_adapter, lambda h, Wd, bd, Wu, bu: h + F.gelu((h @ Wd.T + bd) @ Wu.T + bu), "after both"),
    (lab.check_adapter, lambda h, Wd, bd, Wu, bu: h + F.gelu(h @ Wd.T) @ Wu.T, "leaves out the biases"),
    (lab.check_adapter_start, usual, "changes h at the start"),
    (lab.check_adapter_start, keep, "changes h at the start"),
    (lab.check_adapter_start, all_zero, "can never learn"),
    (lab.check_parallel_adapter, lambda ffn, x, *w: ffn(x) + shifted(ffn(x), *w), "reads what comes out of the FFN"),
    (lab.check_parallel_adapter, lambda ffn, x, *w: x + ffn(x) + shifted(x, *w), "has x added"),
    (lab.check_parallel_adapter, lambda ffn, x, *w: x + shifted(x, *w), "added to ffn(x)"),
    (lab.check_parallel_adapter, lambda ffn, x, *w: shifted(x, *w), "leaves out the FFN"),
    (lab.check_bottleneck, lambda d, n, total, share: int((share * total - d) // (2 * d + 1)), "for all of them"),
    (lab.check_bottleneck, lambda d, n, total, share: int(share * total / n // (2 * d)), "ignores the biases"),
    (lab.check_bottleneck, lambda d, n, total, share: int((share * total / n - d) // (2 * d + 1)), "below 0"),
    (lab.check_bottleneck, lambda d, n, total, share: int(-(-(share * total / n - d) // (2 * d + 1))), "rounded up"),
    (
        lab.check_bottleneck,
        lambda d, n, total, share: max(1, int((share * total / n - d) // (2 * d + 1))),
        "at least 1",
    ),
    (lab.check_bottleneck, lambda d, n, total, share: (share * total / n - d) / (2 * d + 1), "no whole number"),
    (lab.check_adapter_stack, both_read_h, "both read h"),
    (lab.check_adapter_stack, swapped, "other way round"),
    (lab.check_adapter_stack, lambda h, one, two: h + shifted(h, *one), "first alone"),
    (lab.check_adapter_stack, lambda h, one, two: shifted(shifted(h, *one), *two), "no residuals"),
]
