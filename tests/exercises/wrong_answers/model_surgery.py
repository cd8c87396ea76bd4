"""Lesson 14."""

from copy import deepcopy

import torch

from finetune_lessons.exercises import model_surgery as checks


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
    (checks.check_low_rank_parameters, lambda layer, r: r * layer.weight.shape[1], "one of the two matrices"),
    (checks.check_low_rank_parameters, lambda layer, r: layer.weight.numel(), "a whole matrix"),
    (checks.check_last_layers, freezing(lambda m, k: [m.head, *m.layers[-k:]]), "layers[-0:]"),
    (checks.check_last_layers, freezing(lambda m, k: [m.head, *m.layers[:k]]), "the first layers"),
    (checks.check_last_layers, freezing(lambda m, k: m.layers[len(m.layers) - k :]), "left the head frozen"),
    (checks.check_last_layers, only_counts, "all of the model would be trained"),
    (checks.check_names, lambda paths, name: sum(name in path for path in paths), "anywhere in the path"),
    (checks.check_names, lambda paths, name: sum(path.endswith(name) for path in paths), "letters, not parts"),
    (checks.check_names, lambda paths, name: sum(path.split(".")[-1] == name for path in paths), "the last part alone"),
    (checks.check_scaled_forward, lambda base, s, x, enabled: s * base(x), "lets nothing through"),
    (checks.check_scaled_forward, lambda base, s, x, enabled: base(x + s * x), "what goes in"),
    (checks.check_scaled_forward, lambda base, s, x, enabled: base(x) + s * base(x), "although it is switched off"),
    (checks.check_switched_off, lambda wrapper, x: wrapper(x), "switched on"),
    (checks.check_switched_off, never_back, "stays off"),
    (checks.check_switched_off, no_finally, "stays off"),
    (checks.check_switched_off, always_on, "though it was off"),
    (checks.check_merged_scale, columns, "scales the inputs"),
    (checks.check_merged_scale, no_bias, "bias unscaled"),
    (checks.check_merged_scale, in_place, "changed the old layer"),
]
