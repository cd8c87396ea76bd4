"""Checks of lesson 32, multi-task weighting."""

import math

import torch
from torch import Tensor

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(32)


@exercise
def check_uncertainty(
    learner: Function,  # learner(losses (tasks,), s (tasks,)) -> a number
) -> Verdict:
    "Is it the sum of e^-s L + s / 2?"
    draw = Draw()
    cases = {
        "three tasks": (draw(3).abs(), draw(3, size=1.0)),
        "s = 0": (draw(2).abs(), torch.zeros(2)),
        "a total below zero": (draw(2, size=0.01).abs().clamp(max=0.02), -3 - draw(2, size=0.2).abs().clamp(max=1)),
    }
    mistakes: dict[str, Function] = {
        "your total weighs with e^s; a larger s is more uncertain, so it counts less": lambda L, s: (
            s.exp() * L + s / 2
        ).sum(),
        "your total lacks s / 2, so nothing keeps the weights from falling to zero": lambda L, s: (
            (-s).exp() * L
        ).sum(),
        "your total adds s; the logarithm of sigma is half of that of its square": lambda L, s: (
            (-s).exp() * L + s
        ).sum(),
        "your total is made positive; it may fall below zero": lambda L, s: ((-s).exp() * L + s / 2).sum().abs(),
        "your total halves the weights: that is the form of a regression": lambda L, s: (
            (-s).exp() * L / 2 + s / 2
        ).sum(),
        "your total is the mean over the tasks": lambda L, s: ((-s).exp() * L + s / 2).mean(),
    }
    return check(learner, cases, lambda L, s: ((-s).exp() * L + s / 2).sum(), mistakes)


@exercise
def check_best_uncertainty(
    learner: Function,  # learner(loss) -> the s at which e^-s loss + s / 2 is smallest
) -> Verdict:
    "Is it ln(2 L)?"
    draw = Draw()
    losses = draw.number(0.1, 0.45), draw.number(1.5, 4.0), 0.5
    cases = {f"a loss of {loss:g}": (loss,) for loss in losses}
    mistakes: dict[str, Function] = {
        "your s is ln L, the optimum of a regression, whose weight is halved": math.log,
        "your s is the weight; s is its logarithm, with a minus": lambda L: 2 * L,
        "your s has the wrong sign": lambda L: -math.log(2 * L),
        "your s is ln(L / 2)": lambda L: math.log(L / 2),
    }
    return check(learner, cases, lambda L: math.log(2 * L), mistakes)


@exercise
def check_task_shares(
    learner: Function,  # learner(sizes (tasks,), T) -> (tasks,), how often each task is drawn
) -> Verdict:
    "Is it n^(1/T) / sum of n^(1/T)?"
    draw = Draw()
    sizes = torch.tensor([draw.whole(low, 2 * low) for low in (500, 50, 5)]).float()
    cases = {
        "T = 1": (sizes, 1.0),
        "T = 2": (sizes, 2.0),
        "T = 100": (sizes[:2], 100.0),
    }

    def shares(sizes: Tensor, T: float) -> Tensor:
        return sizes ** (1 / T) / (sizes ** (1 / T)).sum()

    mistakes: dict[str, Function] = {
        "your shares have the power T; it is 1 / T": lambda n, T: shares(n, 1 / T),
        "your shares are a softmax of the sizes": lambda n, T: (n / T).softmax(0),
        "your shares do not sum to one": lambda n, T: n ** (1 / T),
        "your shares leave the temperature out": lambda n, T: shares(n, 1.0),
        "your shares raise to the power after the division, and then no longer sum to one": lambda n, T: (
            (n / n.sum()) ** (1 / T)
        ),
    }
    return check(learner, cases, shares, mistakes)


def _paced(draw: Draw, tasks: int) -> tuple[Tensor, Tensor]:
    "Losses now and before, of tasks that fall at different paces."
    before = draw(tasks).abs() + 0.2
    paces = [draw.number(0.3 + 0.4 * i, 0.6 + 0.4 * i) for i in range(tasks)]
    return before * torch.tensor(paces)[draw.order(tasks)], before


