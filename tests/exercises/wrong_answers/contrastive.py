"""Lesson 34."""

import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from finetune_lessons.exercises import contrastive as checks


def pooled(hidden, mask, divide):
    return torch.einsum("btw,bt->bw", hidden, mask.float()) / divide(mask)


def contrast(q, p, scale=1.0, axis=1, reduction="mean", lengths=True):
    cosines = cosine_similarity(q[:, None], p[None], dim=-1) if lengths else q @ p.mT
    logits = cosines * scale
    return cross_entropy(logits if axis else logits.mT, torch.arange(len(q)), reduction=reduction)


def no_pair(q, p, t):
    e = (cosine_similarity(q[:, None], p[None], dim=-1) / t).double().exp()
    return 0.0 if len(q) == 1 else -(e.diagonal() / (e.sum(1) - e.diagonal())).log().mean()


def denominators(scores, names, weight):
    e = scores.double().exp()
    return -(e.diagonal() / (e * weight).sum(1)).log()


def different(names, own=True):
    return (names[:, None] != names).double() + (torch.eye(len(names)).double() if own else 0)


def zeroed(scores, names):
    counted = different(names)
    e = torch.where(counted > 0, scores, torch.zeros(())).double().exp()
    return -(scores.double().diagonal().exp() / e.sum(1)).log().mean()


def zeroed_far(scores, names):
    logits = torch.where(different(names, own=False) > 0, scores, torch.tensor(-1e9))
    return torch.logsumexp(logits, 1).sub(scores.diagonal()).mean()


def singles(scores, names):
    alone = torch.bincount(names)[names] == 1
    return cross_entropy(scores, torch.arange(len(names)), reduction="none")[alone].sum() / max(1, int(alone.sum()))


def place(cosines, right, ties=True):
    order = cosines.gather(1, right[:, None])
    return ((cosines > order) | (ties & (cosines == order))).sum(1).double()


def kernels(x, factor=2.0, power=2):
    i, j = torch.triu_indices(len(x), len(x), 1)
    return (-factor * (x[i].double() - x[j].double()).norm(dim=-1) ** power).exp()


def with_each_itself(x):
    return (-2 * (x[:, None].double() - x[None].double()).square().sum(-1)).exp().mean().log()


WRONG = [
    (checks.check_pool, lambda hidden, mask: hidden.sum(1) / hidden.shape[1], "over the padding too"),
    (checks.check_pool, lambda hidden, mask: pooled(hidden, mask, lambda m: m.shape[1]), "by the longest text"),
    (checks.check_pool, lambda hidden, mask: pooled(hidden, mask, lambda m: 1), "not divided"),
    (checks.check_pool, lambda hidden, mask: pooled(hidden, mask, lambda m: m.sum()), "tokens of all texts"),
    (checks.check_pool, lambda hidden, mask: hidden.unbind(1)[0], "first token alone"),
    (checks.check_info_nce, lambda q, p, t: contrast(q, p, 1 / t, lengths=False), "no cosines"),
    (checks.check_info_nce, lambda q, p, t: contrast(q, p, t), "multiplied by the temperature"),
    (checks.check_info_nce, lambda q, p, t: contrast(q, p), "left out"),
    (checks.check_info_nce, lambda q, p, t: contrast(q, p, 1 / t, reduction="sum"), "a sum over the rows"),
    (checks.check_info_nce, lambda q, p, t: contrast(q, p, 1 / t, axis=0), "over the queries"),
    (checks.check_info_nce, no_pair, "leaves the positive out"),
    (checks.check_info_nce, lambda q, p, t: -(normalize(q) * normalize(p)).sum(1).mean() / t, "positives alone"),
    (checks.check_false_negatives, lambda scores, names: denominators(scores, names, 1.0).mean(), "as negatives"),
    (checks.check_false_negatives, zeroed, "e^0 is 1"),
    (checks.check_false_negatives, zeroed_far, "own candidate away"),
    (checks.check_false_negatives, singles, "still have negatives"),
    (checks.check_false_negatives, lambda s, names: denominators(s, names, different(names)).sum(), "a sum over"),
    (checks.check_mrr, lambda cosines, right: (1 / (place(cosines, right, False) + 1)).mean(), "ties count for"),
    (checks.check_mrr, lambda cosines, right: place(cosines, right).mean(), "mean rank"),
    (checks.check_mrr, lambda cosines, right: 1 / place(cosines, right).mean(), "turn it over"),
    (checks.check_mrr, lambda cosines, right: (cosines.argmax(1) == right).double().mean(), "recall@1"),
    (checks.check_mrr, lambda cosines, right: (1 / (place(cosines, right) - 1)).mean(), "begin at 0"),
    (checks.check_mrr, lambda cosines, right: (1 / place(-cosines, right)).mean(), "upside down"),
    (checks.check_uniformity, with_each_itself, "with itself as well"),
    (checks.check_uniformity, lambda x: kernels(x, power=1).mean().log(), "not squared"),
    (checks.check_uniformity, lambda x: kernels(x, factor=1.0).mean().log(), "factor of 2"),
    (checks.check_uniformity, lambda x: kernels(x).mean(), "logarithm is missing"),
    (checks.check_uniformity, lambda x: kernels(x).log().mean(), "before the mean"),
    (checks.check_uniformity, lambda x: kernels(x).sum().log(), "not divided by their number"),
]
