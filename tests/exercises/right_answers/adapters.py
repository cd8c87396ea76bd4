"""Lesson 21."""

import numpy as np
import torch
from torch import nn

from finetune_lessons.exercises import adapters as checks


def added(h, Wd, bd, Wu, bu):
    return torch.einsum("...b,db->...d", nn.GELU()(torch.einsum("...d,bd->...b", h, Wd) + bd), Wu) + bu


def start(down, up):
    nn.init.normal_(down.weight, std=0.01)
    nn.init.zeros_(down.bias)
    for parameter in up.parameters():
        parameter.data.mul_(0)


def counting_up(width, layers, total, share):
    b = 0
    while layers * (2 * width * (b + 1) + b + 1 + width) <= share * total:
        b += 1
    return np.int32(b)


def stacked(h, *adapters):
    for weights in adapters:
        h = h + added(h, *weights)
    return h


RIGHT = [
    (checks.check_adapter_parameters, lambda d, b, n: np.array(n * ((d + 1) * b + (b + 1) * d))),
    (checks.check_adapter, lambda h, *weights: added(h, *weights) + h),
    (checks.check_adapter_start, start),
    (checks.check_parallel_adapter, lambda ffn, x, *weights: added(x, *weights) + ffn(x)),
    (checks.check_bottleneck, counting_up),
    (checks.check_adapter_stack, stacked),
]