@exercise
def check_dynamic_weights(
    learner: Function,  # learner(last (tasks,), before (tasks,), T) -> (tasks,)
) -> Verdict:
    "Is it K softmax(r / T), r = last / before?"
    draw = Draw()
    same = draw(2).abs() + 0.2
    cases = {
        "two tasks": (*_paced(draw, 2), 2.0),
        "three tasks": (*_paced(draw, 3), 1.0),
        "all at one pace": (same, 2 * same, 2.0),
    }
    mistakes: dict[str, Function] = {
        "your weights sum to one; they sum to the number of tasks": lambda a, b, T: (a / b / T).softmax(0),
        "your ratio is upside down: the task that still falls fast would count more": lambda a, b, T: (
            len(a) * (b / a / T).softmax(0)
        ),
        "your weights leave the temperature out": lambda a, b, T: len(a) * (a / b).softmax(0),
        "your weights multiply by the temperature": lambda a, b, T: len(a) * (a / b * T).softmax(0),
        "your weights come from the losses, not from how they changed": lambda a, b, T: len(a) * (a / T).softmax(0),
    }
    return check(learner, cases, lambda a, b, T: len(a) * (a / b / T).softmax(0), mistakes)


@exercise
def check_projection(
    learner: Function,  # learner(g (parameters,), other (parameters,)) -> (parameters,)
) -> Verdict:
    "Is what goes against the other taken away, and only where they conflict?"
    draw = Draw()
    g, h = draw(6), draw(2)
    cases = {
        "a conflict": (h, torch.stack([-h[0] - h[1], h[0] - h[1]])),  # at an angle of 135 degrees
        "agreement": (h, torch.stack([h[0] - h[1], h[0] + h[1]])),  # at one of 45
        "opposites": (g, -2 * g),
        "six parameters": (g, -g + draw(6, size=1.0)),
    }

    def project(g: Tensor, other: Tensor) -> Tensor:
        return g - torch.clamp(g @ other, max=0) / other.square().sum() * other

    mistakes: dict[str, Function] = {
        "your gradient is changed where the two agree; leave it alone there": lambda g, o: (
            g - (g @ o) / o.square().sum() * o
        ),
        "your gradient is not changed at all": lambda g, o: g,
        "your projection divides by the length; the square of the length is needed": lambda g, o: (
            g - torch.clamp(g @ o, max=0) / o.norm() * o
        ),
        "your projection is added; it has to be taken away": lambda g, o: (
            g + torch.clamp(g @ o, max=0) / o.square().sum() * o
        ),
        "your projection is that of the other on g": lambda g, o: g - torch.clamp(g @ o, max=0) / (g @ g) * g,
        "your gradient is set to zero where they conflict; only the part against the other goes": lambda g, o: (
            g * (g @ o >= 0)
        ),
    }
    return check(learner, cases, project, mistakes)


@exercise
def check_gradnorm_targets(
    learner: Function,  # learner(weights, norms, progress, alpha), each but alpha (tasks,) -> (tasks,)
) -> Verdict:
    "Is it the mean of the weighted norms, times (relative progress)^alpha?"
    draw = Draw()
    w, n, p = (draw(3).abs() + 0.1 for _ in range(3))
    cases = {
        "three tasks": (w, n, p, 1.5),
        "alpha = 0": (w, n, p, 0.0),
        "equal progress": (w, n, torch.full((3,), 0.4), 1.5),
    }

    def targets(weights: Tensor, norms: Tensor, progress: Tensor, alpha: float) -> Tensor:
        return (weights * norms).mean() * (progress / progress.mean()) ** alpha

    mistakes: dict[str, Function] = {
        "your targets leave the weights out of the norms": lambda w, n, p, a: targets(torch.ones_like(w), n, p, a),
        "your targets take the progress itself, not relative to the mean": lambda w, n, p, a: (w * n).mean() * p**a,
        "your targets begin from each task's own norm, not from the mean": lambda w, n, p, a: (
            w * n * (p / p.mean()) ** a
        ),
        "your targets multiply by alpha; it is a power": lambda w, n, p, a: (w * n).mean() * p / p.mean() * a,
        "your targets leave alpha out": lambda w, n, p, a: targets(w, n, p, 1.0),
        "your targets are upside down: the slow task needs the larger gradient": lambda w, n, p, a: targets(
            w, n, p, -a
        ),
    }
    return check(learner, cases, targets, mistakes)


__all__ = [
    "check_uncertainty",
    "check_best_uncertainty",
    "check_task_shares",
    "check_dynamic_weights",
    "check_projection",
    "check_gradnorm_targets",
]
