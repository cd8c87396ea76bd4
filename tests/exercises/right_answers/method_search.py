"""Lesson 52."""

import math

import torch

from finetune_lessons.exercises import method_search as checks


def one_by_one(scores, eta):
    left, found = dict(enumerate(scores.tolist())), []
    for _ in range(max(1, len(scores) // eta)):
        best = max(left, key=left.get)
        found.append(best)
        del left[best]
    return found


def run_by_run(n, eta, first, rungs):
    total = 0
    for i in range(n):  # the i-th best
        total += max(first * eta**k for k in range(rungs) if k == 0 or i < max(1, n // eta**k))
    return total


def by_rank(scores, gone, eta):
    found = -1
    for i, score in enumerate(scores.tolist()):
        rank = sum(other > score for other in scores.tolist())
        if rank < len(scores) // eta and not gone[i] and (found < 0 or score > scores[found]):
            found = i
    return found


def over_all_pairs(scores, n):
    "The distribution of the best of n is built draw by draw."
    values = sorted(scores.tolist())
    chance = [1 / len(values)] * len(values)
    for _ in range(n - 1):
        new = [0.0] * len(values)
        for i, p in enumerate(chance):
            for j in range(len(values)):
                new[max(i, j)] += p / len(values)
        chance = new
    return sum(p * value for p, value in zip(chance, values, strict=True))


def with_normals(x, good, rest, width):
    def density(value, seen):
        return sum(math.exp(-((value - s) ** 2) / 2 / width**2) for s in seen.tolist()) / len(seen)

    return [math.log(density(value, good) / density(value, rest)) for value in x.tolist()]


def step_by_step(theta, centres, lr, steps, epsilon):
    way = torch.zeros_like(theta)
    for centre in centres:
        at = theta.clone()
        for _ in range(steps):
            at = at - lr * (at - centre)
        way = way + (at - theta) / len(centres)
    return theta + epsilon * way


RIGHT = [
    (checks.check_survivors, one_by_one),
    (checks.check_steps, run_by_run),
    (checks.check_promoted, by_rank),
    (checks.check_expected_best, over_all_pairs),
    (checks.check_ratio, with_normals),
    (checks.check_reptile, step_by_step),
]
