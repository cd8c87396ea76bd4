"""Lesson 22."""

import torch
import torch.nn.functional as F

from finetune_lessons.exercises import lora as checks


def columns(W, A, B, m, s):
    V = W + s * B @ A
    return m.reshape(-1, 1) * V / (V**2).sum(0, keepdim=True).sqrt()


def ceil_rank(shapes, budget):
    r = 0
    while r * sum(map(sum, shapes)) < budget:
        r += 1
    return r


def grow(shapes, budget):
    r = 0
    while (r + 1) * sum(map(sum, shapes)) <= budget:
        r += 1
    return r


def outward(x, W, b, ell, feedforward):
    return F.linear(x, W, b) * (ell if len(ell) == len(b) else 1)


WRONG = [
    (checks.check_lora_forward, lambda x, W, A, B, a: F.linear(x, W) + F.linear(F.linear(x, A), B), "not scaled"),
    (checks.check_lora_forward, lambda x, W, A, B, a: F.linear(x, W) + a * F.linear(F.linear(x, A), B), "divide by r"),
    (
        checks.check_lora_forward,
        lambda x, W, A, B, a: F.linear(x, W) + a / B.shape[1] ** 0.5 * F.linear(F.linear(x, A), B),
        "rsLoRA",
    ),
    (checks.check_lora_forward, lambda x, W, A, B, a: a / B.shape[1] * F.linear(F.linear(x, A), B), "leaves out W x"),
    (
        checks.check_lora_forward,
        lambda x, W, A, B, a: a / B.shape[1] * (F.linear(x, W) + F.linear(F.linear(x, A), B)),
        "goes to W x too",
    ),
    (checks.check_lora_forward, lambda x, W, A, B, a: F.linear(x, W), "leaves out the change"),
    (
        checks.check_lora_parameters,
        lambda shapes, r: sum(torch.empty(o, i).numel() for o, i in shapes),
        "that of the frozen",
    ),
    (checks.check_lora_parameters, lambda shapes, r: sum(torch.empty(r, i).numel() for o, i in shapes), "leaves B out"),
    (checks.check_lora_parameters, lambda shapes, r: sum(map(sum, shapes)), "leaves the rank out"),
    (checks.check_rank_for_budget, ceil_rank, "round down"),
    (checks.check_rank_for_budget, grow, "smallest side"),
    (
        checks.check_rank_for_budget,
        lambda shapes, budget: max(1, min(grow(shapes, budget), 16 if shapes[0] == (64, 16) else 384)),
        "at least 1",
    ),
    (checks.check_lora_merge, lambda W, A, B, a: torch.addmm(W, B, A), "without its scale"),
    (checks.check_lora_merge, lambda W, A, B, a: torch.addmm(W, B, A, alpha=-a / B.shape[1]), "undoes a merge"),
    (checks.check_lora_merge, lambda W, A, B, a: (B * a / B.shape[1]).mm(A), "the change alone"),
    (checks.check_dora, columns, "of the columns"),
    (checks.check_dora, lambda W, A, B, m, s: torch.diag(m) @ F.normalize(W + B @ A, dim=1), "not scaled by s"),
    (checks.check_dora, lambda W, A, B, m, s: F.normalize(W + s * B @ A, dim=1), "m is missing"),
    (checks.check_dora, lambda W, A, B, m, s: torch.diag(m) @ (W + s * B @ A), "not divided"),
    (checks.check_dora, lambda W, A, B, m, s: torch.diag(m / W.norm(dim=1)) @ (W + s * B @ A), "lengths of W's"),
    (checks.check_ia3, lambda x, W, b, ell, ff: F.linear(x * ell, W, b), "those of keys and values go to the output"),
    (checks.check_ia3, outward, "feed-forward block go to its input"),
    (
        checks.check_ia3,
        lambda x, W, b, ell, ff: F.linear(x * ell, W, b) if ff else F.linear(x, W) * ell + b,
        "your bias is not scaled",
    ),
    (checks.check_ia3, lambda x, W, b, ell, ff: F.linear(x, W, b), "change nothing"),
]
