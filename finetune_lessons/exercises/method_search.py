"""Checks of lesson 52, choosing the method."""

import torch
from torch import Tensor

from finetune_lessons.exercises.cases import telling
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(52)


# 1. who survives a rung


def survivors(scores: Tensor, eta: int) -> Tensor:
    "The numbers of the best len(scores) // eta, at least one, the best first."
    return scores.argsort(descending=True)[: max(1, len(scores) // eta)]


@exercise
def check_survivors(learner: Function) -> Verdict:
    draw = Draw()

    mistakes = {
        "those are the worst ones": lambda s, eta: s.argsort()[: max(1, len(s) // eta)],
        "you return scores; return the numbers of the settings": lambda s, eta: s[survivors(s, eta)],
        "your settings are sorted by number; the best comes first": lambda s, eta: survivors(s, eta).sort().values,
        "your best setting comes last": lambda s, eta: survivors(s, eta).flip(0),
        "you return places in the ranking, as many as survive": lambda s, eta: torch.arange(max(1, len(s) // eta)),
    }

    def case(low: int, high: int, eta: int) -> tuple:
        return telling(
            lambda: (draw(draw.whole(low, high) * eta + draw.whole(1, eta - 1), size=1.0), eta),
            survivors,
            mistakes.values(),
        )

    cases = {
        "one in three": case(3, 5, 3),
        "one in two": case(4, 6, 2),
        "one in four, twenty and more": case(5, 7, 4),
        "fewer settings than eta": (draw(draw.whole(2, 3), size=1.0), 4),
    }
    return check(learner, cases, survivors, mistakes, tolerance=1e-6)


# 2. what a halving costs


def steps_of(n: int, eta: int, first: int, rungs: int) -> int:
    "Steps of all runs: who survives goes on from where it was."
    total = before = 0
    for k in range(rungs):
        at = first * eta**k
        total, before = total + max(1, n // eta**k) * (at - before), at
    return total


@exercise
def check_steps(learner: Function) -> Verdict:
    draw = Draw()

    def restarted(n: int, eta: int, first: int, rungs: int) -> int:
        return sum(max(1, n // eta**k) * first * eta**k for k in range(rungs))

    def all_along(n: int, eta: int, first: int, rungs: int) -> int:
        return n * first * eta ** (rungs - 1)

    def once_more(n: int, eta: int, first: int, rungs: int) -> int:
        return steps_of(n, eta, first, rungs + 1)

    def first_rung(n: int, eta: int, first: int, rungs: int) -> int:
        return n * first

    def fractions(n: int, eta: int, first: int, rungs: int) -> float:
        ends = [first * eta**k for k in range(rungs)]
        starts = [0, *ends[:-1]]
        return sum(n / eta**k * (ends[k] - starts[k]) for k in range(rungs))

    mistakes = {
        "your runs begin anew at each rung; they go on from where they were": restarted,
        "that is the full search, in which nobody is stopped": all_along,
        "you climb one rung too many; the first is one of them": once_more,
        "that is the first rung alone": first_rung,
        "you let parts of a setting survive; n // eta is rounded down": fractions,
        "those are the steps of one run": lambda n, eta, first, rungs: first * eta ** (rungs - 1),
    }

    def case(eta: int, rungs: int) -> tuple:
        def search() -> tuple[int, int, int, int]:
            return draw.whole(40, 900), eta, draw.whole(2, 60), rungs

        return telling(search, steps_of, mistakes.values(), apart=1e-5)

    cases = {"three rungs": case(3, 3), "four rungs, one in two": case(2, 4), "two rungs, one in four": case(4, 2)}
    few = (draw.whole(5, 8), 3, draw.whole(10, 9000), 3)
    return check(learner, cases | {"few settings": few}, steps_of, mistakes, tolerance=1e-6)


# 3. ASHA's promotion


def promoted(scores: Tensor, gone: Tensor, eta: int) -> int:
    "The best that is among the best len(scores) // eta and has not gone on; -1 if there is none."
    best = scores.argsort(descending=True)[: len(scores) // eta].tolist()
    return next((i for i in best if not gone[i]), -1)


@exercise
def check_promoted(learner: Function) -> Verdict:
    draw = Draw()

    def anyone(scores: Tensor, gone: Tensor, eta: int) -> int:
        return next((i for i in scores.argsort(descending=True).tolist() if not gone[i]), -1)

    def of_the_rest(scores: Tensor, gone: Tensor, eta: int) -> int:
        "The best third of those that are still there."
        there = [i for i in scores.argsort(descending=True).tolist() if not gone[i]]
        return there[0] if len(there) // eta else -1

    def at_least_one(scores: Tensor, gone: Tensor, eta: int) -> int:
        best = scores.argsort(descending=True)[: max(1, len(scores) // eta)].tolist()
        return next((i for i in best if not gone[i]), -1)

    def worst_of_them(scores: Tensor, gone: Tensor, eta: int) -> int:
        best = scores.argsort(descending=True)[: len(scores) // eta].tolist()
        return next((i for i in reversed(best) if not gone[i]), -1)

    mistakes = {
        "you count only those that are still there; all that came to the rung count": of_the_rest,
        "you send one on where fewer than eta have come; nobody goes on yet": at_least_one,
        "you send on who is not among the best one in eta": anyone,
        "that one has gone on already": lambda s, gone, eta: int(s.argmax()),
        "you send the worst of the best on first": worst_of_them,
        "you prefer the lowest scores": lambda s, gone, eta: promoted(-s, gone, eta),
    }

    def rung(n: int, ahead: int, eta: int) -> tuple[Tensor, Tensor, int]:
        "So many of the best have gone on."
        scores = draw(n, size=1.0)
        gone = torch.zeros(n, dtype=torch.bool)
        gone[scores.argsort(descending=True)[:ahead]] = True
        return scores, gone, eta

    cases = {
        "three have come, and the best has gone": rung(3, 1, 3),
        "one to send on": rung(draw.whole(12, 14), 1, 3),
        "all of the best are gone": rung(draw.whole(9, 11), 3, 3),
        "fewer than eta have come": rung(draw.whole(2, 3), 0, 4),
        "nobody has gone on yet": rung(draw.whole(12, 15), 0, 4),
        "many": rung(draw.whole(40, 60), draw.whole(8, 12), 2),
    }
    return check(learner, cases, promoted, mistakes, tolerance=1e-6)


# 4. the expected best of n


def expected_best(scores: Tensor, n: int) -> Tensor:
    "The mean of the best of n draws with replacement."
    values, size = scores.sort().values, len(scores)
    below = torch.arange(size + 1, dtype=scores.dtype) / size
    return ((below[1:] ** n - below[:-1] ** n) * values).sum()


@exercise
def check_expected_best(learner: Function) -> Verdict:
    draw = Draw()

    def backwards(scores: Tensor, n: int) -> Tensor:
        return -expected_best(-scores, n)

    def unsorted(scores: Tensor, n: int) -> Tensor:
        below = torch.arange(len(scores) + 1, dtype=scores.dtype) / len(scores)
        return ((below[1:] ** n - below[:-1] ** n) * scores).sum()

    def distribution(scores: Tensor, n: int) -> Tensor:
        below = torch.arange(1, len(scores) + 1, dtype=scores.dtype) / len(scores)
        return (below**n * scores.sort().values).sum()

    mistakes = {
        "that is the largest score; n draws do not always hold it": lambda s, n: s.max(),
        "that is the mean score, of one draw": lambda s, n: s.mean(),
        "that is the expected worst; sort upwards": backwards,
        "your scores are not sorted": unsorted,
        "you weigh by (i / N)^n itself; subtract ((i - 1) / N)^n": distribution,
        "your n is one too large": lambda s, n: expected_best(s, n + 1),
        "that is the mean of the n best": lambda s, n: s.sort(descending=True).values[:n].mean(),
    }

    def case(rows: int, n: int) -> tuple:
        return telling(lambda: (draw(rows, size=1.0), n), expected_best, mistakes.values())

    cases = {"two draws": case(6, 2), "five draws": case(8, 5), "four scores": case(4, 3)}
    return check(learner, cases | {"one draw": (draw(5, size=1.0), 1)}, expected_best, mistakes, tolerance=1e-5)


# 5. TPE's ratio


def _log_density(x: Tensor, seen: Tensor, width: float) -> Tensor:
    "Of the mean of bells around what was seen, but for a constant of the width: (candidates,)."
    return (-((x.unsqueeze(1) - seen) ** 2) / (2 * width**2)).logsumexp(1) - torch.tensor(float(len(seen))).log()


def ratio(x: Tensor, good: Tensor, rest: Tensor, width: float) -> Tensor:
    "log l(x) - log g(x): (candidates,)."
    return _log_density(x, good, width) - _log_density(x, rest, width)


@exercise
def check_ratio(learner: Function) -> Verdict:
    draw = Draw()

    def sums(x: Tensor, good: Tensor, rest: Tensor, width: float) -> Tensor:
        shares = torch.tensor([len(good), len(rest)]).float().log()
        return ratio(x, good, rest, width) + shares[0] - shares[1]

    def means_of_logs(x: Tensor, good: Tensor, rest: Tensor, width: float) -> Tensor:
        of = [(-((x.unsqueeze(1) - seen) ** 2) / (2 * width**2)).mean(1) for seen in (good, rest)]
        return of[0] - of[1]

    mistakes = {
        "that is log g - log l: a candidate is to be near the good ones": lambda x, good, rest, w: ratio(
            x, rest, good, w
        ),
        "that is l / g; take the logarithm": lambda x, good, rest, w: ratio(x, good, rest, w).exp(),
        "your bells are summed; a density is their mean": sums,
        "you take the mean of logarithms; take the logarithm of the mean": means_of_logs,
        "your width is not squared": lambda x, good, rest, w: ratio(x, good, rest, w**0.5),
        "the 2 below the square is missing": lambda x, good, rest, w: ratio(x, good, rest, w / 2**0.5),
        "that is log l alone": lambda x, good, rest, w: _log_density(x, good, w),
    }

    def case(candidates: int, good: int, rest: int) -> tuple:
        def drawn() -> tuple[Tensor, Tensor, Tensor, float]:
            return draw(candidates, size=0.7), draw(good, size=0.7), draw(rest, size=0.7), draw.number(0.5, 0.8)

        return telling(drawn, ratio, mistakes.values())

    cases = {"two good ones": case(5, 2, 7), "one good one": case(4, 1, 5), "three of each": case(3, 3, 4)}
    return check(learner, cases, ratio, mistakes, tolerance=1e-4)


# 6. Reptile's step


def reptile(theta: Tensor, centres: Tensor, lr: float, steps: int, epsilon: float) -> Tensor:
    "A task's loss is half the squared distance to its centre: (width,)."
    ends = _ends(theta, centres, lr, steps)
    return theta + epsilon * (ends - theta).mean(0)


def _ends(theta: Tensor, centres: Tensor, lr: float, steps: int) -> Tensor:
    return centres + (1 - lr) ** steps * (theta - centres)


@exercise
def check_reptile(learner: Function) -> Verdict:
    draw = Draw()

    def one_after_the_other(theta: Tensor, centres: Tensor, lr: float, steps: int, epsilon: float) -> Tensor:
        for centre in centres:
            theta = reptile(theta, centre.unsqueeze(0), lr, steps, epsilon)
        return theta

    def carried_on(theta: Tensor, centres: Tensor, lr: float, steps: int, epsilon: float) -> Tensor:
        ends, at = [], theta
        for centre in centres:
            at = _ends(at, centre.unsqueeze(0), lr, steps)[0]
            ends.append(at)
        return theta + epsilon * (torch.stack(ends) - theta).mean(0)

    mistakes = {
        "you go away from the tasks": lambda t, c, lr, k, e: 2 * t - reptile(t, c, lr, k, e),
        "you return the mean of the ends; go a part epsilon of the way": lambda t, c, lr, k, e: reptile(
            t, c, lr, k, 1.0
        ),
        "you take one step in each task": lambda t, c, lr, k, e: reptile(t, c, lr, 1, e),
        "you add up the tasks; take their mean": lambda t, c, lr, k, e: reptile(t, c, lr, k, e * len(c)),
        "you take one task after the other; each begins at the same theta": one_after_the_other,
        "your tasks begin where the last one ended; each begins at theta": carried_on,
        "you return the way alone, without theta": lambda t, c, lr, k, e: reptile(t, c, lr, k, e) - t,
        "that is epsilon times the mean of the ends": lambda t, c, lr, k, e: e * _ends(t, c, lr, k).mean(0),
    }

    def case(width: int, tasks: int, steps: int) -> tuple:
        def drawn() -> tuple[Tensor, Tensor, float, int, float]:
            return draw(width), draw(tasks, width), draw.number(0.1, 0.4), steps, draw.number(0.3, 0.7)

        return telling(drawn, reptile, mistakes.values())

    cases = {"three tasks": case(4, 3, 3), "two tasks": case(3, 2, 5), "many tasks": case(2, 9, 2)}
    return check(learner, cases, reptile, mistakes, tolerance=1e-4)


__all__ = [
    "check_survivors",
    "check_steps",
    "check_promoted",
    "check_expected_best",
    "check_ratio",
    "check_reptile",
]
