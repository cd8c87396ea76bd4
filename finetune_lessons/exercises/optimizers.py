"""Checks of lesson 12, optimizers."""

import torch
from torch import Tensor

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(12)


@exercise
def check_momentum(
    learner: Function,  # learner(gradients (steps, n), mu) -> (n,)
) -> Verdict:
    "Is it what momentum SGD steps along after these gradients: b = mu b + g, from 0?"
    draw = Draw()
    cases = {
        "four gradients": (draw(4, 3), 0.9),
        "no momentum": (draw(3, 2), 0.0),
        "one gradient": (draw(1, 5), draw.number(0.3, 0.8)),
    }

    def buffer(gradients: Tensor, mu: float) -> Tensor:
        b = torch.zeros_like(gradients[0])
        for g in gradients:
            b = mu * b + g
        return b

    mistakes: dict[str, Function] = {
        "your b is a mean, (1 - mu) of each gradient; momentum adds gradients up whole": lambda gs, mu: (
            buffer((1 - mu) * gs, mu)
        ),
        "your b is the sum of all gradients; old ones fade by mu at every step": lambda gs, mu: gs.sum(0),
        "your b is the last gradient; nothing is remembered": lambda gs, mu: gs[-1],
        "your mu multiplies the new gradient; it belongs to the old b": lambda gs, mu: mu * gs.sum(0),
        "your gradients come in the wrong order: the last one counts whole": lambda gs, mu: buffer(gs.flip(0), mu),
    }
    return check(learner, cases, buffer, mistakes)


@exercise
def check_adam(
    learner: Function,  # learner(gradients (steps, n), beta1, beta2, eps) -> (n,)
) -> Verdict:
    "Is it m' / (sqrt(v') + eps) after these gradients, both means corrected for their start from 0?"
    draw = Draw()
    cases = {
        "three gradients": (draw(3, 4), 0.9, 0.999, 1e-8),
        "one gradient": (draw(1, 3), 0.8, 0.99, 1e-8),
        "a large eps": (draw(5, 3), 0.9, 0.99, 0.5),
    }

    def means(gs: Tensor, beta1: float, beta2: float, corrected: bool = True) -> tuple[Tensor, Tensor]:
        m, v = torch.zeros_like(gs[0]), torch.zeros_like(gs[0])
        for g in gs:
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        t = len(gs)
        return (m / (1 - beta1**t), v / (1 - beta2**t)) if corrected else (m, v)

    def adam(gs: Tensor, beta1: float, beta2: float, eps: float, corrected: bool = True) -> Tensor:
        m, v = means(gs, beta1, beta2, corrected)
        return m / (v.sqrt() + eps)

    def one_corrected(gs: Tensor, beta1: float, beta2: float, eps: float) -> Tensor:
        return means(gs, beta1, beta2)[0] / (means(gs, beta1, beta2, False)[1].sqrt() + eps)

    def inside(gs: Tensor, beta1: float, beta2: float, eps: float) -> Tensor:
        m, v = means(gs, beta1, beta2)
        return m / (v + eps).sqrt()

    def without_root(gs: Tensor, beta1: float, beta2: float, eps: float) -> Tensor:
        m, v = means(gs, beta1, beta2)
        return m / (v + eps)

    mistakes: dict[str, Function] = {
        "your means are not corrected: divide them by 1 - beta ** t": lambda gs, beta1, beta2, eps: (
            adam(gs, beta1, beta2, eps, corrected=False)
        ),
        "your m is corrected and your v is not": one_corrected,
        "your eps stands under the root; it is added to the root": inside,
        "your root is missing: divide by sqrt(v'), not by v'": without_root,
        "your betas are exchanged: beta1 is that of m": lambda gs, beta1, beta2, eps: adam(gs, beta2, beta1, eps),
    }
    return check(learner, cases, adam, mistakes)


