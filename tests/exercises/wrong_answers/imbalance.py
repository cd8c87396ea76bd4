"""Lesson 42."""

import torch
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from finetune_lessons.exercises import imbalance as checks


def numbers(labels, classes):
    return one_hot(labels, classes).sum(0)


def balanced(labels, classes):
    return labels.numel() / numbers(labels, classes) / classes


def each(logits, labels):
    return nll_loss(logits.log_softmax(-1), labels, reduction="none")


def chance(logits, labels):
    return logits.softmax(-1)[torch.arange(len(labels)), labels]


def mean_of_classes(logits, labels, weights):
    found = labels.unique().tolist()
    means = [weights[c] * each(logits, labels)[labels == c].mean() for c in found]
    return sum(means) / sum(weights[c] for c in found)


def by_guess(logits, labels, weights):
    w = weights[logits.max(-1).indices]
    return (w * each(logits, labels)).sum() / w.sum()


def focal(logits, labels, gamma, p=None):
    p = chance(logits, labels) if p is None else p
    return ((1 - p) ** gamma * each(logits, labels)).mean()


def over_factors(logits, labels, gamma):
    factors = (1 - chance(logits, labels)).pow(gamma)
    return (factors * each(logits, labels)).sum() / factors.sum()


def label_alone(logits, labels, prior, tau):
    shifted = logits.clone()
    for row, y in enumerate(labels.tolist()):
        shifted[row, y] += tau * prior[y].log()
    return cross_entropy(shifted, labels)


def least(probability, labels, cost_fp, cost_fn, above=False, worst=False):
    "Its cost, its place, the threshold."
    found = []
    for i, limit in enumerate(probability.tolist()):
        positive = [p > limit if above else p >= limit for p in probability.tolist()]
        wrong = [(guess, y) for guess, y in zip(positive, labels.tolist(), strict=True)]
        cost = cost_fp * wrong.count((True, 0)) + cost_fn * wrong.count((False, 1))
        found.append((-cost if worst else cost, i, limit))
    return min(found)


def log_odds(p):
    return torch.log(torch.as_tensor(p) / (1 - torch.as_tensor(p)))


def shifted(p, out, into):
    return torch.sigmoid(log_odds(p) - log_odds(out) + log_odds(into))


