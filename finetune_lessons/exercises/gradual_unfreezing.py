"""Checks of lesson 15, gradual unfreezing."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(15)


@exercise
def check_rates(
    learner: Function,  # learner(layers, lr, decay) -> (layers + 2,): embeddings, layers from the first on, head
) -> Verdict:
    "Is it lr at the head, and decay times as much at each place further down?"
    draw = Draw()
    cases = {
        "six layers": (6, draw.number(0.001, 0.01), 0.8),
        "ULMFiT's decay": (draw.whole(2, 4), draw.number(0.01, 0.1), 0.3846),
        "one rate for all": (3, draw.number(0.001, 0.01), 1.0),
    }

    def rates(depths: Iterable[int], lr: float, decay: float) -> Tensor:
        return torch.tensor([lr * decay**depth for depth in depths])

    mistakes: dict[str, Function] = {
        "your rates stand the other way round: embeddings first, the head last": lambda n, lr, decay: rates(
            range(n + 2), lr, decay
        ),
        "your last layer learns at the head's rate; it is one place below": lambda n, lr, decay: rates(
            [*range(n, -1, -1), 0], lr, decay
        ),
        "your embeddings learn as fast as the first layer; they are one place below it": lambda n, lr, decay: rates(
            [n, *range(n, -1, -1)], lr, decay
        ),
        "your embeddings learn at the head's rate; they are the deepest of all": lambda n, lr, decay: rates(
            [0, *range(n, -1, -1)], lr, decay
        ),
        "your head learns at decay times lr; it learns at lr": lambda n, lr, decay: rates(
            range(n + 2, 0, -1), lr, decay
        ),
        "your rates fall by equal amounts; each is decay times the one above": lambda n, lr, decay: torch.tensor(
            [lr * (1 - (1 - decay) * depth / (n + 1)) for depth in range(n + 1, -1, -1)]
        ),
    }
    return check(learner, cases, lambda n, lr, decay: rates(range(n + 1, -1, -1), lr, decay), mistakes, tolerance=1e-6)


@exercise
def check_depths(
    learner: Function,  # learner(names, layers) -> a number for each name
) -> Verdict:
    "Are the embeddings deepest, then the layers by their whole number, and all else at depth 0?"
    draw = Draw()
    layers = draw.whole(11, 24)
    inside = ["attention.self.query.weight", "output.dense.bias", "output.LayerNorm.weight"]
    few = [f"encoder.layer.{i}.{inside[i % 3]}" for i in draw.order(9).tolist()]
    many = [f"encoder.layer.{i}.{inside[draw.whole(0, 2)]}" for i in (1, 10, draw.whole(2, 9), layers - 1)]
    ends = ["embeddings.word_embeddings.weight", "embeddings.LayerNorm.bias", "pooler.dense.weight"]
    cases = {
        "layers of one digit": (few, 9),
        "layers of two digits": (many, layers),
        "all parts": ([*ends, "encoder.layer.0.output.dense.weight", "classifier.2.bias"], draw.whole(4, 8)),
    }

    def depths(names: list[str], layers: int, layer: Function, below: int = 1) -> Tensor:
        def depth(name: str) -> int:
            if name.startswith("embeddings."):
                return layers + below
            return layers - layer(name) if name.startswith("encoder.layer.") else 0

        return torch.tensor([float(depth(name)) for name in names])

    def number(name: str) -> int:
        return int(name.split(".")[2])

    def any_number(names: list[str], layers: int) -> Tensor:
        found = [[int(part) for part in name.split(".") if part.isdigit()] for name in names]
        rest = depths(names, layers, number)
        return torch.stack([rest[i] if not f else torch.tensor(float(layers - f[0])) for i, f in enumerate(found)])

    mistakes: dict[str, Function] = {
        "your layer 10 counts as layer 1: read the whole number": lambda names, layers: depths(
            names, layers, lambda name: int(name.split(".")[2][0])
        ),
        "your depths begin at the bottom: the last layer is 1 below the head": lambda names, layers: (
            layers + 1 - depths(names, layers, number)
        ),
        "your last layer has depth 0, as the head has; it is one below": lambda names, layers: depths(
            names, layers, lambda name: number(name) + 1, below=0
        ),
        "your embeddings are as deep as the first layer; they are one below it": lambda names, layers: depths(
            names, layers, number, below=0
        ),
        "your head has layers too: a number counts only behind encoder.layer": any_number,
    }
    return check(learner, cases, lambda names, layers: depths(names, layers, number), mistakes)


@exercise
def check_slanted(
    learner: Function,  # learner(step, steps, warmup) -> a number
) -> Verdict:
    "Does it climb from 1/32 to 1 over the warm-up, and fall to 1/32 at the end?"
    draw = Draw()
    steps, warmup = draw.whole(100, 400), draw.whole(20, 40)  # warmup * (warmup + 1) is no number of steps
    cases = {
        "the last step": (steps - 1, steps, warmup),
        "on the way up": (draw.whole(2, warmup - 2), steps, warmup),
        "the first step": (0, steps, warmup),
        "at the peak": (warmup, steps, warmup),
        "on the way down": (draw.whole(warmup + 10, steps - 10), steps, warmup),
    }

    def p(step: int, steps: int, warmup: int) -> float:
        return step / warmup if step < warmup else (steps - step) / (steps - warmup)

    def slanted(step: int, steps: int, warmup: int) -> float:
        return 1 / 32 + 31 / 32 * p(step, steps, warmup)

    mistakes: dict[str, Function] = {
        "your rate is max(p, 1/32), which has a bend; between its floor and 1 it is straight": lambda t, n, w: max(
            p(t, n, w), 1 / 32
        ),
        "your rate goes down to 0; its floor is 1/32": p,
        "your peak is above 1: 1/32 is part of it": lambda t, n, w: 1 / 32 + p(t, n, w),
        "your rate is multiplied by 32: divide by it": lambda t, n, w: 32 * slanted(t, n, w),
        "your fall takes all steps; only steps - warmup are left for it": lambda t, n, w: (
            slanted(t, n, w) if t < w else 1 / 32 + 31 / 32 * (1 - (t - w) / n)
        ),
        "your rate does not climb": lambda t, n, w: 1.0 if t < w else slanted(t, n, w),
        "your sides are exchanged: short is the way up": lambda t, n, w: slanted(n - t, n, w),
    }
    return check(learner, cases, slanted, mistakes, tolerance=1e-6)


@exercise
def check_gradual(
    learner: Function,  # learner(w (layers,), gradients (steps, layers), lr, every) -> (layers,)
) -> Verdict:
    "Does the last layer learn from the first step on, and every so many steps one more, below those that do already?"
    draw = Draw()
    every = draw.whole(2, 4)
    cases = {
        "all layers join in": (draw(3), draw(3 * every + 2, 3), 0.1, every),
        "a run that ends before": (draw(5), draw(2 * every + 1, 5), draw.number(0.05, 0.2), every),
        "a layer a step": (draw(4), draw(6, 4), 0.1, 1),
    }

    def trained(w: Tensor, gradients: Tensor, lr: float, learns: Function) -> Tensor:
        w = w.clone()
        for t, g in enumerate(gradients):
            mask = torch.tensor([learns(t, len(w) - 1 - layer) for layer in range(len(w))])  # place from the top
            w -= lr * g * mask
        return w

    mistakes: dict[str, Function] = {
        "your first layer learns first; it begins at the top, with the last": lambda w, g, lr, every: trained(
            w.flip(0), g.flip(1), lr, lambda t, place: place <= t // every
        ).flip(0),
        "your layers all learn from the start": lambda w, g, lr, every: w - lr * g.sum(0),
        "your layers stop when the next one joins in; they go on": lambda w, g, lr, every: trained(
            w, g, lr, lambda t, place: place == t // every
        ),
        "your next layer joins in one step too early": lambda w, g, lr, every: trained(
            w, g, lr, lambda t, place: place <= (t + 1) // every
        ),
        "your next layer joins in one step too late": lambda w, g, lr, every: trained(
            w, g, lr, lambda t, place: place <= max(0, t - 1) // every
        ),
        "your first steps train nothing: the last layer learns from step 0 on": lambda w, g, lr, every: trained(
            w, g, lr, lambda t, place: place < t // every
        ),
        "your steps go uphill": lambda w, g, lr, every: trained(w, g, -lr, lambda t, place: place <= t // every),
    }
    return check(
        learner, cases, lambda w, g, lr, every: trained(w, g, lr, lambda t, place: place <= t // every), mistakes
    )


@exercise
def check_left_out(
    learner: Function,  # learner(model, groups) -> a number
) -> Verdict:
    "How many numbers require a gradient and are in no group?"
    draw = Draw()

    def case(frozen: list[int], known: list[int]) -> tuple[nn.Module, list[dict[str, Any]]]:
        sizes = [2**i + draw.whole(0, 1) for i in range(1, 6)]  # so that no two sums of layers are the same
        model = nn.Sequential(*[nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)])
        for place in frozen:
            model[place].requires_grad_(False)
        return model, [{"params": list(model[place].parameters())} for place in known]

    cases = {
        "a layer unfrozen later": case([0], [3, 2]),
        "nothing left out": case([0, 1], [2, 3]),
        "frozen layers in the groups": case([0, 1], [0, 1, 3]),
    }

    def outside(model: nn.Module, groups: list[dict[str, Any]]) -> list[nn.Parameter]:
        known = {id(p) for group in groups for p in group["params"]}
        return [p for p in model.parameters() if id(p) not in known]

    def numbers(parameters: Iterable[nn.Parameter]) -> int:
        return sum(p.numel() for p in parameters)

    def subtracted(model: nn.Module, groups: list[dict[str, Any]]) -> int:
        return numbers(p for p in model.parameters() if p.requires_grad) - numbers(
            p for group in groups for p in group["params"]
        )

    mistakes: dict[str, Function] = {
        "your answer counts frozen parameters: nobody misses those": lambda m, groups: numbers(outside(m, groups)),
        "your answer counts tensors; count the numbers in them": lambda m, groups: sum(
            p.requires_grad for p in outside(m, groups)
        ),
        "your answer is all that is trained; some of it is in a group": lambda m, groups: numbers(
            p for p in m.parameters() if p.requires_grad
        ),
        "your answer is what the groups hold": lambda m, groups: numbers(p for g in groups for p in g["params"]),
        "your answer takes one count from another; groups may hold frozen ones": subtracted,
    }
    return check(learner, cases, lambda m, groups: numbers(p for p in outside(m, groups) if p.requires_grad), mistakes)


__all__ = ["check_rates", "check_depths", "check_slanted", "check_gradual", "check_left_out"]
