"""Lesson 35."""

import torch

from finetune_lessons.exercises import semi_supervised as checks


def by_hand(strong, weak, threshold):
    total = 0.0
    for q, z in zip(strong, weak, strict=True):
        p = z.softmax(0)
        if p.max() >= threshold:
            total -= q.log_softmax(0)[p.argmax()].item()
    return total / len(strong)


def counted(weak, labels, threshold):
    used = right = 0
    for z, y in zip(weak, labels.tolist(), strict=True):
        if z.softmax(0).max().item() >= threshold:
            used, right = used + 1, right + (z.argmax().item() == y)
    return torch.tensor([used / len(weak), right / used])


def closed_form(weights, decay):
    n = len(weights)
    parts = torch.tensor([decay ** (n - 1)] + [(1 - decay) * decay ** (n - 1 - k) for k in range(1, n)])
    return (parts.unsqueeze(1) * weights).sum(0)


def row_by_row(targets, order, share):
    own = share if share >= 0.5 else 1 - share
    return torch.stack([own * targets[i] + (1 - own) * targets[j] for i, j in enumerate(order.tolist())])


def with_a_loop(p, progress, classes):
    limit = 1 / classes + progress - progress / classes
    return sum(-torch.tensor(x).log().item() for x in p.tolist() if x <= limit) / len(p)


RIGHT = [
    (checks.check_sharper, lambda p, T: (p.log() / T).softmax(-1)),
    (checks.check_fixmatch, by_hand),
    (checks.check_share_and_accuracy, counted),
    (checks.check_averaged, closed_form),
    (checks.check_mixed_targets, row_by_row),
    (checks.check_waiting_loss, with_a_loop),
]