@exercise
def check_decay(
    learner: Function,  # learner(w (n,), step (n,), lr, weight_decay) -> (n,)
) -> Verdict:
    "Is it w after AdamW's decay and a step of Adam's: (1 - lr weight_decay) w - lr step?"
    draw = Draw()
    cases = {
        "a large rate": (draw(4), draw(4), draw.number(0.2, 0.4), 0.7),
        "no gradient": (draw(3), torch.zeros(3), 0.1, draw.number(0.2, 0.8)),
        "no decay": (draw(3), draw(3), 0.1, 0.0),
    }
    mistakes: dict[str, Function] = {
        "your decay lacks the learning rate: it is lr times weight_decay": lambda w, s, lr, d: (1 - d) * w - lr * s,
        "your decay shrinks the step too: first the decay, then the step": lambda w, s, lr, d: (
            (1 - lr * d) * (w - lr * s)
        ),
        "your decay makes the weights grow": lambda w, s, lr, d: (1 + lr * d) * w - lr * s,
        "your weights do not decay": lambda w, s, lr, d: w - lr * s,
        "your learning rate multiplies the decay twice": lambda w, s, lr, d: (1 - lr * lr * d) * w - lr * s,
    }
    return check(learner, cases, lambda w, s, lr, d: (1 - lr * d) * w - lr * s, mistakes)


