"""Lesson 32."""

import numpy as np
import torch

from finetune_lessons.exercises import multitask as checks


def project(g, other):
    dot = torch.dot(g, other)
    return g - dot / other.norm() ** 2 * other if dot < 0 else g


def targets(weights, norms, progress, alpha):
    mean = float((weights * norms).sum()) / len(weights)
    return [mean * (p / float(progress.mean())) ** alpha for p in progress.tolist()]


RIGHT = [
    (checks.check_uncertainty, lambda L, s: sum(np.exp(-b) * a + b / 2 for a, b in zip(L.tolist(), s.tolist()))),  # noqa: B905
    (checks.check_best_uncertainty, lambda L: np.float32(np.log(L) + np.log(2))),
    (checks.check_best_uncertainty, lambda L: np.array(np.log(2 * L))),
    (checks.check_task_shares, lambda n, T: torch.softmax(n.log() / T, 0)),
    (checks.check_dynamic_weights, lambda a, b, T: [len(a) * x for x in torch.softmax(a / b / T, 0)]),
    (checks.check_projection, project),
    (checks.check_gradnorm_targets, targets),
]
