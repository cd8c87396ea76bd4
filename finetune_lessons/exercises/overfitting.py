"""Checks of lesson 13, overfitting."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(13)


@exercise
def check_dropout(
    learner: Function,  # learner(x (rows, n), kept (rows, n) of True and False, p) -> (rows, n)
) -> Verdict:
    "Is it x where it is kept, divided by 1 - p, and 0 elsewhere?"
    draw = Draw()

    def case(rows: int, n: int, p: float) -> tuple[Tensor, Tensor, float]:
        return draw(rows, n), draw(rows, n) > 0, p

    cases = {
        "a tenth dropped": case(4, 6, 0.1),
        "two thirds dropped": case(3, 5, draw.number(0.6, 0.7)),
        "p = 0, all kept": (draw(2, 3), torch.ones(2, 3, dtype=torch.bool), 0.0),
    }
    mistakes: dict[str, Function] = {
        "your kept numbers are not scaled: on average x must stay what it is": lambda x, kept, p: x * kept,
        "your scale is 1 / p; it is 1 / (1 - p)": lambda x, kept, p: x * kept / p if p else x * kept * float("inf"),
        "your scale shrinks; the kept numbers grow, to stand in for the dropped": lambda x, kept, p: x * kept * (1 - p),
        "your mask is the wrong way round: True means kept": lambda x, kept, p: x * ~kept / (1 - p),
        "your dropped numbers are scaled, not zeroed": lambda x, kept, p: torch.where(kept, x, x / (1 - p)),
        "your scale is that of this mask; it is 1 - p, whatever was drawn": lambda x, kept, p: (
            x * kept / kept.float().mean()
        ),
    }
    return check(learner, cases, lambda x, kept, p: x * kept / (1 - p), mistakes)


@exercise
def check_patience(
    learner: Function,  # learner(losses, a list, patience, min_delta) -> how many validations take place
) -> Verdict:
    "Does it stop after `patience` validations in a row that are not better by more than min_delta?"
    draw = Draw()
    down = draw.number(0.5, 0.6)
    noise = draw.number(0.001, 0.009)
    tiny = [0.7 - noise, 0.7 - 2 * noise, 0.7 - noise, 0.7]
    bump = [0.9, down, down + 0.2, down + 0.1, down - 0.1, down + 0.3, down + 0.2, down + 0.1, down, down]
    slow = [0.9 - 0.03 * i for i in range(8)] + [0.69] * 6
    cases = {
        "a bump": (bump, 3, 0.0),
        "little patience": (bump, 2, 0.0),
        "gains below min_delta": ([0.9, 0.7, *tiny, 0.7, 0.2], 2, 0.02),
        "slow but steady gains": (slow, 3, 0.05),
        "the same again": ([0.8, 0.6, 0.6, 0.6, 0.6, 0.7, 0.8, 0.1], 3, 0.0),
        "better to the end": ([0.9 - 0.05 * i for i in range(draw.whole(5, 9))], 2, 0.0),
    }

    def stops(losses: list[float], patience: int, min_delta: float, *, start: str = "last better") -> int:
        best, waited = losses[0], 0
        for i, loss in enumerate(losses[1:], 1):
            better = loss < best - min_delta
            waited = 0 if better else waited + 1
            if better or (start == "creeps" and loss < best) or start == "previous":
                best = loss
            if waited >= patience:
                return i + 1
        return len(losses)

    def one_late(losses: list[float], patience: int, min_delta: float) -> int:
        return stops(losses, patience + 1, min_delta)

    def in_total(losses: list[float], patience: int, min_delta: float) -> int:
        best, waited = losses[0], 0
        for i, loss in enumerate(losses[1:], 1):
            if loss < best - min_delta:
                best = loss
            else:
                waited += 1
            if waited >= patience:
                return i + 1
        return len(losses)

    mistakes: dict[str, Function] = {
        "your function stops one validation late": one_late,
        "your function counts all bad validations; a better one starts the count anew": in_total,
        "your function compares with the validation before; compare with the best so far": lambda *given: (
            stops(*given, start="previous")
        ),
        "your function lets gains that are too small move the mark: slow but steady ones then stop the run": (
            lambda *given: stops(*given, start="creeps")
        ),
        "your function ignores min_delta": lambda losses, patience, min_delta: stops(losses, patience, 0.0),
        "your function takes an equal loss for a better one": lambda losses, patience, min_delta: (
            stops(losses, patience, min_delta - 1e-9)
        ),
        "your answer is the number of the last validation, from 0; count them": lambda *given: stops(*given) - 1,
    }
    return check(learner, cases, stops, mistakes)


@exercise
def check_pull(
    learner: Function,  # learner(w (n,), u (n,), strength) -> (n,)
) -> Verdict:
    "Is it the gradient of strength / 2 ||w - u||^2 by w?"
    draw = Draw()
    u = draw(5)
    cases = {
        "any weights": (draw(4), draw(4), draw.number(0.1, 0.9)),
        "not moved yet": (u.clone(), u, 0.5),
        "strength 0": (draw(3), draw(3), 0.0),
    }
    mistakes: dict[str, Function] = {
        "your pull leads to 0, not to u: that is plain L2": lambda w, u, strength: strength * w,
        "your pull leads away from u; a gradient points uphill, and the optimizer goes down": lambda w, u, strength: (
            strength * (u - w)
        ),
        "your pull is half of it: the square brings a factor of 2": lambda w, u, strength: strength / 2 * (w - u),
        "your pull is twice it: there is a half before the square": lambda w, u, strength: 2 * strength * (w - u),
        "your answer is the penalty itself, without its gradient": lambda w, u, strength: strength / 2 * (w - u) ** 2,
    }
    return check(learner, cases, lambda w, u, strength: strength * (w - u), mistakes)


@exercise
def check_mixout(
    learner: Function,  # learner(w (n,), u (n,), M (n,) of 0 and 1, p) -> (n,)
) -> Verdict:
    "Is it u where M is 1 and w elsewhere, corrected so that it is w on average?"
    draw = Draw()

    def case(n: int, p: float) -> tuple[Tensor, Tensor, Tensor, float]:
        return draw(n), draw(n), (draw(n) > 0).float(), p

    w = draw(4)
    cases = {
        "p = 0.5": case(6, 0.5),
        "any p": case(6, draw.number(0.2, 0.4)),
        "not moved yet": (w, w.clone(), torch.tensor([0.0, 1.0, 1.0, 0.0]), 0.3),
        "u = 0: dropout": (draw(4), torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 1.0]), 0.6),
    }

    def mixout(w: Tensor, u: Tensor, M: Tensor, p: float) -> Tensor:
        return (M * u + (1 - M) * w - p * u) / (1 - p)

    mistakes: dict[str, Function] = {
        "your mix is not corrected: subtract p u and divide by 1 - p": lambda w, u, M, p: M * u + (1 - M) * w,
        "your mix lacks - p u: at w = u it must be w": lambda w, u, M, p: (M * u + (1 - M) * w) / (1 - p),
        "your mix is not divided by 1 - p": lambda w, u, M, p: M * u + (1 - M) * w - p * u,
        "your mask is the wrong way round: M = 1 takes the pretrained u": lambda w, u, M, p: mixout(w, u, 1 - M, p),
        "your w and u are exchanged": lambda w, u, M, p: mixout(u, w, M, p),
    }
    return check(learner, cases, mixout, mistakes)


@exercise
def check_r_drop(
    learner: Function,  # learner(a (rows, classes), b (rows, classes), labels (rows,), alpha) -> a number
) -> Verdict:
    "Is it the mean cross-entropy of both passes + alpha times the mean of KL(a || b) and KL(b || a)?"
    draw = Draw()
    same = draw(3, 2)
    cases = {
        "four classes": (draw(5, 4, size=2.0), draw(5, 4, size=2.0), draw.wholes(0, 3, 5), draw.number(1.5, 3.0)),
        "two passes": (draw(6, 3, size=1.0), draw(6, 3, size=1.0), draw.wholes(0, 2, 6), draw.number(1.5, 3.0)),
        "alpha = 0": (draw(4, 2), draw(4, 2), draw.wholes(0, 1, 4), 0.0),
        "two equal passes": (same, same.clone(), draw.wholes(0, 1, 3), 1.0),
    }

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a.softmax(-1) * (a.log_softmax(-1) - b.log_softmax(-1))).sum(-1)

    def both_ways(a: Tensor, b: Tensor) -> Tensor:
        return (kl(a, b) + kl(b, a)).mean() / 2

    def loss(a: Tensor, b: Tensor, labels: Tensor, alpha: float, *, apart: Function = both_ways) -> Tensor:
        return (cross_entropy(a, labels) + cross_entropy(b, labels)) / 2 + alpha * apart(a, b)

    mistakes: dict[str, Function] = {
        "your KL is a sum over the rows; the cross-entropy is a mean, so take one here too": lambda *given: (
            loss(*given, apart=lambda a, b: (kl(a, b) + kl(b, a)).sum() / 2)
        ),
        "your KL is a mean over rows and classes; a row's KL is a sum over its classes": lambda *given: (
            loss(*given, apart=lambda a, b: (kl(a, b) + kl(b, a)).mean() / 2 / a.shape[1])
        ),
        "your KL is one-sided: take the mean of both directions": lambda *given: (
            loss(*given, apart=lambda a, b: kl(a, b).mean())
        ),
        "your KL is one-sided, KL(b || a): take the mean of both directions": lambda *given: (
            loss(*given, apart=lambda a, b: kl(b, a).mean())
        ),
        "your KL adds the two directions; take their mean": lambda *given: (
            loss(*given, apart=lambda a, b: (kl(a, b) + kl(b, a)).mean())
        ),
        "your cross-entropies are added; take their mean": lambda a, b, labels, alpha: (
            loss(a, b, labels, alpha) + (cross_entropy(a, labels) + cross_entropy(b, labels)) / 2
        ),
        "your cross-entropy is that of the first pass alone": lambda a, b, labels, alpha: (
            cross_entropy(a, labels) + loss(a, b, labels, alpha) - loss(a, b, labels, 0.0)
        ),
    }
    return check(learner, cases, loss, mistakes)


@exercise
def check_first_steps(
    learner: Function,  # learner(t, beta1, beta2) -> a number
) -> Verdict:
    "Is it how many times too long Adam's step number t is without the correction, for a constant gradient?"
    draw = Draw()
    cases = {
        "the first step": (1, 0.9, 0.999),
        "a later step": (draw.whole(5, 60), 0.9, 0.999),
        "long after": (100_000, 0.9, 0.999),
        "other betas": (draw.whole(2, 9), draw.number(0.5, 0.8), draw.number(0.9, 0.99)),
    }

    def longer(t: int, beta1: float, beta2: float) -> float:
        return (1 - beta1**t) / (1 - beta2**t) ** 0.5

    mistakes: dict[str, Function] = {
        "your factor is upside down: it is how much *too long* the step is": lambda *given: 1 / longer(*given),
        "your root is missing: v stands under one": lambda t, b1, b2: (1 - b1**t) / (1 - b2**t),
        "your m is left out: it is too small as well": lambda t, b1, b2: 1 / (1 - b2**t) ** 0.5,
        "your betas are exchanged: beta1 is that of m": lambda t, b1, b2: longer(t, b2, b1),
        "your steps begin at 0; the first one is t = 1": lambda t, b1, b2: longer(t + 1, b1, b2),
    }
    return check(learner, cases, longer, mistakes)


__all__ = [
    "check_dropout",
    "check_patience",
    "check_pull",
    "check_mixout",
    "check_r_drop",
    "check_first_steps",
]
