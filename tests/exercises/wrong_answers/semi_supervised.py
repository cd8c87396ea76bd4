"""Lesson 35."""

import torch
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises import semi_supervised as checks


def kept(weak, threshold):
    return weak.softmax(-1).max(-1).values >= threshold


def surprise(strong, weak):
    return cross_entropy(strong, weak.argmax(-1), reduction="none")


def used_alone(strong, weak, threshold):
    used = kept(weak, threshold)
    return cross_entropy(strong[used], weak.argmax(-1)[used])


def soft_target(strong, weak, threshold):
    return (cross_entropy(strong, weak.softmax(-1), reduction="none") * kept(weak, threshold)).mean()


def shares(weak, labels, threshold):
    used, right = kept(weak, threshold), weak.argmax(-1) == labels
    return used, right


def two(first, second):
    return torch.tensor([float(first), float(second)])


def moving(weights, decay, start):
    average = start
    for w in weights:
        average = average * decay + w * (1 - decay)
    return average


def waits(p, limit):
    return torch.where(p > limit, 0.0, -p.log())


WRONG = [
    (checks.check_sharper, lambda p, T: p**T / (p**T).sum(-1, keepdim=True), "your exponent is T"),
    (checks.check_sharper, lambda p, T: torch.exp(p.log() / T), "do not sum to one"),
    (checks.check_sharper, lambda p, T: torch.softmax(p / T, -1), "before the softmax"),
    (checks.check_sharper, lambda p, T: p ** (1 / T) / (p ** (1 / T)).sum(0), "over the texts"),
    (checks.check_fixmatch, used_alone, "the mean is over all texts"),
    (checks.check_fixmatch, lambda s, w, t: surprise(s, w).mean(), "every guess"),
    (checks.check_fixmatch, lambda s, w, t: (surprise(s, w) * ~kept(w, t)).mean(), "below the threshold"),
    (checks.check_fixmatch, lambda s, w, t: (surprise(w, s) * kept(s, t)).mean(), "wrong way round"),
    (checks.check_fixmatch, soft_target, "most probable class"),
    (checks.check_fixmatch, lambda s, w, t: (surprise(s, w) * kept(s, t)).mean(), "the weak one decides"),
    (checks.check_fixmatch, lambda s, w, t: (surprise(s, w) * kept(w, t)).sum(), "is a sum"),
    (
        checks.check_share_and_accuracy,
        lambda w, y, t: two(
            shares(w, y, t)[0].float().mean(), (shares(w, y, t)[0] & shares(w, y, t)[1]).float().mean()
        ),
        "by those that are used",
    ),
    (
        checks.check_share_and_accuracy,
        lambda w, y, t: two(*(x.float().mean() for x in shares(w, y, t))),
        "used or not",
    ),
    (
        checks.check_share_and_accuracy,
        lambda w, y, t: two((~shares(w, y, t)[0]).float().mean(), (w.argmax(-1) == y)[kept(w, t)].float().mean()),
        "left out",
    ),
    (
        checks.check_share_and_accuracy,
        lambda w, y, t: two((w.argmax(-1) == y)[kept(w, t)].float().mean(), kept(w, t).float().mean()),
        "share comes first",
    ),
    (
        checks.check_share_and_accuracy,
        lambda w, y, t: two(kept(w, t).float().mean(), (w.argmax(-1) != y)[kept(w, t)].float().mean()),
        "the wrong ones",
    ),
    (checks.check_averaged, lambda w, d: moving(w[1:], 1 - d, w[0]), "wrong way round"),
    (checks.check_averaged, lambda w, d: moving(w, d, torch.zeros_like(w[0])), "begins at zero"),
    (checks.check_averaged, lambda w, d: w.sum(0) / len(w), "plain mean"),
    (checks.check_averaged, lambda w, d: moving(w[1:-1], d, w[0]), "before the last step"),
    (checks.check_averaged, lambda w, d: w[-2] * d + w[-1] * (1 - d), "not with the average"),
    (checks.check_mixed_targets, lambda t, o, s: s * t + (1 - s) * t[o], "the larger part: l = max"),
    (
        checks.check_mixed_targets,
        lambda t, o, s: min(s, 1 - s) * t + (1 - min(s, 1 - s)) * t[o],
        "is the other text",
    ),
    (checks.check_mixed_targets, lambda t, o, s: 0.5 * t + 0.5 * t[o], "half and half"),
    (
        checks.check_mixed_targets,
        lambda t, o, s: max(s, 1 - s) * t + min(s, 1 - s) * torch.zeros_like(t).index_copy(0, o, t),
        "turned round",
    ),
    (checks.check_mixed_targets, lambda t, o, s: t.clone(), "not mixed"),
    (
        checks.check_waiting_loss,
        lambda p, t, K: waits(p, t * (1 - 1 / K) + 1 / K).sum() / (p <= t * (1 - 1 / K) + 1 / K).sum(),
        "that count; the mean",
    ),
    (checks.check_waiting_loss, lambda p, t, K: waits(p, t).mean(), "begins at 0"),
    (
        checks.check_waiting_loss,
        lambda p, t, K: torch.where(p > t * (1 - 1 / K) + 1 / K, -p.log(), 0.0).mean(),
        "above the threshold; those wait",
    ),
    (checks.check_waiting_loss, lambda p, t, K: -p.log().mean(), "all your labels"),
    (checks.check_waiting_loss, lambda p, t, K: waits(p, 1 / K).mean(), "stays at 1 / K"),
    (checks.check_waiting_loss, lambda p, t, K: waits(p, t * (1 - 1 / K) + 1 / K).sum(), "is a sum"),
]
