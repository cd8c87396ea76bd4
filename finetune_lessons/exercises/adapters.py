"""Checks of lesson 21, adapters."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check, name_of

exercise = Exercises(21)


def _weights(draw: Draw, width: int, bottleneck: int) -> tuple[Tensor, ...]:
    "W_down, b_down, W_up, b_up."
    shapes = ((bottleneck, width), (bottleneck,), (width, bottleneck), (width,))
    return tuple(draw(*shape, size=0.5) for shape in shapes)


def _correction(x: Tensor, *weights: Tensor) -> Tensor:
    "W_up f(W_down x), with the biases."
    W_down, b_down, W_up, b_up = weights
    return F.linear(F.gelu(F.linear(x, W_down, b_down)), W_up, b_up)


@exercise
def check_adapter_parameters(
    learner: Function,  # learner(width, bottleneck_size, adapters) -> number of parameters
) -> Verdict:
    "Is it adapters * (2 d b + b + d)?"
    draw = Draw()

    def solution(d: int, b: int, n: int) -> int:
        return n * (2 * d * b + b + d)

    cases = {
        "one adapter": (384, 64, 1),
        "six adapters": (384, 16, 6),
        "a wide model": (draw.whole(1000, 5000), draw.whole(4, 16), draw.whole(30, 90)),
    }
    mistakes: dict[str, Function] = {
        "your count leaves out the biases, b and d": lambda d, b, n: n * 2 * d * b,
        "your count leaves out the bias of W_up, d": lambda d, b, n: n * (2 * d * b + b),
        "your count leaves out the bias of W_down, b": lambda d, b, n: n * (2 * d * b + d),
        "your count has one of the two matrices": lambda d, b, n: n * (d * b + b + d),
        "your count is that of one adapter": lambda d, b, n: solution(d, b, 1),
    }
    return check(learner, cases, solution, mistakes, 0.0)


@exercise
def check_adapter(
    learner: Function,  # learner(h (tokens, d), W_down (b, d), b_down (b,), W_up (d, b), b_up (d,)) -> (tokens, d)
) -> Verdict:
    "Is it h + W_up gelu(W_down h + b_down) + b_up?"
    draw = Draw()

    def solution(h: Tensor, *weights: Tensor) -> Tensor:
        return h + _correction(h, *weights)

    def no_activation(h: Tensor, W_down: Tensor, b_down: Tensor, W_up: Tensor, b_up: Tensor) -> Tensor:
        return h + F.linear(F.linear(h, W_down, b_down), W_up, b_up)

    def outer_activation(h: Tensor, W_down: Tensor, b_down: Tensor, W_up: Tensor, b_up: Tensor) -> Tensor:
        return h + F.gelu(F.linear(F.linear(h, W_down, b_down), W_up, b_up))

    def relu(h: Tensor, W_down: Tensor, b_down: Tensor, W_up: Tensor, b_up: Tensor) -> Tensor:
        return h + F.linear(F.linear(h, W_down, b_down).relu(), W_up, b_up)

    def no_biases(h: Tensor, W_down: Tensor, b_down: Tensor, W_up: Tensor, b_up: Tensor) -> Tensor:
        return solution(h, W_down, 0 * b_down, W_up, 0 * b_up)

    cases = {
        "five tokens": (draw(5, 8), *_weights(draw, 8, 4)),
        "two texts of four tokens": (draw(2, 4, 6), *_weights(draw, 6, 3)),
    }
    mistakes: dict[str, Function] = {
        "your adapter has no residual: the correction is added to h": _correction,
        "your adapter has no function f between its matrices": no_activation,
        "your f comes after both matrices; it stands between them": outer_activation,
        "your f is the ReLU; asked for is the GELU": relu,
        "your adapter leaves out the biases": no_biases,
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_adapter_start(
    learner: Function,  # learner(down, up): sets two nn.Linear in place
) -> Verdict:
    "Is the adapter made of the two layers the identity (first number 1), and can it learn (second number 1)?"
    draw = Draw()

    def outcome(start: Function) -> Function:
        def judged(down: nn.Linear, up: nn.Linear) -> Tensor:
            start(down, up)
            h = draw(5, down.in_features)
            out = h + up(F.gelu(down(h)))
            (out * draw(*h.shape)).sum().backward()
            gradients = [layer.weight.grad for layer in (down, up)]
            learns = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
            return torch.tensor([float(torch.equal(out, h)), float(learns)])

        judged.__name__ = name_of(start)
        return judged

    def solution(down: nn.Linear, up: nn.Linear) -> None:
        down.reset_parameters()
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)

    def random(down: nn.Linear, up: nn.Linear) -> None:
        down.reset_parameters()
        up.reset_parameters()

    def zeros(down: nn.Linear, up: nn.Linear) -> None:
        for parameter in (*down.parameters(), *up.parameters()):
            nn.init.zeros_(parameter)

    def only_up_bias(down: nn.Linear, up: nn.Linear) -> None:
        zeros(down, up)
        nn.init.ones_(up.bias)

    cases = {"fresh layers": _layers(None), "trained layers": _layers(0.7), "layers full of zeros": _layers(0.0)}
    mistakes: dict[str, Function] = {
        "your adapter changes h at the start; the weight and the bias of `up` must be zero": outcome(random),
        "your adapter can never learn; with `down` zero too, no gradient reaches either matrix": outcome(zeros),
        "your adapter changes h, and neither matrix gets a gradient": outcome(only_up_bias),
    }
    return check(outcome(learner), cases, outcome(solution), mistakes)


def _layers(value: float | None) -> tuple[nn.Linear, nn.Linear]:
    "down and up, full of this number, or as torch makes them."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        down, up = nn.Linear(8, 3), nn.Linear(3, 8)
    for parameter in (*down.parameters(), *up.parameters()):
        if value is not None:
            nn.init.constant_(parameter, value)
    return down, up


@exercise
def check_parallel_adapter(
    learner: Function,  # learner(ffn, x (tokens, d), W_down (b, d), b_down (b,), W_up (d, b), b_up (d,)) -> (tokens, d)
) -> Verdict:
    "Is it ffn(x) + W_up gelu(W_down x + b_down) + b_up?"
    draw = Draw()

    def solution(ffn: nn.Module, x: Tensor, *weights: Tensor) -> Tensor:
        return ffn(x) + _correction(x, *weights)

    def serial(ffn: nn.Module, x: Tensor, *weights: Tensor) -> Tensor:
        return ffn(x) + _correction(ffn(x), *weights)

    down, up = _layers(None)
    ffn = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    for parameter in ffn.parameters():
        parameter.data = draw(*parameter.shape, size=0.5)
    x = draw(3, 8)
    cases: dict[str, tuple[Any, ...]] = {
        "a bottleneck of 2": (ffn, x, *_weights(draw, 8, 2)),
        "W_up zero": (nn.Sequential(down, up), x, *_weights(draw, 8, 2)[:2], torch.zeros(8, 2), torch.zeros(8)),
    }
    mistakes: dict[str, Function] = {
        "your adapter reads what comes out of the FFN; beside it, it reads what goes in": serial,
        "your output leaves out the FFN's own": lambda ffn, x, *weights: _correction(x, *weights),
        "your output is x plus the correction; the correction is added to ffn(x)": (
            lambda ffn, x, *weights: x + _correction(x, *weights)
        ),
        "your output has x added to it; the layer does that later": lambda ffn, x, *w: x + solution(ffn, x, *w),
        "your output is that of the FFN without the adapter": lambda ffn, x, *weights: ffn(x),
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_bottleneck(
    learner: Function,  # learner(width, layers, model_parameters, share) -> bottleneck size
) -> Verdict:
    "Is it the largest b with layers * (2 d b + b + d) <= share * model_parameters, or 0?"
    draw = Draw()

    def room(d: int, layers: int, total: int, share: float) -> float:
        return (share * total / layers - d) / (2 * d + 1)

    def solution(*arguments: Any) -> int:
        return max(0, int(room(*arguments) // 1))

    cases = {
        "three hundredths of minilm": (384, 6, 22_700_000, 0.03),
        "a hundredth of minilm": (384, 6, 22_700_000, 0.01),
        "a large model": (4096, 32, 8_000_000_000, 0.005),
        "a tiny budget": (384, 6, 22_700_000, 0.0001),
        "any model": (draw.whole(300, 900), draw.whole(4, 24), draw.whole(20, 90) * 1_000_003, draw.number(0.01, 0.03)),
    }
    mistakes: dict[str, Function] = {
        "your bottleneck is below 0": lambda *arguments: int(room(*arguments) // 1),
        "your bottleneck is for one layer; the budget is for all of them": lambda d, n, total, share: solution(
            d, 1, total, share
        ),
        "your share is read as a percentage": lambda d, n, total, share: solution(d, n, total, share / 100),
        "your bottleneck ignores the biases": lambda d, n, total, share: int(share * total / n // (2 * d)),
        "your bottleneck counts one matrix": lambda d, n, total, share: int((share * total / n - d) // (d + 1)),
        "your bottleneck is rounded up, over the budget": lambda *arguments: max(0, int(room(*arguments) // 1) + 1),
        "your bottleneck is at least 1, over the budget": lambda *arguments: max(1, solution(*arguments)),
        "your bottleneck is no whole number": room,
    }
    return check(learner, cases, solution, mistakes, 0.0)


@exercise
def check_adapter_stack(
    learner: Function,  # learner(h (tokens, d), first, second: (W_down, b_down, W_up, b_up) each) -> (tokens, d)
) -> Verdict:
    "Does the second adapter read what the first wrote?"
    draw = Draw()
    Weights = Sequence[Tensor]

    def solution(h: Tensor, first: Weights, second: Weights) -> Tensor:
        h = h + _correction(h, *first)
        return h + _correction(h, *second)

    def apart(h: Tensor, first: Weights, second: Weights) -> Tensor:
        return h + _correction(h, *first) + _correction(h, *second)

    def no_residual(h: Tensor, first: Weights, second: Weights) -> Tensor:
        return _correction(_correction(h, *first), *second)

    h = draw(3, 8)
    cases = {
        "equal widths": (h, _weights(draw, 8, 2), _weights(draw, 8, 2)),
        "a narrow and a wide one": (h, _weights(draw, 8, 1), _weights(draw, 8, 5)),
    }
    mistakes: dict[str, Function] = {
        "your adapters both read h; the second reads what the first wrote": apart,
        "your order is the other way round: the first stands next to the layer": lambda h, a, b: solution(h, b, a),
        "your adapters have no residuals": no_residual,
        "your answer is that of the first alone": lambda h, a, b: h + _correction(h, *a),
        "your answer is that of the second alone": lambda h, a, b: h + _correction(h, *b),
    }
    return check(learner, cases, solution, mistakes)


__all__ = [
    "check_adapter_parameters",
    "check_adapter",
    "check_adapter_start",
    "check_parallel_adapter",
    "check_bottleneck",
    "check_adapter_stack",
]
