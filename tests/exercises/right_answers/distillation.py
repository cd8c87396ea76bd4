"""Lesson 31."""

import numpy as np
import torch.nn.functional as F

from finetune_lessons.exercises import distillation as checks


def by_torch(student, teacher, T):
    return T * T * F.kl_div((student / T).log_softmax(1), (teacher / T).softmax(1), reduction="batchmean")


def in_numpy(student, teacher, T):
    def softmax(z):
        e = np.exp(z.numpy() / T)
        return e / e.sum()

    return T * (softmax(student) - softmax(teacher))


def row_by_row(hard, soft, labels, alpha):
    rows = zip(hard.tolist(), soft.tolist(), labels.tolist(), strict=True)
    return np.mean([s if y == -100 else alpha * h + (1 - alpha) * s for h, s, y in rows])


RIGHT = [
    (checks.check_soft_loss, by_torch),
    (checks.check_soft_gradient, in_numpy),
    (checks.check_mixed_loss, row_by_row),
    (checks.check_teacher_layers, lambda m, n: list(range(n // m - 1, n, n // m))),
    (checks.check_teacher_layers, lambda m, n: np.arange(1, m + 1) * (n // m) - 1),
    (checks.check_rater_shares, lambda r: (0.5 - r.sign().mean() / 2, 0.5 + r.sign().mean() / 2)),
    (checks.check_token_loss, lambda kl, mask: kl[mask.bool()].mean()),
]
