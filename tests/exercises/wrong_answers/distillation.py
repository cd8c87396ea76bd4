"""Lesson 31."""

import torch
import torch.nn.functional as F

from finetune_lessons.exercises import distillation as checks


def kl_div(student, teacher, T, reduction="batchmean"):
    return F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher / T, -1), reduction=reduction)


def autograd(student, teacher, T):
    z = student.clone().requires_grad_()
    kl_div(z[None], teacher[None], T).backward()
    return z.grad


WRONG = [
    (checks.check_soft_loss, kl_div, "lacks the factor"),
    (checks.check_soft_loss, lambda s, t, T: T * kl_div(s, t, T), "T where T"),
    (checks.check_soft_loss, lambda s, t, T: T**2 * kl_div(t, s, T), "student || teacher"),
    (checks.check_soft_loss, lambda s, t, T: T**2 * kl_div(s, t, T, "mean"), "number of classes"),
    (checks.check_soft_loss, lambda s, t, T: T**2 * kl_div(s, t, T, "sum"), "sum over the rows"),
    (checks.check_soft_loss, lambda s, t, T: T**2 * kl_div(T * s, t, T), "only the teacher's"),
    (checks.check_soft_loss, lambda s, t, T: T**2 * kl_div(s, T * t, T), "only the student's"),
    (checks.check_soft_loss, lambda s, t, T: T**2 * F.cross_entropy(s / T, F.softmax(t / T, -1)), "their entropy"),
    (checks.check_soft_gradient, autograd, "1/T of the difference"),
    (checks.check_soft_gradient, lambda s, t, T: T * (F.softmax(t / T, -1) - F.softmax(s / T, -1)), "wrong sign"),
    (checks.check_soft_gradient, lambda s, t, T: F.softmax(s / T, -1) - F.softmax(t / T, -1), "lacks the factor T"),
    (checks.check_soft_gradient, lambda s, t, T: T**3 * autograd(s, t, T), "has T"),
    (checks.check_soft_gradient, lambda s, t, T: T * (F.softmax(s, -1) - F.softmax(t, -1)), "those at T = 1"),
    (checks.check_mixed_loss, lambda h, s, y, a: a * h.mean() + (1 - a) * s.mean(), "have no label"),
    (checks.check_mixed_loss, lambda h, s, y, a: (a * h * (y != -100) + (1 - a) * s).mean(), "all they have"),
    (checks.check_mixed_loss, lambda h, s, y, a: ((a * h + (1 - a) * s) * (y != -100)).mean(), "leaves rows without"),
    (checks.check_mixed_loss, lambda h, s, y, a: torch.where(y < 0, s, a * s + (1 - a) * h).mean(), "weighs the soft"),
    (checks.check_mixed_loss, lambda h, s, y, a: torch.where(y < 0, s, a * h + (1 - a) * s).sum(), "take the mean"),
    (checks.check_teacher_layers, lambda m, n: torch.arange(1, m + 1) * n // m, "one too high"),
    (checks.check_teacher_layers, lambda m, n: torch.tensor(range(m)), "the first ones"),
    (checks.check_teacher_layers, lambda m, n: torch.tensor(range(n)[-m:]), "the last ones"),
    (checks.check_teacher_layers, lambda m, n: torch.tensor(range(0, n, n // m)), "teacher's last"),
    (
        checks.check_rater_shares,
        lambda r: torch.tensor(
            [(r > 0).float().mean() + (r == 0).float().mean() / 2, (r < 0).float().mean() + (r == 0).float().mean() / 2]
        ),
        "order",
    ),
    (
        checks.check_rater_shares,
        lambda r: torch.tensor([(r < 0).float().mean(), 1 - (r < 0).float().mean()]),
        "as positive",
    ),
    (
        checks.check_rater_shares,
        lambda r: torch.tensor([1 - (r > 0).float().mean(), (r > 0).float().mean()]),
        "as negative",
    ),
    (checks.check_rater_shares, lambda r: torch.stack([(r < 0).float().mean(), (r > 0).float().mean()]), "sum to one"),
    (
        checks.check_rater_shares,
        lambda r: torch.stack([(r < 0).sum() + (r == 0).sum() / 2, (r > 0).sum() + (r == 0).sum() / 2]),
        "number of raters",
    ),
    (checks.check_token_loss, lambda kl, mask: torch.mean(kl), "over padding too"),
    (checks.check_token_loss, lambda kl, mask: torch.mean(kl * mask), "all places"),
    (checks.check_token_loss, lambda kl, mask: kl[mask > 0].sum(), "is a sum"),
    (
        checks.check_token_loss,
        lambda kl, mask: torch.stack([k[m > 0].mean() for k, m in zip(kl, mask, strict=True)]).mean(),
        "texts' means",
    ),
    (checks.check_token_loss, lambda kl, mask: kl[mask > 0].sum() / len(kl), "number of texts"),
]
