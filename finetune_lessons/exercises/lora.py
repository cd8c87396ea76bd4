"""Checks of lesson 22, LoRA."""

import torch
from torch import Tensor

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(22)


@exercise
def check_lora_forward(
    learner: Function,  # learner(x (batch, d_in), W (d_out, d_in), A (r, d_in), B (d_out, r), alpha) -> (batch, d_out)
) -> Verdict:
    "Is it W x + alpha / r B A x, for every x of the batch?"
    draw = Draw()

    def scaled(x: Tensor, W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
        return x @ (W + s * B @ A).T

    cases = {
        "rank 4": (draw(5, 8), *_layer(draw, 6, 8, 4), 16.0),
        "rank 1": (draw(3, 4), *_layer(draw, 5, 4, 1), 2.0),
        "B = 0": (draw(5, 8), *_layer(draw, 6, 8, 4)[:2], torch.zeros(6, 4), 16.0),
    }
    mistakes: dict[str, Function] = {
        "your change is not scaled: it counts alpha / r": lambda x, W, A, B, a: scaled(x, W, A, B, 1.0),
        "your change is scaled by alpha; divide by r": lambda x, W, A, B, a: scaled(x, W, A, B, a),
        "your scale is alpha / sqrt(r), that of rsLoRA": lambda x, W, A, B, a: scaled(x, W, A, B, a / len(A) ** 0.5),
        "your r is the number of inputs; it is the number of rows of A": lambda x, W, A, B, a: scaled(
            x, W, A, B, a / A.shape[1]
        ),
        "your answer leaves out W x: the frozen layer still counts": lambda x, W, A, B, a: scaled(
            x, 0 * W, A, B, a / len(A)
        ),
        "your scale goes to W x too; it belongs to the change alone": lambda x, W, A, B, a: (
            a / len(A) * scaled(x, W, A, B, 1.0)
        ),
        "your answer leaves out the change": lambda x, W, A, B, a: x @ W.T,
    }
    return check(learner, cases, lambda x, W, A, B, a: scaled(x, W, A, B, a / len(A)), mistakes)


@exercise
def check_lora_parameters(
    learner: Function,  # learner([(d_out, d_in), ...], r) -> number
) -> Verdict:
    "Is it the sum of r (d_in + d_out)?"
    draw = Draw()

    def count(per_rank: Function) -> Function:
        return lambda shapes, r: r * sum(per_rank(d_out, d_in) for d_out, d_in in shapes)

    cases = {
        "one wide layer": ([(384, 1536)], 8),
        "a square layer": ([(384, 384)], 4),
        "three layers": ([(384, 384), (384, 384), (1536, 384)], 16),
        "layers of any size": ([(draw.whole(50, 2000), draw.whole(50, 2000)) for _ in range(3)], draw.whole(2, 64)),
    }
    mistakes: dict[str, Function] = {
        "your count is that of the frozen matrices": lambda shapes, r: sum(d_out * d_in for d_out, d_in in shapes),
        "your count takes the frozen matrices in": lambda shapes, r: sum(o * i + r * (o + i) for o, i in shapes),
        "your count leaves B out": count(lambda d_out, d_in: d_in),
        "your count leaves A out": count(lambda d_out, d_in: d_out),
        "your count leaves the rank out": lambda shapes, r: sum(d_out + d_in for d_out, d_in in shapes),
        "your count is of one layer; add up all of them": lambda shapes, r: r * sum(shapes[0]),
    }
    return check(learner, cases, count(lambda d_out, d_in: d_out + d_in), mistakes, 1e-9)


@exercise
def check_rank_for_budget(
    learner: Function,  # learner([(d_out, d_in), ...], budget) -> rank
) -> Verdict:
    "Is it the largest rank whose parameters are within the budget, and not above the smallest side of any matrix?"
    draw = Draw()

    def each(shapes: list) -> int:
        return sum(d_out + d_in for d_out, d_in in shapes)

    def smallest(shapes: list) -> int:
        return min(min(shape) for shape in shapes)

    layers = [(384, 384)] * 12
    any_size = [(draw.whole(100, 2000), draw.whole(100, 2000)) for _ in range(3)]
    cases = {
        "a budget that is used up": (layers, 73_728),
        "a budget with a rest": (layers, 100_000),
        "layers of two shapes": ([(384, 384), (1536, 384)], 30_000),
        "too small a budget": (layers, 9_000),
        "more than enough": ([(64, 16), (16, 64)], 1_000_000),
        "layers of any size": (any_size, draw.whole(2, 40) * each(any_size) + draw.whole(1, 500)),
    }
    mistakes: dict[str, Function] = {
        "your rank is at least 1; where not even that fits, it is 0": lambda shapes, budget: max(
            1, min(budget // each(shapes), smallest(shapes))
        ),
        "your rank costs more than the budget: round down": lambda shapes, budget: min(
            -(-budget // each(shapes)), smallest(shapes)
        ),
        "your rank is above the smallest side of a matrix, which adds nothing": lambda shapes, budget: (
            budget // each(shapes)
        ),
        "your rank is rounded to the nearest; that can cost more than the budget": lambda shapes, budget: min(
            round(budget / each(shapes)), smallest(shapes)
        ),
        "your rank is not a whole number": lambda shapes, budget: budget / each(shapes),
        "your rank spends the budget on one layer; it is for all of them": lambda shapes, budget: min(
            budget // sum(shapes[0]), smallest(shapes)
        ),
    }
    return check(learner, cases, lambda shapes, budget: min(budget // each(shapes), smallest(shapes)), mistakes, 1e-9)


@exercise
def check_lora_merge(
    learner: Function,  # learner(W (d_out, d_in), A (r, d_in), B (d_out, r), alpha) -> (d_out, d_in)
) -> Verdict:
    "Is it W + alpha / r B A?"
    draw = Draw()

    def added(s: Function) -> Function:
        return lambda W, A, B, alpha: W + s(alpha, len(A)) * torch.einsum("or,ri->oi", B, A)

    cases = {"rank 4": (*_layer(draw, 6, 8, 4), 16.0), "a square layer": (*_layer(draw, 5, 5, 2), 1.0)}
    mistakes: dict[str, Function] = {
        "your matrix adds B A without its scale alpha / r": added(lambda alpha, r: 1.0),
        "your matrix adds alpha B A; divide by r": added(lambda alpha, r: alpha),
        "your scale is alpha / sqrt(r), that of rsLoRA": added(lambda alpha, r: alpha / r**0.5),
        "your matrix subtracts the change; that undoes a merge": added(lambda alpha, r: -alpha / r),
        "your matrix is the change alone; add it to W": lambda W, A, B, alpha: alpha / len(A) * B @ A,
    }
    return check(learner, cases, added(lambda alpha, r: alpha / r), mistakes, unchanged={"W": 0})


@exercise
def check_dora(
    learner: Function,  # learner(W (d_out, d_in), A (r, d_in), B (d_out, r), m (d_out,), s) -> (d_out, d_in)
) -> Verdict:
    "Is each row m times the direction of the row of W + s B A (arXiv:2402.09353, in the layout of nn.Linear)?"
    draw = Draw()

    def solution(W: Tensor, A: Tensor, B: Tensor, m: Tensor, s: float) -> Tensor:
        rows = []
        for w, b, length in zip(W, B, m, strict=True):
            v = w + s * (b @ A)
            rows.append(length * v / torch.dot(v, v).sqrt())
        return torch.stack(rows)

    def turned(W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
        return W + s * B @ A

    W, A, B = _layer(draw, 6, 8, 3)
    cases = {
        "six outputs and eight inputs": (W, A, B, draw(6).abs(), 2.0),
        "the start, B = 0 and m the lengths of W's rows": (W, A, 0 * B, W.norm(dim=1), 2.0),
        "a square layer": (*_layer(draw, 5, 5, 2), draw(5).abs(), 0.5),
    }
    mistakes: dict[str, Function] = {
        "your lengths are those of the columns; each output is a row": lambda W, A, B, m, s: (
            m[:, None] * turned(W, A, B, s) / turned(W, A, B, s).norm(dim=0)
        ),
        "your length is that of the whole matrix; each row has its own": lambda W, A, B, m, s: (
            m[:, None] * turned(W, A, B, s) / turned(W, A, B, s).norm()
        ),
        "your rows are divided by the lengths of W's; take those of W + s B A": lambda W, A, B, m, s: (
            m[:, None] * turned(W, A, B, s) / W.norm(dim=1, keepdim=True)
        ),
        "your rows are not divided by their lengths": lambda W, A, B, m, s: m[:, None] * turned(W, A, B, s),
        "your rows all have length 1: m is missing": lambda W, A, B, m, s: (
            turned(W, A, B, s) / turned(W, A, B, s).norm(dim=1, keepdim=True)
        ),
        "your matrix is W + s B A; lengths and m are missing": lambda W, A, B, m, s: turned(W, A, B, s),
        "your change is not scaled by s": lambda W, A, B, m, s: solution(W, A, B, m, 1.0),
        "your lengths are squared: take the root": lambda W, A, B, m, s: (
            m[:, None] * turned(W, A, B, s) / (turned(W, A, B, s) ** 2).sum(1, keepdim=True)
        ),
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_ia3(
    learner: Function,  # learner(x (batch, d_in), W (d_out, d_in), b (d_out,), ell, feedforward) -> (batch, d_out)
) -> Verdict:
    "Is it ell * (W x + b) for keys and values, and W (ell * x) + b for the feed-forward block (arXiv:2205.05638)?"
    draw = Draw()

    def answer(keep: Function, feedforward: Function) -> Function:
        return lambda x, W, b, ell, is_ff: (feedforward if is_ff else keep)(x, W, b, ell)

    def output(x: Tensor, W: Tensor, b: Tensor, ell: Tensor) -> Tensor:
        return x @ (ell[:, None] * W).T + ell * b

    def input(x: Tensor, W: Tensor, b: Tensor, ell: Tensor) -> Tensor:
        return x @ (W * ell).T + b

    def output_if_fits(x: Tensor, W: Tensor, b: Tensor, ell: Tensor) -> Tensor:
        return output(x, W, b, ell) if len(ell) == len(W) else input(x, W, b, ell)

    def no_bias(function: Function) -> Function:
        return lambda x, W, b, ell: function(x, W, 0 * b, ell)

    def unscaled_bias(x: Tensor, W: Tensor, b: Tensor, ell: Tensor) -> Tensor:
        return (x @ W.T) * ell + b

    def added(x: Tensor, W: Tensor, b: Tensor, ell: Tensor) -> Tensor:
        return x @ W.T + b + ell

    W, _, _ = _layer(draw, 5, 5, 1)
    V, _, _ = _layer(draw, 5, 8, 1)
    x, wide = draw(4, 5), draw(4, 8)
    b, ell = draw(5), draw(8)
    cases = {
        "keys and values": (x, W, b, ell[:5], False),
        "the feed-forward block": (x, W, b, ell[:5], True),
        "a feed-forward block with more inputs than outputs": (wide, V, b, ell, True),
        "scales of 1": (x, W, b, torch.ones(5), False),
    }
    mistakes: dict[str, Function] = {
        "your bias is not scaled; that of keys and values is": answer(unscaled_bias, input),
        "your scales go to the input; those of keys and values go to the output": answer(input, input),
        "your scales go to the output; those of the feed-forward block go to its input": answer(output, output_if_fits),
        "your scales are added; they multiply": answer(added, lambda x, W, b, ell: (x + ell) @ W.T + b),
        "your scales change nothing": lambda x, W, b, ell, is_ff: x @ W.T + b,
        "your answer leaves the bias out": answer(no_bias(output), no_bias(input)),
    }
    return check(learner, cases, answer(output, input), mistakes)


def _layer(draw: Draw, d_out: int, d_in: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
    "W, A and B, none of them zero."
    return draw(d_out, d_in, size=1.0), draw(r, d_in, size=1.0), draw(d_out, r, size=1.0)


__all__ = [
    "check_lora_forward",
    "check_lora_parameters",
    "check_rank_for_budget",
    "check_lora_merge",
    "check_dora",
    "check_ia3",
]
