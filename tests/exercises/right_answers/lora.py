"""Lesson 22."""

import numpy as np
import torch

from finetune_lessons.exercises import lora as checks


def in_numpy(x, W, A, B, alpha):
    x, W, A, B = (t.numpy() for t in (x, W, A, B))
    return x @ W.T + alpha / len(A) * ((x @ A.T) @ B.T)


def counting_up(shapes, budget):
    r = 0
    while r < min(map(min, shapes)) and sum((r + 1) * (o + i) for o, i in shapes) <= budget:
        r += 1
    return torch.tensor(r)


def rows(W, A, B, m, s):
    V = torch.addmm(W, B, A, alpha=s)
    return list(m[:, None] * torch.nn.functional.normalize(V, dim=1))


def scaled(x, W, b, ell, feedforward):
    return (x * ell) @ W.T + b if feedforward else ell * (x @ W.T + b)


RIGHT = [
    (checks.check_lora_forward, in_numpy),
    (checks.check_lora_parameters, lambda shapes, r: np.float32(sum(r * o + i * r for o, i in shapes))),
    (checks.check_rank_for_budget, counting_up),
    (checks.check_lora_merge, lambda W, A, B, a: torch.addmm(W, B, A, alpha=a / B.shape[1])),
    (checks.check_lora_merge, lambda weight, A, B, a: (weight + (B @ A) * (a / len(A))).tolist()),
    (checks.check_dora, rows),
    (checks.check_ia3, scaled),
]
