"""Lesson 36."""

import math

import torch

from finetune_lessons.exercises import rules as checks


def squashed(total):
    return total / math.sqrt(total * total + 15)


def total(values, exclamations, most=4):
    s = float(values.sum())
    return s + (0.292 if s > 0 else -0.292) * min(exclamations, most)


def counts(votes, classes):
    return torch.nn.functional.one_hot(votes + 1, classes + 1)[..., 1:].sum(1)


def first_wins(votes, classes):
    c = counts(votes, classes)
    return torch.where(c.sum(1) > 0, c.argmax(1), -1)


def silence_wins(votes, classes):
    c = torch.nn.functional.one_hot(votes + 1, classes + 1).sum(1)
    best = c.max(1)
    alone = (c == best.values.unsqueeze(1)).sum(1) == 1
    return torch.where(alone, best.indices - 1, -1)


def zero_for_none(votes, classes):
    c = counts(votes, classes)
    tie = (c == c.amax(1, keepdim=True)).sum(1) > 1
    return torch.where(c.sum(1) == 0, 0, torch.where(tie, -1, c.argmax(1)))


def absolute(votes, classes):
    c = counts(votes, classes)
    return torch.where(c.amax(1) > votes.shape[1] / 2, c.argmax(1), -1)


def shares(votes, labels):
    voted = votes != -1
    return float(voted.double().mean()), float((votes == labels)[voted].double().mean())


def bayes(votes, right, share, abstain=1.0):
    def mass(y, prior):
        p = torch.where(votes == y, right, 1 - right)
        return torch.where(votes == -1, abstain, p).prod(1) * prior

    return mass(1, share), mass(0, 1 - share)


def normal(one, zero):
    return one / (one + zero)


def mean_of_votes(votes, right, share):
    p = torch.where(votes == 1, right, 1 - right)
    return torch.stack([row[v >= 0].mean() for row, v in zip(p, votes, strict=True)])


def silence_is_no(votes, right, share):
    return normal(*bayes(torch.where(votes == -1, 0, votes), right, share))


def normalised(mass, dim=1):
    return mass / mass.sum(dim, keepdim=True)


def world(p, i):
    q = 1 - p
    q[:, i] = p[:, i]
    return q.prod(1)


def worlds(p):
    return torch.stack([world(p, i) for i in range(p.shape[1])])


WRONG = [
    (checks.check_compound, lambda v, n: squashed(float(v.sum()) + 0.292 * min(n, 4)), "to blame too"),
    (checks.check_compound, lambda v, n: squashed(total(v, n, 99)), "beyond the fourth"),
    (checks.check_compound, lambda v, n: squashed(float(v.sum())), "leave the marks out"),
    (checks.check_compound, lambda v, n: total(v, n), "between -1 and 1"),
    (checks.check_compound, lambda v, n: total(v, n) / (float(v.square().sum()) + 15) ** 0.5, "square of the sum"),
    (checks.check_compound, lambda v, n: squashed(total(v.mean(), n)), "you average"),
    (checks.check_majority, first_wins, "break a tie"),
    (checks.check_majority, silence_wins, "-1 is no class"),
    (checks.check_majority, zero_for_none, "without a vote"),
    (checks.check_majority, absolute, "more than half"),
    (checks.check_majority, lambda votes, classes: torch.round(votes.double().mean(1)), "mean of the votes"),
    (checks.check_coverage_and_precision, lambda v, y: [shares(v, y)[0], float((v == y).double().mean())], "as wrong"),
    (
        checks.check_coverage_and_precision,
        lambda v, y: [shares(v, y)[0], 1 - float(((v != y) & (v >= 0)).double().mean())],
        "as right",
    ),
    (checks.check_coverage_and_precision, lambda v, y: shares(v, y)[::-1], "in this order"),
    (checks.check_coverage_and_precision, lambda v, y: [1 - shares(v, y)[0], shares(v, y)[1]], "it abstains"),
    (
        checks.check_coverage_and_precision,
        lambda v, y: [float((v == 1).double().mean()), shares(v, y)[1]],
        "class 1 only",
    ),
    (checks.check_coverage_and_precision, lambda v, y: [shares(v, y)[0], 1 - shares(v, y)[1]], "that are wrong"),
    (checks.check_posterior, lambda v, a, share: normal(*bayes(v, a, 0.5)), "how frequent"),
    (checks.check_posterior, silence_is_no, "votes 0"),
    (checks.check_posterior, lambda v, a, share: bayes(v, a, share)[0], "over both classes"),
    (checks.check_posterior, lambda v, a, share: bayes(v, a, share)[0] / bayes(v, a, share)[1], "those are odds"),
    (checks.check_posterior, mean_of_votes, "you average"),
    (checks.check_posterior, lambda v, a, share: 1 - normal(*bayes(v, a, share)), "of class 0"),
    (
        checks.check_posterior,
        lambda v, a, share: normal(*bayes(v, a.mean().expand_as(a), share)),
        "right more often counts more",
    ),
    (checks.check_teacher, lambda p, r, w, c: normalised(p * (c * w * (1 - r)).exp()), "other way round"),
    (checks.check_teacher, lambda p, r, w, c: p * torch.exp(-c * w * (1 - r)), "sum to one"),
    (checks.check_teacher, lambda p, r, w, c: normalised(p * (c * w * (r - 1)).exp(), 0), "over the texts"),
    (checks.check_teacher, lambda p, r, w, c: (c * w * r).softmax(1), "p is missing"),
    (checks.check_teacher, lambda p, r, w, c: normalised(p * (c * (r - 1)).exp()), "lambda"),
    (checks.check_teacher, lambda p, r, w, c: normalised(p * (w * (r - 1)).exp()), "strength C"),
    (checks.check_teacher, lambda p, r, w, c: normalised(p * r), "exponential is missing"),
    (checks.check_teacher, lambda p, r, w, c: (p + c * w * r).softmax(1), "logarithm belongs there"),
    (checks.check_exactly_one, lambda p: worlds(p).sum(0), "negative logarithm"),
    (checks.check_exactly_one, lambda p: worlds(p).sum(0).log(), "sign is missing"),
    (checks.check_exactly_one, lambda p: -(1 - (1 - p).prod(1)).log(), "at least one"),
    (checks.check_exactly_one, lambda p: -(worlds(p).sum(0) + (1 - p).prod(1)).log(), "at most one"),
    (checks.check_exactly_one, lambda p: -torch.log(p.sum(1)), "the others must not hold"),
    (checks.check_exactly_one, lambda p: -worlds(p).prod(0).log(), "their probabilities add"),
    (checks.check_exactly_one, lambda p: -p.log().sum(1), "all of them"),
    (checks.check_exactly_one, lambda p: -((1 - p).prod(1) * p.sum(1)).log(), "of the class itself"),
    (checks.check_exactly_one, lambda p: (-worlds(p).sum(0).log()).mean().repeat(len(p)), "mean over the texts"),
]
