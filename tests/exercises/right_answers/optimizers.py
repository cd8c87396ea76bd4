"""Lesson 12."""

import statistics

import numpy as np
import torch

from finetune_lessons.exercises import optimizers as checks


def by_powers(gradients, mu):
    ages = torch.arange(len(gradients) - 1, -1, -1)
    return (mu**ages).to(gradients) @ gradients


def by_torch(gradients, beta1, beta2, eps):
    w = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=1.0, betas=(beta1, beta2), eps=eps)
    before = w
    for g in gradients:
        before, w.grad = w.detach().clone(), g.clone()
        optimizer.step()
    return before - w


def in_numpy(w, g, m, lr, beta1, beta2):
    w, g, m = w.numpy(), g.numpy(), m.numpy()
    return np.stack([w - lr * np.sign(m + (1 - beta1) * (g - m)), m + (1 - beta2) * (g - m)])


def by_list(a, b):
    differences = [x - y for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    return statistics.mean(differences) * len(differences) ** 0.5 / statistics.stdev(differences)


RIGHT = [
    (checks.check_momentum, by_powers),
    (checks.check_adam, by_torch),
    (checks.check_decay, lambda w, s, lr, d: w - lr * (s + d * w)),
    (checks.check_lion, in_numpy),
    (checks.check_factored, lambda v: torch.outer(v.sum(1), v.sum(0)) / v.sum()),
    (checks.check_linear_schedule, lambda t, n, w: min(t / w if w else 1, (n - t) / (n - w))),
    (checks.check_paired, by_list),
]
