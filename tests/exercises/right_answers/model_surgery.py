"""Lesson 14."""

import numpy as np
from torch import nn

from finetune_lessons.exercises import model_surgery as checks


def by_index(model, k):
    first = len(model.layers) - k
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        parameter.requires_grad = part == "head" or (part == "layers" and int(rest.split(".")[0]) >= first)
    return np.int64(sum(p.numel() for p in model.parameters() if p.requires_grad))


def by_parts(paths, name):
    wanted = name.split(".")
    return len([path for path in paths if path.split(".")[-len(wanted) :] == wanted])


def with_try(wrapper, x):
    before = wrapper.enabled
    try:
        wrapper.enabled = False
        return wrapper(x)
    finally:
        wrapper.enabled = before


def fresh_layer(layer, s):
    new = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    new.weight.data = (layer.weight.T * (1 + s)).T.detach().contiguous()
    if layer.bias is not None:
        new.bias.data = (layer.bias + s * layer.bias).detach()
    return new


RIGHT = [
    (checks.check_low_rank_parameters, lambda layer, r: np.int64(r * sum(layer.weight.shape))),
    (checks.check_last_layers, by_index),
    (checks.check_names, by_parts),
    (checks.check_scaled_forward, lambda base, s, x, enabled: base(x) + enabled * s * base(x)),
    (checks.check_switched_off, with_try),
    (checks.check_merged_scale, fresh_layer),
]
