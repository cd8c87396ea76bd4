"""Lesson 32."""

import math

import torch

from finetune_lessons import lab

exp, log = torch.exp, math.log


def project(g, other, divide=lambda x: x @ x, sign=-1):
    dot = g @ other
    return g + sign * dot / divide(other) * other if dot < 0 else g


WRONG = [
    (lab.check_uncertainty, lambda L, s: (L * exp(s) + 0.5 * s).sum(), "weighs with e"),
    (lab.check_uncertainty, lambda L, s: (L / exp(s)).sum(), "lacks s / 2"),
    (lab.check_uncertainty, lambda L, s: (L / exp(s) + s).sum(), "adds s"),
    (lab.check_uncertainty, lambda L, s: (L / exp(s) + 0.5 * s).sum().abs(), "made positive"),
    (lab.check_uncertainty, lambda L, s: 0.5 * (L / exp(s) + s).sum(), "form of a regression"),
    (lab.check_uncertainty, lambda L, s: (L / exp(s) + 0.5 * s).mean(), "mean over the tasks"),
    (lab.check_best_uncertainty, lambda L: log(L), "optimum of a regression"),
    (lab.check_best_uncertainty, lambda L: L + L, "its logarithm"),
    (lab.check_best_uncertainty, lambda L: log(1 / (2 * L)), "wrong sign"),
    (lab.check_best_uncertainty, lambda L: log(L) - log(2), "ln"),
    (lab.check_task_shares, lambda n, T: n**T / (n**T).sum(), "it is 1 / T"),
    (lab.check_task_shares, lambda n, T: torch.softmax(n / T, 0), "softmax of the sizes"),
    (lab.check_task_shares, lambda n, T: torch.pow(n, 1 / T), "do not sum to one"),
    (lab.check_task_shares, lambda n, T: n / n.sum(), "leave the temperature out"),
    (lab.check_task_shares, lambda n, T: torch.pow(n / n.sum(), 1 / T), "after the division"),
    (lab.check_dynamic_weights, lambda a, b, T: torch.softmax(a / (b * T), 0), "sum to one; they"),
    (lab.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(b / (a * T), 0), "upside down"),
    (lab.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(a / b, 0), "temperature out"),
    (lab.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(T * a / b, 0), "multiply by the temperature"),
    (lab.check_dynamic_weights, lambda a, b, T: len(b) * torch.softmax(a / T, 0), "not from how they changed"),
    (lab.check_projection, lambda g, o: g - (g @ o) / (o @ o) * o, "where the two agree"),
    (lab.check_projection, lambda g, o: g + 0, "not changed at all"),
    (lab.check_projection, lambda g, o: project(g, o, torch.norm), "square of the length"),
    (lab.check_projection, lambda g, o: project(g, o, sign=1), "has to be taken away"),
    (lab.check_projection, lambda g, o: g - (g @ o) / (g @ g) * g if g @ o < 0 else g, "that of the other on g"),
    (lab.check_projection, lambda g, o: torch.zeros_like(g) if g @ o < 0 else g, "set to zero"),
    (lab.check_gradnorm_targets, lambda w, n, p, a: n.mean() * (p / p.mean()) ** a, "leave the weights out"),
    (lab.check_gradnorm_targets, lambda w, n, p, a: (w * n).mean() * p**a, "not relative"),
    (lab.check_gradnorm_targets, lambda w, n, p, a: w * n * (p / p.mean()) ** a, "each task's own norm"),
    (lab.check_gradnorm_targets, lambda w, n, p, a: a * (w * n).mean() * p / p.mean(), "it is a power"),
    (lab.check_gradnorm_targets, lambda w, n, p, a: (w * n).mean() * p / p.mean(), "leave alpha out"),
    (lab.check_gradnorm_targets, lambda w, n, p, a: (w * n).mean() * (p.mean() / p) ** a, "upside down"),
]
