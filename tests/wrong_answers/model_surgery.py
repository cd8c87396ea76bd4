"""Lesson 14."""

from copy import deepcopy

import torch

from finetune_lessons import lab


def freezing(keep):
    def learner(model, k):
        for p in model.parameters():
            p.requires_grad = False
        for m in keep(model, k):
            for p in m.parameters():
                p.requires_grad = True
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    return learner


def only_counts(model, k):
    n = len(model.layers)
    return sum(p.numel() for m in [model.head, *model.layers[n - k :]] for p in m.parameters())


def never_back(wrapper, x):
    wrapper.enabled = False
    return wrapper(x)


def always_on(wrapper, x):
    wrapper.enabled = False
    y = wrapper(x)
    wrapper.enabled = True
    return y


def no_finally(wrapper, x):
    before, wrapper.enabled = wrapper.enabled, False
    y = wrapper(x)
    wrapper.enabled = before
    return y


def columns(layer, s):
    new = deepcopy(layer)
    new.weight.data *= 1 + s
    if new.bias is not None:
        new.bias.data *= 1 + s
    return new


def no_bias(layer, s):
    new = deepcopy(layer)
    new.weight.data = torch.diag(1 + s) @ new.weight.data
    return new


def in_place(layer, s):
    layer.weight.data *= (1 + s)[:, None]
    if layer.bias is not None:
        layer.bias.data *= 1 + s
    return layer


WRONG = [
    (lab.check_low_rank_parameters, lambda layer, r: r * layer.weight.shape[1], "one of the two matrices"),
    (lab.check_low_rank_parameters, lambda layer, r: layer.weight.numel(), "a whole matrix"),
    (lab.check_last_layers, freezing(lambda m, k: [m.head, *m.layers[-k:]]), "layers[-0:]"),
    (lab.check_last_layers, freezing(lambda m, k: [m.head, *m.layers[:k]]), "the first layers"),
    (lab.check_last_layers, freezing(lambda m, k: m.layers[len(m.layers) - k :]), "left the head frozen"),
    (lab.check_last_layers, only_counts, "all of the model would be trained"),
    (lab.check_names, lambda paths, name: sum(name in path for path in paths), "anywhere in the path"),
    (lab.check_names, lambda paths, name: sum(path.endswith(name) for path in paths), "letters, not parts"),
    (lab.check_names, lambda paths, name: sum(path.split(".")[-1] == name for path in paths), "the last part alone"),
    (lab.check_scaled_forward, lambda base, s, x, enabled: s * base(x), "lets nothing through"),
    (lab.check_scaled_forward, lambda base, s, x, enabled: base(x + s * x), "what goes in"),
    (lab.check_scaled_forward, lambda base, s, x, enabled: base(x) + s * base(x), "although it is switched off"),
    (lab.check_switched_off, lambda wrapper, x: wrapper(x), "switched on"),
    (lab.check_switched_off, never_back, "stays off"),
    (lab.check_switched_off, no_finally, "stays off"),
    (lab.check_switched_off, always_on, "though it was off"),
    (lab.check_merged_scale, columns, "scales the inputs"),
    (lab.check_merged_scale, no_bias, "bias unscaled"),
    (lab.check_merged_scale, in_place, "changed the old layer"),
]
