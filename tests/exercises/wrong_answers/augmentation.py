"""Lesson 41."""

import torch
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises import augmentation as checks


def deleting(words, draws, share, none_left):
    kept = [word for word, draw in zip(words, draws.tolist(), strict=True) if draw > share]
    return kept if kept else none_left(words, draws)


def swapping(words, pairs, n):
    new = words.copy()
    for i, j in pairs[:n]:
        first, second = new[i], new[j]
        new[i], new[j] = second, first
    return new


def in_place(words, pairs, share):
    for i, j in pairs[: max(1, int(share * len(words)))]:
        words[i], words[j] = words[j], words[i]
    return words


def from_the_text_as_it_was(words, pairs, share):
    new = words.copy()
    for i, j in pairs[: max(1, int(share * len(words)))]:
        new[i] = words[j]
        new[j] = words[i]
    return new


def overwriting(words, pairs, share, turned=False):
    new = words.copy()
    for i, j in pairs[: max(1, int(share * len(words)))]:
        i, j = (j, i) if turned else (i, j)
        new[i] = new[j]
        new[j] = new[i]
    return new


def in_place_sum(x, y, order, share):
    partners = x[order]
    return x.mul_(share).add_(partners, alpha=1 - share), share * y + (1 - share) * y[order]


def scattered(values, order, share):
    return share * values + (1 - share) * torch.zeros_like(values).index_copy(0, order, values)


def mixing(values, order, share):
    return share * values + (1 - share) * values[order]


def two_losses(logits, labels, order, own, other):
    return own * cross_entropy(logits, labels) + other * cross_entropy(logits, labels[order])


def log_of_the_mix(logits, labels, order, share):
    p = logits.softmax(-1)
    rows = torch.arange(len(p))
    return -torch.log(share * p[rows, labels] + (1 - share) * p[rows, labels[order]]).mean()


def binned(confidence, right, bins, left=False):
    "Of each bin that holds texts: their number, mean confidence and accuracy."
    place = torch.floor(confidence * bins) if left else torch.ceil(confidence * bins) - 1
    inside = [place == k for k in range(bins) if (place == k).any()]
    return torch.tensor([[i.sum(), confidence[i].mean(), right[i].float().mean()] for i in inside])


def weighted(found, n):
    return (found[:, 0] * (found[:, 1] - found[:, 2]).abs()).sum() / n


def with_nan(confidence, right, bins):
    place = torch.ceil(confidence * bins) - 1
    error = 0
    for k in range(bins):
        inside = place == k
        error += inside.float().mean() * (confidence[inside].mean() - right[inside].float().mean()).abs()
    return error


def from_the_left(confidence, right, bins):
    return weighted(binned(torch.where(confidence == 1, 0.9999, confidence), right, bins, left=True), len(right))


def middles(confidence, right, bins):
    return weighted(binned((torch.ceil(confidence * bins) - 0.5) / bins, right, bins), len(right))


