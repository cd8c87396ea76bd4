"""Lesson 15."""

import torch

from finetune_lessons.exercises import gradual_unfreezing as checks


def rates(layers, lr, decay, head=0, last=1, embeddings=1):
    depths = [layers + embeddings, *range(layers - 1 + last, last - 1, -1), head]
    return [lr * decay**depth for depth in depths]


def depths(names, layers, digits=slice(None), embeddings=1, last=1):
    def depth(name):
        if "embeddings" in name:
            return layers + embeddings
        return layers - 1 + last - int(name.split(".")[2][digits]) if "encoder" in name else 0

    return [depth(name) for name in names]


def by_any_number(names, layers):
    parts = [[int(part) for part in name.split(".") if part.isdigit()] for name in names]
    return [layers - found[0] if found else depths([name], layers)[0] for name, found in zip(names, parts, strict=True)]


def linear(step, steps, warmup):
    return min(step / warmup, (steps - step) / (steps - warmup))


def gradual(w, gradients, lr, every, shift=0, newest_only=False, bottom=False):
    w = w.clone()
    for t, g in enumerate(gradients):
        count = max(1, 1 + (t + shift) // every)
        learning = list(range(len(w)))[:count] if bottom else list(range(len(w)))[::-1][:count]
        for layer in learning[count - 1 :] if newest_only else learning:
            w[layer] -= lr * g[layer]
    return w


def none_at_first(w, gradients, lr, every):
    w = w.clone()
    for t, g in enumerate(gradients):
        for layer in range(len(w) - 1, max(-1, len(w) - 1 - t // every), -1):
            w[layer] -= lr * g[layer]
    return w


def one_step_late(w, gradients, lr, every):
    w = w.clone()
    for t, g in enumerate(gradients):
        for place in range(len(w)):
            if place == 0 or t > every * place:
                w[-1 - place] -= lr * g[-1 - place]
    return w


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def unknown(model, groups):
    known = {id(p) for group in groups for p in group["params"]}
    return [p for p in model.parameters() if id(p) not in known]


def size(parameters):
    return sum(p.numel() for p in parameters)


WRONG = [
    (checks.check_rates, lambda *given: rates(*given)[::-1], "the other way round"),
    (checks.check_rates, lambda *given: rates(*given, last=0, embeddings=0), "at the head's rate; it is one"),
    (checks.check_rates, lambda *given: rates(*given, embeddings=0), "as fast as the first layer"),
    (checks.check_rates, lambda n, lr, decay: [lr, *rates(n, lr, decay)[1:]], "deepest of all"),
    (checks.check_rates, lambda *given: rates(*given, head=1, last=2, embeddings=2), "it learns at lr"),
    (
        checks.check_rates,
        lambda n, lr, decay: torch.linspace(lr * decay, lr, n + 2),
        "equal amounts",
    ),
    (checks.check_depths, lambda names, n: depths(names, n, slice(1)), "layer 10 counts as layer 1"),
    (checks.check_depths, lambda names, n: [n + 1 - depth for depth in depths(names, n)], "begin at the bottom"),
    (checks.check_depths, lambda names, n: depths(names, n, embeddings=0, last=0), "has depth 0"),
    (checks.check_depths, lambda names, n: depths(names, n, embeddings=0), "as deep as the first"),
    (checks.check_depths, by_any_number, "your head has layers"),
    (checks.check_slanted, linear, "its floor is 1/32"),
    (checks.check_slanted, lambda *given: max(linear(*given), 1 / 32), "has a bend"),
    (checks.check_slanted, lambda *given: linear(*given) + 1 / 32, "above 1"),
    (checks.check_slanted, lambda *given: 1 + 31 * linear(*given), "divide by it"),
    (
        checks.check_slanted,
        lambda t, n, w: (1 + 31 * (t / w if t < w else 1 - (t - w) / n)) / 32,
        "only steps - warmup",
    ),
    (checks.check_slanted, lambda t, n, w: (1 + 31 * min(1, (n - t) / (n - w))) / 32, "does not climb"),
    (checks.check_slanted, lambda t, n, w: (1 + 31 * linear(n - t, n, w)) / 32, "exchanged"),
    (checks.check_gradual, lambda *given: gradual(*given, bottom=True), "first layer learns first"),
    (checks.check_gradual, lambda w, g, lr, every: w - (lr * g).sum(0), "all learn from the start"),
    (checks.check_gradual, lambda *given: gradual(*given, newest_only=True), "they go on"),
    (checks.check_gradual, lambda *given: gradual(*given, shift=1), "too early"),
    (checks.check_gradual, one_step_late, "too late"),
    (checks.check_gradual, none_at_first, "train nothing"),
    (checks.check_gradual, lambda w, g, lr, every: gradual(w, -g, lr, every), "uphill"),
    (checks.check_left_out, lambda m, groups: size(unknown(m, groups)), "counts frozen"),
    (checks.check_left_out, lambda m, groups: len(set(trained(m)) & set(unknown(m, groups))), "counts tensors"),
    (checks.check_left_out, lambda m, groups: size(trained(m)), "all that is trained"),
    (checks.check_left_out, lambda m, groups: sum(size(group["params"]) for group in groups), "what the groups hold"),
    (
        checks.check_left_out,
        lambda m, groups: size(trained(m)) - size(p for group in groups for p in group["params"]),
        "one count from another",
    ),
]
