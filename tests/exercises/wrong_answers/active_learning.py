"""Lesson 43."""

import torch
from torch.nn.functional import normalize

from finetune_lessons.exercises import active_learning as checks


def margin(p):
    best = p.sort(-1, descending=True).values
    return best[:, 0] - best[:, 1]


def nats(p):
    return torch.special.entr(p).sum(-1)


def both(p):
    "The entropy of the mean, and the passes' own."
    return nats(p.mean(0)), nats(p)


def without_zeros(p):
    return -(p.mean(0) * torch.log(p.mean(0))).sum(-1) - (-(p * torch.log(p)).sum(-1)).mean(0)


def apart(x, y):
    return torch.stack([(x - row).norm(dim=-1) for row in y], dim=1)


def choosing(score, again=True):
    "The text with the largest score, over and over, of those that are not taken."

    def choose(x, labelled, n):
        known = list(labelled.tolist())
        for _ in range(n):
            found = score(apart(x, x[known if again else labelled]))
            known.append(max((i for i in range(len(x)) if i not in known), key=lambda i, found=found: found[i].item()))
        return known[len(labelled) :]

    return choose


def nearest(d):
    return d.min(1).values


farthest = choosing(nearest)


def from_the_first(x, labelled, n):
    return farthest(x, torch.tensor([0]), n)


def forgetting(x, labelled, n):
    first = farthest(x, labelled, 1)
    return first + farthest(x, torch.tensor(first), n - 1)


def among_the_others(x, labelled, n):
    others = [i for i in range(len(x)) if i not in labelled.tolist()]
    return [others.index(i) for i in farthest(x, labelled, n)]


def blocks(factors, h):
    return (factors.unsqueeze(2) * h.unsqueeze(1)).reshape(len(h), -1)


def by_width(p, h):
    return (h.unsqueeze(2) * (p - guess(p.argmax(1), p)).unsqueeze(1)).reshape(len(h), -1)


def guess(places, p):
    return torch.eye(p.shape[1])[places]


def embedded(p, h):
    return blocks(p - guess(p.argmax(1), p), h)


def trapezes(n, s):
    return ((n[1:] - n[:-1]) * (s[1:] + s[:-1]) / 2).sum()


def ends(n, s, ends):
    return ((n[1:] - n[:-1]) * ends).sum() / (n[-1] - n[0])


def crossing(n, a, goal, last=False):
    "Between which points, and how far along."
    places = [i for i in range(1, len(a)) if a[i - 1] < goal <= a[i]]
    if not places:
        return 1, 0.0
    i = places[-1 if last else 0]
    return i, float((goal - a[i - 1]) / (a[i] - a[i - 1]))


def along(n, a, goal, last=False):
    i, way = crossing(n, a, goal, last)
    return float(n[i - 1] + way * (n[i] - n[i - 1]))


def over_logs(n, a, share):
    i, way = crossing(n, a, share * a[-1])
    return float(n[i - 1] * (n[i] / n[i - 1]) ** way)


def at_points(n, a, share, *back):
    i = crossing(n, a, share * a[-1])[0]
    return sum(float(n[i - b]) for b in back) / len(back)