@exercise
def check_lion(
    learner: Function,  # learner(w (n,), g (n,), m (n,), lr, beta1, beta2) -> (2, n): the new w, the new m
) -> Verdict:
    "Is the step the sign of beta1 m + (1 - beta1) g, and m then moved by beta2?"
    draw = Draw()
    m, against = draw(6), torch.tensor([-4.0, 2.0] * 3)[draw.order(6)]
    cases = {
        "gradients against m": (draw(6), against * m, m, 0.3, 0.9, 0.6),
        "a first step": (draw(4), draw(4), torch.zeros(4), draw.number(0.1, 0.5), 0.9, 0.99),
        "no gradient": (draw(3), torch.zeros(3), draw(3), 0.1, 0.9, 0.99),
    }

    def lion(w: Tensor, g: Tensor, m: Tensor, lr: float, beta1: float, beta2: float) -> Tensor:
        return torch.stack([w - lr * (beta1 * m + (1 - beta1) * g).sign(), beta2 * m + (1 - beta2) * g])

    def m_first(w: Tensor, g: Tensor, m: Tensor, lr: float, beta1: float, beta2: float) -> Tensor:
        new = beta2 * m + (1 - beta2) * g
        return torch.stack([w - lr * new.sign(), new])

    mistakes: dict[str, Function] = {
        "your step follows the new m; it is the sign of beta1 m + (1 - beta1) g, with the old m": m_first,
        "your m moves by beta1; it moves by beta2": lambda w, g, m, lr, b1, b2: torch.stack(
            [lion(w, g, m, lr, b1, b2)[0], b1 * m + (1 - b1) * g]
        ),
        "your step is not a sign": lambda w, g, m, lr, b1, b2: torch.stack(
            [w - lr * (b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g]
        ),
        "your step goes uphill": lambda w, g, m, lr, b1, b2: lion(w, g, m, -lr, b1, b2),
        "your answer has m first; return the new w, then the new m": lambda *given: lion(*given).flip(0),
    }
    return check(learner, cases, lion, mistakes)


@exercise
def check_factored(
    learner: Function,  # learner(v (rows, columns)) -> (rows, columns)
) -> Verdict:
    "Is it the matrix that the means of the rows and of the columns stand for: r c / mean(r)?"
    draw = Draw()
    r, c = draw(5, 1).abs() + 0.1, draw(1, 3).abs() + 0.1
    cases = {
        "any matrix": (draw(4, 6).square() + 0.1,),
        "a product of a column and a row": (r * c,),
        "one row": (draw(1, 4).square() + 0.1,),
    }

    def rows_and_columns(v: Tensor) -> Tensor:
        return v.mean(1, keepdim=True) * v.mean(0, keepdim=True)

    mistakes: dict[str, Function] = {
        "your product is not divided by the mean of all": rows_and_columns,
        "your rows and columns are sums, and the divisor is a mean": lambda v: (
            rows_and_columns(v) / v.mean() * v.numel()
        ),
        "your rows and columns are means, and the divisor is a sum": lambda v: rows_and_columns(v) / v.sum(),
        "your matrix knows the rows alone": lambda v: v.mean(1, keepdim=True).expand_as(v),
        "your matrix knows the columns alone": lambda v: v.mean(0, keepdim=True).expand_as(v),
        "your matrix is v itself: that is what one wants to do without": lambda v: v,
    }
    return check(learner, cases, lambda v: rows_and_columns(v) / v.mean(), mistakes)


@exercise
def check_linear_schedule(
    learner: Function,  # learner(step, steps, warmup) -> a number
) -> Verdict:
    "Is it step / warmup at first, then (steps - step) / (steps - warmup)?"
    draw = Draw()
    steps, warmup = draw.whole(60, 400), draw.whole(10, 30)
    cases = {
        "on the way up": (draw.whole(2, warmup - 2), steps, warmup),
        "at the peak": (warmup, steps, warmup),
        "on the way down": (draw.whole(warmup + 5, steps - 5), steps, warmup),
        "the last step": (steps - 1, steps, warmup),
        "no warm-up": (draw.whole(3, 50), steps, 0),
    }

    def rate(step: int, steps: int, warmup: int) -> float:
        return step / warmup if step < warmup else (steps - step) / (steps - warmup)

    mistakes: dict[str, Function] = {
        "your rate is one step ahead: step 0 has rate 0": lambda t, n, w: rate(t + 1, n, w),
        "your rate falls as if there had been no warm-up: divide by steps - warmup": lambda t, n, w: (
            t / w if t < w else (n - t) / n
        ),
        "your rate does not climb": lambda t, n, w: 1.0 if t < w else rate(t, n, w),
        "your rate does not fall": lambda t, n, w: t / w if t < w else 1.0,
        "your rate falls by the share of the warm-up too: count from its end": lambda t, n, w: (
            t / w if t < w else 1 - t / (n - w)
        ),
    }
    return check(learner, cases, rate, mistakes)


@exercise
def check_paired(
    learner: Function,  # learner(a (seeds,), b (seeds,)) -> a number
) -> Verdict:
    "Is it the mean of the differences a - b, in standard errors of that mean?"
    draw = Draw()

    def pair(seeds: int) -> tuple[Tensor, Tensor]:
        luck = draw(seeds, size=0.1)  # what both share
        return luck + 0.8, luck + 0.8 - draw.number(0.02, 0.06) + draw(seeds, size=0.01)

    cases = {"three seeds": pair(3), "ten seeds": pair(10), "the other way round": pair(5)[::-1]}

    def paired(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).mean() / ((a - b).std() / len(a) ** 0.5)

    mistakes: dict[str, Function] = {
        "your spread is that of a and of b; the seeds are pairs, so take that of a - b": lambda a, b: (
            (a - b).mean() / ((a.var() + b.var()) / len(a)) ** 0.5
        ),
        "your spread is that of one run; that of a mean is smaller by sqrt(n)": lambda a, b: (
            (a - b).mean() / (a - b).std()
        ),
        "your standard deviation divides by n; of a sample it is n - 1": lambda a, b: (
            (a - b).mean() / ((a - b).std(correction=0) / len(a) ** 0.5)
        ),
        "your differences are b - a": lambda a, b: -paired(a, b),
        "your answer is the mean of the differences; divide by its standard error": lambda a, b: (a - b).mean(),
    }
    return check(learner, cases, paired, mistakes, tolerance=1e-3)


__all__ = [
    "check_momentum",
    "check_adam",
    "check_decay",
    "check_lion",
    "check_factored",
    "check_linear_schedule",
    "check_paired",
]
