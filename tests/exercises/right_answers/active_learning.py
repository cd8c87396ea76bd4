"""Lesson 43."""

import numpy as np
import torch

from finetune_lessons.exercises import active_learning as checks


def sorted_rows(p):
    rows = [sorted(row, reverse=True) for row in p.tolist()]
    return [row[1] - row[0] for row in rows]


def information(p):
    "The mean of KL(pass || mean), which is the same."
    mean = p.mean(0, keepdim=True)
    return torch.where(p > 0, p * (p / mean).clamp(min=1e-30).log(), 0.0).sum(-1).mean(0)


def all_distances_anew(x, labelled, n):
    known = labelled.tolist()
    for _ in range(n):
        nearest = [min((a - x[k]).norm().item() for k in known) for a in x]
        known.append(max(range(len(x)), key=nearest.__getitem__))
    return known[len(labelled) :]


def class_by_class(p, h):
    factors = p.clone()
    factors[torch.arange(len(p)), p.argmax(1)] -= 1
    return torch.cat([factors[:, c : c + 1] * h for c in range(p.shape[1])], dim=1)


def step_by_step(labels, scores):
    n, s = labels.tolist(), scores.tolist()
    parts = [(n[i + 1] - n[i]) * (s[i] + s[i + 1]) / 2 for i in range(len(n) - 1)]
    return sum(parts) / (n[-1] - n[0])


def line_by_line(labels, accuracy, share):
    goal = share * accuracy[-1].item()
    n, a = labels.numpy().astype(float), accuracy.numpy().astype(float)
    at = int(np.argmax(a >= goal))
    return n[0] if at == 0 else np.interp(goal, a[at - 1 : at + 1], n[at - 1 : at + 1])


RIGHT = [
    (checks.check_margins, sorted_rows),
    (checks.check_bald, information),
    (checks.check_k_centre, all_distances_anew),
    (checks.check_badge, class_by_class),
    (checks.check_area, step_by_step),
    (checks.check_labels_needed, line_by_line),
]
