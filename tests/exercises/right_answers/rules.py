"""Lesson 36."""

import itertools
import math
from collections import Counter

import torch

from finetune_lessons.exercises import rules as checks


def score(values, exclamations):
    total = sum(values.tolist())
    total += (1 if total > 0 else -1) * 0.292 * (exclamations if exclamations < 4 else 4)
    return math.tanh(math.asinh(total / math.sqrt(15)))


def counted(votes, classes):
    answer = []
    for row in votes.tolist():
        most = Counter(vote for vote in row if vote != -1).most_common(2)
        clear = most and (len(most) == 1 or most[0][1] > most[1][1])
        answer.append(most[0][0] if clear else -1)
    return answer


def with_lists(votes, labels):
    pairs = [(v, y) for v, y in zip(votes.tolist(), labels.tolist(), strict=True) if v > -1]
    return [len(pairs) / len(votes), sum(v == y for v, y in pairs) / len(pairs)]


def by_log_odds(votes, right, share):
    evidence = ((votes == 1).float() - (votes == 0).float()) * right.logit()
    return (evidence.sum(1) + math.log(share / (1 - share))).sigmoid()


def by_softmax(p, r, weight, strength):
    return (p.log() + strength * weight * r).softmax(-1)


def by_enumeration(p):
    total = torch.zeros(len(p))
    for world in itertools.product((0, 1), repeat=p.shape[1]):
        if sum(world) == 1:
            yes = torch.tensor(world).bool()
            total += torch.where(yes, p, 1 - p).prod(1)
    return -total.log()


RIGHT = [
    (checks.check_compound, score),
    (checks.check_majority, counted),
    (checks.check_coverage_and_precision, with_lists),
    (checks.check_posterior, by_log_odds),
    (checks.check_teacher, by_softmax),
    (checks.check_exactly_one, by_enumeration),
]
