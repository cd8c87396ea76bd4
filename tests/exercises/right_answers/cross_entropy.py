"""Lesson 11."""

import numpy as np
import torch

from finetune_lessons.exercises import cross_entropy as checks


def one_by_one(logits, targets):
    losses = []
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        if y != -100:
            top = max(z)
            losses.append(top + np.log(sum(np.exp(x - top) for x in z)) - z[y])
    return np.mean(losses)


def in_numpy(logits, targets):
    z, y = logits.numpy(), targets.numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p / len(y)


def nested(targets, classes, epsilon):
    return [[(1 - epsilon) * (k == y) + epsilon / classes for k in range(classes)] for y in targets.tolist()]


def by_grid(logits, labels):
    rows, best = torch.arange(len(labels)), []
    for T in np.geomspace(0.1, 10, 800):
        z = logits / T
        best.append((float((z.logsumexp(1) - z[rows, labels]).mean()), T))
    return min(best)[1]


def token_by_token(logits, ids, mask):
    surprise = []
    for z, y, real in zip(logits, ids, mask, strict=True):
        surprise += [float(z[t].logsumexp(0) - z[t, y[t + 1]]) for t in range(len(y) - 1) if real[t + 1]]
    return np.float32(np.exp(np.mean(surprise)))


def focal(logits, targets, gamma):
    log_p = torch.log_softmax(logits, 1)[range(len(targets)), targets]
    return torch.mean(-torch.pow(-torch.expm1(log_p), gamma) * log_p)


RIGHT = [
    (checks.check_cross_entropy, one_by_one),
    (checks.check_gradient, in_numpy),
    (checks.check_smooth_targets, nested),
    (checks.check_temperature, by_grid),
    (checks.check_temperature, lambda z, y: [by_grid(z, y)]),
    (checks.check_perplexity, token_by_token),
    (checks.check_focal_loss, focal),
]