WRONG = [
    (checks.check_class_weights, lambda y, k: numbers(y, k) / len(y), "shares of the classes"),
    (checks.check_class_weights, lambda y, k: 1 / numbers(y, k), "n / classes is missing"),
    (checks.check_class_weights, lambda y, k: len(y) / numbers(y, k), "by the number of classes"),
    (checks.check_class_weights, lambda y, k: balanced(y, k) / balanced(y, k).sum(), "sum to one"),
    (checks.check_class_weights, lambda y, k: max(numbers(y, k)) / numbers(y, k), "the largest class by each"),
    (checks.check_class_weights, lambda y, k: numbers(y, k) / min(numbers(y, k)), "by the rarest"),
    (checks.check_class_weights, lambda y, k: sorted(balanced(y, k).tolist()), "weights are sorted"),
    (checks.check_class_weights, lambda y, k: numbers(y, k) * k / len(y), "upside down"),
    (checks.check_weighted_loss, lambda z, y, w: (w[y] * each(z, y)).sum() / len(y), "divide by the number of texts"),
    (checks.check_weighted_loss, lambda z, y, w: (w[y] * each(z, y)).sum() / w.sum(), "the classes' weights"),
    (checks.check_weighted_loss, lambda z, y, w: cross_entropy(z, y, w, reduction="sum"), "that is a sum"),
    (checks.check_weighted_loss, lambda z, y, w: cross_entropy(z, y), "change nothing"),
    (checks.check_weighted_loss, by_guess, "the class that is guessed"),
    (checks.check_weighted_loss, lambda z, y, w: cross_entropy(w * z, y), "multiply the logits"),
    (checks.check_weighted_loss, lambda z, y, w: cross_entropy(z, y, 1 / w), "divide by the weights"),
    (checks.check_weighted_loss, mean_of_classes, "that of the classes"),
    (checks.check_focal_loss, lambda z, y, g: (chance(z, y) ** g * each(z, y)).mean(), "your factor is p^gamma"),
    (checks.check_focal_loss, lambda z, y, g: cross_entropy(z, y), "plain cross-entropy"),
    (checks.check_focal_loss, lambda z, y, g: g * focal(z, y, 1), "by gamma; gamma is its exponent"),
    (checks.check_focal_loss, lambda z, y, g: focal(z, y, g, z.softmax(-1).max(-1).values), "the largest p"),
    (checks.check_focal_loss, lambda z, y, g: focal(z, y, g) * len(y), "is a sum"),
    (checks.check_focal_loss, over_factors, "sum of the factors"),
    (checks.check_focal_loss, lambda z, y, g: focal(z, y, 1), "gamma is left out"),
    (checks.check_focal_loss, lambda z, y, g: (1 - chance(z, y)).pow(g).mean(), "not -log p"),
    (checks.check_focal_loss, lambda z, y, g: ((1 - chance(z, y)) * each(z, y)).pow(g).mean(), "loss of the text too"),
    (checks.check_focal_loss, lambda z, y, g: focal(z, y, g, chance(z, y).mean()), "the mean p"),
    (checks.check_adjusted_loss, lambda z, y, q, t: cross_entropy(z - t * q.log(), y), "you subtract"),
    (checks.check_adjusted_loss, lambda z, y, q, t: cross_entropy(z + t * q, y), "the prior itself"),
    (checks.check_adjusted_loss, lambda z, y, q, t: cross_entropy(z + q.log(), y), "tau is left out"),
    (checks.check_adjusted_loss, lambda z, y, q, t: cross_entropy((z + q.log()) * t, y), "the logits too"),
    (checks.check_adjusted_loss, lambda z, y, q, t: cross_entropy(z, y), "the prior is missing"),
    (
        checks.check_adjusted_loss,
        lambda z, y, q, t: nll_loss(z.log_softmax(-1) + t * q.log(), y),
        "behind the softmax",
    ),
    (checks.check_adjusted_loss, lambda z, y, q, t: (each(z, y) * q[y] ** t).mean(), "the loss by the prior"),
    (checks.check_adjusted_loss, lambda z, y, q, t: each(z + t * q.log(), y).sum(), "is a sum"),
    (checks.check_adjusted_loss, label_alone, "the label's logit alone"),
    (checks.check_threshold, lambda p, y, fp, fn: least(p, y, fn, fp)[2], "wrong way round"),
    (checks.check_threshold, lambda p, y, fp, fn: least(p, y, 1, 1)[2], "both kinds of error alike"),
    (checks.check_threshold, lambda p, y, fp, fn: least(p, y, fp, fn, above=True)[2], "above the threshold only"),
    (checks.check_threshold, lambda p, y, fp, fn: least(p, y, fp, fn)[0], "that is the cost; return"),
    (checks.check_threshold, lambda p, y, fp, fn: least(p, y, fp, fn)[0] / len(p), "the cost of a text"),
    (checks.check_threshold, lambda p, y, fp, fn: least(p, y, fp, fn)[1], "a place in the list"),
    (checks.check_threshold, lambda p, y, fp, fn: least(p, y, fp, fn, worst=True)[2], "cost is largest"),
    (checks.check_threshold, lambda p, y, fp, fn: fp / (fn + fp), "the rule for true probabilities"),
    (checks.check_threshold, lambda p, y, fp, fn: 0.5, "0.5, whatever"),
    (checks.check_threshold, lambda p, y, fp, fn: min(p[y > 0].tolist()), "the smallest probability of a positive"),
    (checks.check_undone, lambda p, t, r: shifted(p, r, t), "wrong way round"),
    (checks.check_undone, lambda p, t, r: r / t * p, "do not sum to one"),
    (checks.check_undone, lambda p, t, r: p - (t - r), "shift the probability"),
    (checks.check_undone, lambda p, t, r: torch.sigmoid(log_odds(p) + log_odds(r)), "the real prior alone"),
    (checks.check_undone, lambda p, t, r: torch.sigmoid(log_odds(p) - log_odds(t)), "do not put the real one in"),
    (
        checks.check_undone,
        lambda p, t, r: torch.sigmoid(log_odds(p) + torch.tensor(r / t).log()),
        "the positive side alone",
    ),
    (
        checks.check_undone,
        lambda p, t, r: torch.exp(log_odds(p) - log_odds(t) + log_odds(r)),
        "those are the odds",
    ),
    (checks.check_undone, lambda p, t, r: log_odds(p) - log_odds(t) + log_odds(r), "those are the log-odds"),
    (checks.check_undone, lambda p, t, r: torch.sigmoid(torch.log(p / t * r)), "logarithms of the priors"),
    (checks.check_undone, lambda p, t, r: p, "have not changed"),
]
