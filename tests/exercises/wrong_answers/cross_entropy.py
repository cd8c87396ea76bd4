"""Lesson 11."""

import torch
import torch.nn.functional as F

from finetune_lessons.exercises import cross_entropy as checks


def padded_mean(z, y):
    return F.cross_entropy(z, y, reduction="sum") / len(y)


def no_shift(z, ids, mask):
    return F.cross_entropy(z.flatten(0, 1), ids.masked_fill(mask == 0, -100).flatten()).exp()


def others_only(y, k, e):
    return torch.full((len(y), k), e / (k - 1)).scatter(1, y[:, None], 1 - e)


def fitted(z, y):
    return min(torch.logspace(-1, 1, 400), key=lambda T: F.cross_entropy(z / T, y).item())


WRONG = [
    (checks.check_cross_entropy, padded_mean, "averages over the padding too"),
    (checks.check_cross_entropy, lambda z, y: F.cross_entropy(z.softmax(-1), y), "softmax twice"),
    (checks.check_cross_entropy, lambda z, y: F.cross_entropy(z, y, reduction="sum"), "a sum, not a mean"),
    (checks.check_cross_entropy, lambda z, y: -F.cross_entropy(z, y), "sign"),
    (checks.check_cross_entropy, lambda z, y: F.cross_entropy(z, y) / 0.6931471806, "bits"),
    (checks.check_cross_entropy, lambda z, y: F.cross_entropy(z, y % z.shape[-1]), "last class"),
    (checks.check_gradient, lambda z, y: z.softmax(-1) - F.one_hot(y, z.shape[-1]), "that of the sum"),
    (checks.check_gradient, lambda z, y: (F.one_hot(y, z.shape[-1]) - z.softmax(-1)) / len(y), "downhill"),
    (checks.check_smooth_targets, others_only, "other classes only"),
    (checks.check_smooth_targets, lambda y, k, e: F.one_hot(y, k) + e / k, "do not sum to 1"),
    (checks.check_temperature, lambda z, y: 1.0, "changes nothing"),
    (checks.check_temperature, lambda z, y: 1 / fitted(z, y), "1 / T"),
    (checks.check_perplexity, no_shift, "its own logits"),
    (checks.check_perplexity, lambda z, i, m: F.cross_entropy(z[:, :-1].mT, i[:, 1:]).exp(), "count the padding"),
    (checks.check_focal_loss, lambda z, y, g: F.cross_entropy(z, y), "left out the factor"),
]