WRONG = [
    (checks.check_margins, margin, "sign is turned round"),
    (checks.check_margins, lambda p: -p.max(-1).values, "minus the largest probability; the"),
    (checks.check_margins, lambda p: 1 - p.max(-1).values, "one minus the largest"),
    (checks.check_margins, lambda p: 1 - margin(p), "one minus the margin"),
    (checks.check_margins, lambda p: p.min(-1).values - p.max(-1).values, "the smallest probability off"),
    (checks.check_margins, lambda p: -(p[:, 0] - p[:, 1]), "the first two classes; take"),
    (checks.check_margins, lambda p: -abs(p[:, 1] - p[:, 0]), "the first two classes, without sign"),
    (checks.check_margins, lambda p: -p.sort(-1).values[:, -1] / p.sort(-1).values[:, -2], "you divide the two"),
    (checks.check_margins, nats, "that is the entropy"),
    (checks.check_margins, lambda p: torch.full((len(p),), -margin(p).mean().item()), "the mean over the texts"),
    (checks.check_bald, lambda p: (both(p)[0] - both(p)[1].mean(0)) * 1.442695, "in bits"),
    (checks.check_bald, lambda p: both(p)[0], "that is the entropy of the mean"),
    (checks.check_bald, lambda p: both(p)[1].mean(0), "that is the mean entropy"),
    (checks.check_bald, lambda p: both(p)[1].mean(0) - both(p)[0], "wrong way round"),
    (checks.check_bald, lambda p: both(p)[1].mean(0) + both(p)[0], "you add the two"),
    (checks.check_bald, lambda p: both(p)[0] - both(p)[1].sum(0), "take their mean"),
    (checks.check_bald, lambda p: ((p - p.mean(0)) ** 2).mean(0).sqrt().mean(-1), "that is the spread"),
    (checks.check_bald, lambda p: ((p - p.mean(0)) ** 2).mean(0).mean(-1), "that is the variance"),
    (checks.check_bald, lambda p: (both(p)[0] - both(p)[1].mean(0)) / p.shape[2], "number of classes"),
    (checks.check_bald, without_zeros, "nan where p is 0"),
    (checks.check_k_centre, choosing(nearest, again=False), "do not look again"),
    (checks.check_k_centre, choosing(lambda d: -nearest(d)), "the nearest text"),
    (checks.check_k_centre, choosing(lambda d: d.sum(1)), "largest mean distance"),
    (checks.check_k_centre, choosing(lambda d: d.max(1).values), "farthest from any"),
    (checks.check_k_centre, forgetting, "after the first"),
    (checks.check_k_centre, from_the_first, "they count from the beginning"),
    (checks.check_k_centre, lambda x, known, n: farthest(normalize(x, dim=1), known, n), "compare directions"),
    (checks.check_k_centre, lambda x, known, n: sorted(farthest(x, known, n)), "texts are sorted"),
    (checks.check_k_centre, among_the_others, "among the texts without a label"),
    (checks.check_badge, lambda p, h: blocks(guess(p.argmax(1), p) - p, h), "sign is turned round"),
    (checks.check_badge, blocks, "take the guess off"),
    (checks.check_badge, lambda p, h: blocks(guess(p.argmax(1), p), h), "the guess alone"),
    (checks.check_badge, lambda p, h: blocks(p - guess(p.argmin(1), p), h), "least probable"),
    (checks.check_badge, lambda p, h: blocks(p - torch.eye(p.shape[1])[0], h), "the first class"),
    (checks.check_badge, by_width, "over the width first"),
    (checks.check_badge, lambda p, h: embedded(p, h) / p.shape[0], "by the number of texts"),
    (checks.check_badge, lambda p, h: blocks(p - p**2, h), "p (1 - p)"),
    (checks.check_badge, lambda p, h: normalize(embedded(p, h), dim=1), "length one"),
    (checks.check_area, lambda n, s: s.sum() / len(s), "mean of the points"),
    (checks.check_area, lambda n, s: (s[:-1] + s[1:]).sum() / 2 / (len(s) - 1), "steps count alike"),
    (checks.check_area, trapezes, "do not divide by the range"),
    (checks.check_area, lambda n, s: trapezes(n, s) / n[-1], "by the last number of labels"),
    (checks.check_area, lambda n, s: ends(n, s, s[:-1]), "the left end"),
    (checks.check_area, lambda n, s: ends(n, s, s[1:]), "the right end"),
    (checks.check_area, lambda n, s: trapezes(n.log(), s) / (n[-1].log() - n[0].log()), "the logarithm of the labels"),
    (checks.check_area, lambda n, s: ends(n, s, s[1:] + s[:-1]), "do not halve"),
    (checks.check_area, lambda n, s: trapezes(n, s) / (len(s) - 1), "by the number of steps"),
    (checks.check_area, lambda n, s: ends(n, s, (s[1:] + s[:-1]) / 2 - s[0]), "begins at the first score"),
    (checks.check_labels_needed, lambda n, a, s: at_points(n, a, s, 0), "at or above the goal"),
    (checks.check_labels_needed, lambda n, a, s: at_points(n, a, s, 1), "below the goal"),
    (checks.check_labels_needed, lambda n, a, s: along(n, a, s * a[-1], last=True), "for the last time"),
    (checks.check_labels_needed, lambda n, a, s: along(n, a, s * max(a)), "the best accuracy"),
    (checks.check_labels_needed, lambda n, a, s: along(n, a, s), "the share itself"),
    (checks.check_labels_needed, lambda n, a, s: along(n, a, a[0] + s * (a[-1] - a[0])), "a share of the gain"),
    (checks.check_labels_needed, lambda n, a, s: s * int(n[-1]), "a share of the labels"),
    (checks.check_labels_needed, over_logs, "over the logarithm"),
    (checks.check_labels_needed, lambda n, a, s: along(n, a, s * a[-1]) / int(n[-1]), "a part of the labels"),
    (checks.check_labels_needed, lambda n, a, s: at_points(n, a, s, 0, 1), "half of the step"),
]
