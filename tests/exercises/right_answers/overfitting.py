"""Lesson 13."""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div

from finetune_lessons.exercises import overfitting as checks


def by_where(x, kept, p):
    return torch.where(kept, x / (1 - p), torch.zeros(()))


def from_the_end(losses, patience, min_delta):
    "The marks that were good enough, and the first place that lies too far behind its last one."
    marks = [0]
    for i, loss in enumerate(losses):
        if losses[marks[-1]] - loss > min_delta:
            marks.append(i)
        if i - marks[-1] == patience:
            return i + 1
    return len(losses)


def by_autograd(w, u, strength):
    w = w.clone().requires_grad_()
    (strength / 2 * torch.linalg.vector_norm(w - u) ** 2 if (w != u).any() else 0 * w.sum()).backward()
    return w.grad


def as_a_deviation(w, u, M, p):
    return u + (1 - M) * (w - u) / (1 - p)


def by_torch(a, b, labels, alpha):
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    apart = kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    apart = apart + kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    return cross_entropy(torch.cat([a, b]), torch.cat([labels, labels])) + alpha * apart / 2


def by_steps(t, beta1, beta2):
    if t > 10_000:
        return np.float64(1.0)
    m = v = 0.0
    for _ in range(t):
        m, v = beta1 * m + 1 - beta1, beta2 * v + 1 - beta2
    return m / math.sqrt(v)


RIGHT = [
    (checks.check_dropout, by_where),
    (checks.check_patience, from_the_end),
    (checks.check_pull, by_autograd),
    (checks.check_mixout, as_a_deviation),
    (checks.check_r_drop, by_torch),
    (checks.check_first_steps, by_steps),
]
