"""Lesson 52."""

import torch
from torch import logsumexp

from finetune_lessons.exercises import method_search as checks


def best(scores, n):
    return sorted(range(len(scores)), key=lambda i: -scores[i])[: max(n, 1)]


def kept(scores, eta):
    return best(scores, len(scores) // eta)


def rungs_of(n, eta, first, rungs):
    return [(max(1, n // eta**k), first * eta**k) for k in range(rungs)]


def with_fractions(n, eta, first, rungs):
    total, before = 0.0, 0
    for k in range(rungs):
        total += n * eta**-k * (first * eta**k - before)
        before = first * eta**k
    return total


def going_on(n, eta, first, rungs):
    total, before = 0, 0
    for alive, at in rungs_of(n, eta, first, rungs):
        total, before = total + alive * (at - before), at
    return total


def next_of(order, gone):
    return next((i for i in order if not gone[i]), -1)


def of_those_left(scores, gone, eta):
    left = [i for i in best(scores, len(scores)) if not gone[i]]
    return left[0] if len(left) >= eta else -1


def weighted(values, n):
    N = len(values)
    return sum(v * ((i + 1) ** n - i**n) for i, v in enumerate(values.tolist())) / N**n


def log_mean(x, seen, width):
    return logsumexp(-((x[:, None] - seen) ** 2) / 2 / width**2, 1) - torch.log(torch.tensor(1.0 * len(seen)))


def l_over_g(x, good, rest, width):
    return log_mean(x, good, width) - log_mean(x, rest, width)


def mean_log(x, seen, width):
    return -((x[:, None] - seen) ** 2).mean(1) / 2 / width**2


def descended(theta, centre, lr, steps):
    for _ in range(steps):
        theta = theta - lr * (theta - centre)
    return theta


def moved(theta, centres, lr, steps, epsilon):
    return theta + epsilon * sum(descended(theta, c, lr, steps) - theta for c in centres) / len(centres)


def in_turn(theta, centres, lr, steps, epsilon):
    for c in centres:
        theta = theta + epsilon * (descended(theta, c, lr, steps) - theta)
    return theta


def carried(theta, centres, lr, steps, epsilon):
    at, way = theta, 0
    for c in centres:
        at = descended(at, c, lr, steps)
        way = way + (at - theta) / len(centres)
    return theta + epsilon * way


WRONG = [
    (checks.check_survivors, lambda s, eta: kept(-s, eta), "the worst ones"),
    (checks.check_survivors, lambda s, eta: s[kept(s, eta)], "you return scores"),
    (checks.check_survivors, lambda s, eta: sorted(kept(s, eta)), "sorted by number"),
    (checks.check_survivors, lambda s, eta: kept(s, eta)[::-1], "comes last"),
    (checks.check_survivors, lambda s, eta: list(range(max(1, len(s) // eta))), "places in the ranking"),
    (checks.check_steps, lambda *a: sum(alive * at for alive, at in rungs_of(*a)), "begin anew"),
    (checks.check_steps, lambda n, eta, first, rungs: n * first * eta ** (rungs - 1), "the full search"),
    (checks.check_steps, lambda n, eta, first, rungs: going_on(n, eta, first, rungs + 1), "one rung too many"),
    (checks.check_steps, lambda n, eta, first, rungs: n * first, "the first rung alone"),
    (checks.check_steps, with_fractions, "rounded down"),
    (checks.check_steps, lambda n, eta, first, rungs: first * eta ** (rungs - 1), "the steps of one run"),
    (checks.check_promoted, lambda s, gone, eta: next_of(best(s, len(s)), gone), "not among the best"),
    (checks.check_promoted, of_those_left, "all that came to the rung count"),
    (checks.check_promoted, lambda s, gone, eta: next_of(kept(s, eta), gone), "fewer than eta have come"),
    (checks.check_promoted, lambda s, gone, eta: best(s, 1)[0], "has gone on already"),
    (checks.check_promoted, lambda s, gone, eta: next_of(best(s, len(s))[: len(s) // eta][::-1], gone), "the worst of"),
    (checks.check_promoted, lambda s, gone, eta: next_of(best(-s, len(s))[: len(s) // eta], gone), "lowest scores"),
    (checks.check_expected_best, lambda s, n: max(s), "the largest score"),
    (checks.check_expected_best, lambda s, n: sum(s) / len(s), "the mean score"),
    (checks.check_expected_best, lambda s, n: -weighted((-s).sort().values, n), "the expected worst"),
    (checks.check_expected_best, weighted, "not sorted"),
    (
        checks.check_expected_best,
        lambda s, n: sum(v * ((i + 1) / len(s)) ** n for i, v in enumerate(s.sort().values)),
        "subtract",
    ),
    (checks.check_expected_best, lambda s, n: weighted(s.sort().values, n + 1), "one too large"),
    (checks.check_expected_best, lambda s, n: s.topk(n).values.mean(), "mean of the n best"),
    (checks.check_ratio, lambda x, good, rest, w: -l_over_g(x, good, rest, w), "log g - log l"),
    (checks.check_ratio, lambda x, good, rest, w: torch.exp(l_over_g(x, good, rest, w)), "take the logarithm"),
    (
        checks.check_ratio,
        lambda x, good, rest, w: l_over_g(x, good, rest, w) + torch.tensor(len(good) / len(rest)).log(),
        "a density is their mean",
    ),
    (checks.check_ratio, lambda x, good, rest, w: mean_log(x, good, w) - mean_log(x, rest, w), "mean of logarithms"),
    (checks.check_ratio, lambda x, good, rest, w: l_over_g(x, good, rest, w**0.5), "not squared"),
    (checks.check_ratio, lambda x, good, rest, w: l_over_g(x, good, rest, w * 0.5**0.5), "the 2 below"),
    (checks.check_ratio, lambda x, good, rest, w: log_mean(x, good, w), "log l alone"),
    (checks.check_reptile, lambda t, c, lr, k, e: t - (moved(t, c, lr, k, e) - t), "away from the tasks"),
    (checks.check_reptile, lambda t, c, lr, k, e: moved(t, c, lr, k, 1), "a part epsilon of the way"),
    (checks.check_reptile, lambda t, c, lr, k, e: moved(t, c, lr, 1, e), "one step in each task"),
    (checks.check_reptile, lambda t, c, lr, k, e: moved(t, c, lr, k, e * len(c)), "take their mean"),
    (checks.check_reptile, in_turn, "begins at the same theta"),
    (checks.check_reptile, carried, "where the last one ended"),
    (checks.check_reptile, lambda t, c, lr, k, e: moved(t, c, lr, k, e) - t, "without theta"),
    (checks.check_reptile, lambda t, c, lr, k, e: e * (moved(t, c, lr, k, 1)), "epsilon times the mean"),
]
