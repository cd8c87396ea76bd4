"""Lesson 32."""

import math

import torch

from finetune_lessons.exercises import multitask as checks

exp, log = torch.exp, math.log


def project(g, other, divide=lambda x: x @ x, sign=-1):
    dot = g @ other
    return g + sign * dot / divide(other) * other if dot < 0 else g


WRONG = [
    (checks.check_uncertainty, lambda L, s: (L * exp(s) + 0.5 * s).sum(), "weighs with e"),
    (checks.check_uncertainty, lambda L, s: (L / exp(s)).sum(), "lacks s / 2"),
    (checks.check_uncertainty, lambda L, s: (L / exp(s) + s).sum(), "adds s"),
    (checks.check_uncertainty, lambda L, s: (L / exp(s) + 0.5 * s).sum().abs(), "made positive"),
    (checks.check_uncertainty, lambda L, s: 0.5 * (L / exp(s) + s).sum(), "form of a regression"),
    (checks.check_uncertainty, lambda L, s: (L / exp(s) + 0.5 * s).mean(), "mean over the tasks"),
    (checks.check_best_uncertainty, lambda L: log(L), "optimum of a regression"),
    (checks.check_best_uncertainty, lambda L: L + L, "its logarithm"),
    (checks.check_best_uncertainty, lambda L: log(1 / (2 * L)), "wrong sign"),
    (checks.check_best_uncertainty, lambda L: log(L) - log(2), "ln"),
    (checks.check_task_shares, lambda n, T: n**T / (n**T).sum(), "it is 1 / T"),
    (checks.check_task_shares, lambda n, T: torch.softmax(n / T, 0), "softmax of the sizes"),
    (checks.check_task_shares, lambda n, T: torch.pow(n, 1 / T), "do not sum to one"),
    (checks.check_task_shares, lambda n, T: n / n.sum(), "leave the temperature out"),
    (checks.check_task_shares, lambda n, T: torch.pow(n / n.sum(), 1 / T), "after the division"),
    (checks.check_dynamic_weights, lambda a, b, T: torch.softmax(a / (b * T), 0), "sum to one; they"),
    (checks.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(b / (a * T), 0), "upside down"),
    (checks.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(a / b, 0), "temperature out"),
    (checks.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(T * a / b, 0), "multiply by the temperature"),
    (checks.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(a / T, 0), "not from how they changed"),
    (checks.check_projection, lambda g, o: g - (g @ o) / (o @ o) * o, "where the two agree"),
    (checks.check_projection, lambda g, o: g + 0, "not changed at all"),
    (checks.check_projection, lambda g, o: project(g, o, torch.norm), "square of the length"),
    (checks.check_projection, lambda g, o: project(g, o, sign=1), "has to be taken away"),
    (checks.check_projection, lambda g, o: g - (g @ o) / (g @ g) * g if g @ o < 0 else g, "that of the other on g"),
    (checks.check_projection, lambda g, o: torch.zeros_like(g) if g @ o < 0 else g, "set to zero"),
    (checks.check_gradnorm_targets, lambda w, n, p, a: n.mean() * (p / p.mean()) ** a, "leave the weights out"),
    (checks.check_gradnorm_targets, lambda w, n, p, a: (w * n).mean() * p**a, "not relative"),
    (checks.check_gradnorm_targets, lambda w, n, p, a: w * n * (p / p.mean()) ** a, "each task's own norm"),
    (checks.check_gradnorm_targets, lambda w, n, p, a: a * (w * n).mean() * p / p.mean(), "it is a power"),
    (checks.check_gradnorm_targets, lambda w, n, p, a: (w * n).mean() * p / p.mean(), "leave alpha out"),
    (checks.check_gradnorm_targets, lambda w, n, p, a: (w * n).mean() * (p.mean() / p) ** a, "upside down"),
]
