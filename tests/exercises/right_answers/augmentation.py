"""Lesson 41."""

import torch

from finetune_lessons.exercises import augmentation as checks


def by_index(words, draws, share):
    kept = [i for i in range(len(words)) if draws[i].item() > share]
    return [words[i] for i in kept or [max(range(len(words)), key=lambda i: draws[i].item())]]


def with_a_copy(words, pairs, share):
    places = list(range(len(words)))
    for k in range(max(int(len(words) * share), 1)):
        i, j = pairs[k]
        kept = places[i]
        places[i] = places[j]
        places[j] = kept
    return [words[place] for place in places]


def row_by_row(x, y, order, share):
    def mixed(rows):
        return torch.stack([torch.lerp(rows[j], rows[i], share) for i, j in enumerate(order.tolist())])

    return [mixed(x), mixed(y)]


def against_mixed_targets(logits, labels, order, share):
    targets = torch.zeros_like(logits)
    for i, j in enumerate(order.tolist()):
        targets[i, labels[i]] += share
        targets[i, labels[j]] += 1 - share
    return -(targets * logits.log_softmax(-1)).sum() / len(logits)


def by_set(train, test):
    known = set(train.tolist())
    return sum(source in known for source in test.tolist()) / len(test)


def text_by_text(confidence, right, bins):
    edges = [k / bins for k in range(bins + 1)]
    error = 0.0
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [(c, r) for c, r in zip(confidence.tolist(), right.tolist(), strict=True) if low < c <= high]
        error += abs(sum(c - r for c, r in inside)) / len(confidence)
    return error


RIGHT = [
    (checks.check_deletion, by_index),
    (checks.check_swaps, with_a_copy),
    (checks.check_mixed, row_by_row),
    (checks.check_mixup_loss, against_mixed_targets),
    (checks.check_leaks, by_set),
    (checks.check_calibration_error, text_by_text),
]
