"""Lesson 42."""

import torch

from finetune_lessons.exercises import imbalance as checks


def counted(labels, classes):
    counts = [sum(y == c for y in labels.tolist()) for c in range(classes)]
    return [sum(counts) / classes / count for count in counts]


def surprises(logits, labels):
    return [z.logsumexp(0) - z[y] for z, y in zip(logits, labels.tolist(), strict=True)]


def text_by_text(logits, labels, weights):
    total = weight = 0.0
    for loss, y in zip(surprises(logits, labels), labels.tolist(), strict=True):
        total, weight = total + weights[y] * loss, weight + weights[y]
    return total / weight


def focal(logits, labels, gamma):
    total = 0.0
    for z, y in zip(logits, labels.tolist(), strict=True):
        others = sum(p for c, p in enumerate(z.softmax(0).tolist()) if c != y)
        total += others**gamma * (z.logsumexp(0) - z[y]).item()
    return total / len(labels)


def with_a_prior_in_the_softmax(logits, labels, prior, tau):
    weighted = prior**tau * logits.exp()
    return -(weighted / weighted.sum(1, keepdim=True))[torch.arange(len(labels)), labels].log().mean()


def going_down(probability, labels, cost_fp, cost_fn):
    "From the largest on, each threshold lets one more text in."
    rows = sorted(zip(probability.tolist(), labels.tolist(), strict=True), reverse=True)
    cost = least = cost_fn * sum(y for _, y in rows)
    best = None
    for p, y in rows:
        cost += -cost_fn if y else cost_fp
        if best is None or cost < least:
            best, least = p, cost
    return best


def both_sides(p, trained, real):
    positive, negative = p / trained * real, (1 - p) / (1 - trained) * (1 - real)
    return positive / (positive + negative)


RIGHT = [
    (checks.check_class_weights, counted),
    (checks.check_weighted_loss, text_by_text),
    (checks.check_focal_loss, focal),
    (checks.check_adjusted_loss, with_a_prior_in_the_softmax),
    (checks.check_threshold, going_down),
    (checks.check_undone, both_sides),
]
