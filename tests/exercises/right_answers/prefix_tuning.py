"""Lesson 23."""

import numpy as np
import torch
import torch.nn.functional as F

from finetune_lessons.exercises import prefix_tuning as checks


def attention(q, k, v, p_k, p_v):
    return F.scaled_dot_product_attention(q, torch.vstack([p_k, k]), torch.vstack([p_v, v]))


def share(q, k, p_k):
    z, z_p = (torch.logsumexp(q @ x.T / q.shape[1] ** 0.5, 1) for x in (k, p_k))
    return 1 / (1 + torch.exp(z - z_p))


def part(table, layers, heads, layer):
    pieces = table.reshape(len(table), layers, 2, heads, -1)[:, layer]
    return [[pieces[:, i, h] for h in range(heads)] for i in (0, 1)]


def combined(a, s, b, t):
    weights = torch.stack([s, t]).softmax(0)
    return torch.einsum("pt,ptw->tw", weights, torch.stack([a, b])).numpy()


RIGHT = [
    (checks.check_prefix_attention, attention),
    (checks.check_prefix_mask, lambda mask, n: F.pad(mask, (n, 0), value=True).numpy()),
    (checks.check_prefix_mask, lambda mask, n: [[True] * n + row for row in mask.tolist()]),
    (checks.check_prefix_parameters, lambda L, h, k, d, n: np.int64(n * sum([2 * k * (d // h)] * L))),
    (checks.check_prefix_share, share),
    (checks.check_flat_table, part),
    (checks.check_combination, combined),
]