WRONG = [
    (
        checks.check_deletion,
        lambda w, d, s: [word for word, x in zip(w, d.tolist(), strict=True) if x < s],
        "keep the words with the small draws",
    ),
    (checks.check_deletion, lambda w, d, s: deleting(w, d, s, lambda w, d: []), "your text is empty"),
    (checks.check_deletion, lambda w, d, s: deleting(w, d, s, lambda w, d: w), "keep the whole text"),
    (checks.check_deletion, lambda w, d, s: deleting(w, d, s, lambda w, d: [w[0]]), "keep the first word"),
    (checks.check_deletion, lambda w, d, s: deleting(w, d, s, lambda w, d: [w[-1]]), "keep the last word"),
    (checks.check_deletion, lambda w, d, s: deleting(w, d, s, lambda w, d: [w[d.argmin()]]), "the smallest draw"),
    (
        checks.check_deletion,
        lambda w, d, s: list(dict.fromkeys(deleting(w, d, s, lambda w, d: [w[d.argmax()]]))),
        "a word that comes twice",
    ),
    (checks.check_swaps, lambda w, p, s: swapping(w, p, None), "at every pair"),
    (checks.check_swaps, lambda w, p, s: swapping(w, p, max(1, round(len(w) * s))), "you round"),
    (checks.check_swaps, lambda w, p, s: swapping(w, p, int(len(w) * s)), "at least one swap"),
    (checks.check_swaps, from_the_text_as_it_was, "the text as it was"),
    (checks.check_swaps, overwriting, "you overwrite a word"),
    (checks.check_swaps, lambda w, p, s: overwriting(w, p, s, turned=True), "both of a pair stay"),
    (checks.check_swaps, lambda w, p, s: swapping(w, p, 1), "you make one swap"),
    (checks.check_swaps, in_place, "changes `words` itself"),
    (checks.check_mixed, in_place_sum, "changes `x` itself"),
    (
        checks.check_mixed,
        lambda x, y, o, s: (mixing(x, o, max(s, 1 - s)), mixing(y, o, max(s, 1 - s))),
        "your inputs take the larger",
    ),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, 1 - s), mixing(y, o, s)), "inputs have share and 1 - share"),
    (checks.check_mixed, lambda x, y, o, s: (x, mixing(y, o, s)), "your inputs are not mixed"),
    (checks.check_mixed, lambda x, y, o, s: ((x + x[o]) / 2, mixing(y, o, s)), "your inputs are mixed half and half"),
    (checks.check_mixed, lambda x, y, o, s: (scattered(x, o, s), scattered(y, o, s)), "inputs have the order turned"),
    (checks.check_mixed, lambda x, y, o, s: (x[o], y[o]), "your inputs are those of the partners"),
    (checks.check_mixed, lambda x, y, o, s: (x + x[o], y + y[o]), "your inputs are added"),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, s), y), "your targets are not mixed"),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, s), y[o]), "your targets are those of the partners"),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, s), mixing(y, o, 1 - s)), "targets have share and 1 - share"),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, s), scattered(y, o, s)), "targets have the order turned"),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, s), mixing(y, o, max(s, 1 - s))), "targets take the larger"),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, s), (y + y[o]) / 2), "your targets are mixed half"),
    (checks.check_mixed, lambda x, y, o, s: (mixing(x, o, s), y + y[o]), "your targets are added"),
    (
        checks.check_mixup_loss,
        lambda z, y, o, s: two_losses(z, y, o, max(s, 1 - s), min(s, 1 - s)),
        "the larger of share and 1 - share",
    ),
    (checks.check_mixup_loss, lambda z, y, o, s: two_losses(z, y, o, 1 - s, s), "wrong way round"),
    (checks.check_mixup_loss, lambda z, y, o, s: len(y) * two_losses(z, y, o, s, 1 - s), "is a sum"),
    (
        checks.check_mixup_loss,
        lambda z, y, o, s: s * cross_entropy(z, y) + (1 - s) * cross_entropy(z[o], y[o]),
        "change nothing",
    ),
    (checks.check_mixup_loss, lambda z, y, o, s: two_losses(z, y, o, 0.5, 0.5), "weigh both labels alike"),
    (
        checks.check_mixup_loss,
        lambda z, y, o, s: s * cross_entropy(z, y) + (1 - s) * cross_entropy(z[o], y),
        "order turned round",
    ),
    (checks.check_mixup_loss, log_of_the_mix, "then take the logarithm"),
    (checks.check_mixup_loss, lambda z, y, o, s: two_losses(z, y, o, 1, 1), "you add the two"),
    (checks.check_mixup_loss, lambda z, y, o, s: cross_entropy(z, y[o]), "partners' labels alone"),
    (
        checks.check_leaks,
        lambda a, b: len(set(a.tolist()) & set(b.tolist())) / len(set(b.tolist())),
        "each source once",
    ),
    (checks.check_leaks, lambda a, b: torch.isin(a, b).float().mean(), "share of the training rows"),
    (checks.check_leaks, lambda a, b: sum(x in a.tolist() for x in b.tolist()), "a number of rows"),
    (checks.check_leaks, lambda a, b: sum(x in a.tolist() for x in b.tolist()) / len(a), "number of training rows"),
    (checks.check_leaks, lambda a, b: torch.isin(b, a, invert=True).float().mean(), "that are clean"),
    (checks.check_leaks, lambda a, b: (a == b.unsqueeze(1)).sum(1).float().mean(), "once for each copy"),
    (checks.check_leaks, lambda a, b: (a == b.unsqueeze(1)).float().mean(), "all pairs of rows"),
    (checks.check_leaks, lambda a, b: torch.isin(b, a).sum() / (len(b) + len(a)), "divide by all rows"),
    (
        checks.check_calibration_error,
        lambda c, r, b: binned(c, r, b)[:, 1:].diff(dim=1).abs().mean(),
        "bins count alike",
    ),
    (checks.check_calibration_error, lambda c, r, b: binned(c, r, b)[:, 1:].diff(dim=1).abs().sum(), "do not weigh"),
    (checks.check_calibration_error, lambda c, r, b: (c - r.float()).mean(), "gaps cancel"),
    (checks.check_calibration_error, lambda c, r, b: (r.float() - c).mean(), "then the mean"),
    (checks.check_calibration_error, lambda c, r, b: (c - r.float()).abs().mean(), "of single texts"),
    (checks.check_calibration_error, lambda c, r, b: binned(c, r, b)[:, 1:].diff(dim=1).abs().max(), "largest gap"),
    (checks.check_calibration_error, middles, "middle of the bin"),
    (checks.check_calibration_error, from_the_left, "left edge; they take in the right"),
    (checks.check_calibration_error, lambda c, r, b: weighted(binned(c, r, b, left=True), len(c)), "lose a confidence"),
    (checks.check_calibration_error, with_nan, "nan where a bin is empty"),
]
