"""Lesson 13."""

import torch
from torch.nn.functional import cross_entropy, kl_div

from finetune_lessons.exercises import overfitting as checks


def stopped(losses, patience, min_delta, mark="best", late=0, anew=True, equal=False):
    best, waited = losses[0], 0
    for i, loss in enumerate(losses[1:]):
        gain = best - loss
        if gain > min_delta or (equal and gain >= min_delta):
            best, waited = loss, 0 if anew else waited
        else:
            waited += 1
        best = {"best": best, "previous": loss, "creeps": min(best, loss)}[mark]
        if waited == patience + late:
            return i + 2
    return len(losses)


def r_drop(a, b, labels, alpha, entropy=0.5, ab=0.5, ba=0.5, reduction="batchmean", both=True):
    p, q = a.log_softmax(1), b.log_softmax(1)
    ce = entropy * (cross_entropy(a, labels) + cross_entropy(b, labels)) if both else cross_entropy(a, labels)
    to_b, to_a = (kl_div(x, y, log_target=True, reduction=reduction) for x, y in ((q, p), (p, q)))
    return ce + alpha * (ab * to_b + ba * to_a)


def first(t, beta1, beta2):
    return (1 - beta1**t) / (1 - beta2**t) ** 0.5


WRONG = [
    (checks.check_dropout, lambda x, kept, p: torch.where(kept, x, torch.zeros(())), "not scaled"),
    (checks.check_dropout, lambda x, kept, p: torch.where(kept, x / (p or 1e-9), torch.zeros(())), "1 / p"),
    (checks.check_dropout, lambda x, kept, p: x * kept * (1 - p), "shrinks"),
    (checks.check_dropout, lambda x, kept, p: torch.where(kept, torch.zeros(()), x / (1 - p)), "wrong way round"),
    (checks.check_dropout, lambda x, kept, p: torch.where(kept, x, x / (1 - p)), "scaled, not zeroed"),
    (checks.check_dropout, lambda x, kept, p: x * kept * kept.numel() / kept.sum(), "of this mask"),
    (checks.check_patience, lambda *given: stopped(*given, late=1), "one validation late"),
    (checks.check_patience, lambda *given: stopped(*given, anew=False), "counts all bad"),
    (checks.check_patience, lambda *given: stopped(*given, mark="previous"), "the validation before"),
    (checks.check_patience, lambda *given: stopped(*given, mark="creeps"), "slow but steady"),
    (checks.check_patience, lambda losses, patience, min_delta: stopped(losses, patience, 0.0), "ignores min_delta"),
    (checks.check_patience, lambda *given: stopped(*given, equal=True), "an equal loss"),
    (checks.check_patience, lambda *given: stopped(*given) - 1, "from 0; count"),
    (checks.check_pull, lambda w, u, strength: strength * w, "plain L2"),
    (checks.check_pull, lambda w, u, strength: -strength * (w - u), "away from u"),
    (checks.check_pull, lambda w, u, strength: 0.5 * strength * (w - u), "is half"),
    (checks.check_pull, lambda w, u, strength: strength * (w - u) + strength * (w - u), "is twice"),
    (checks.check_pull, lambda w, u, strength: strength * torch.square(w - u) / 2, "penalty itself"),
    (checks.check_mixout, lambda w, u, M, p: torch.where(M == 1, u, w), "not corrected"),
    (checks.check_mixout, lambda w, u, M, p: torch.where(M == 1, u, w) / (1 - p), "lacks - p u"),
    (checks.check_mixout, lambda w, u, M, p: torch.where(M == 1, u, w) - p * u, "not divided"),
    (checks.check_mixout, lambda w, u, M, p: (torch.where(M == 1, w, u) - p * u) / (1 - p), "wrong way round"),
    (checks.check_mixout, lambda w, u, M, p: w + M * (w - w) + (1 - M) * (u - w) / (1 - p), "exchanged"),
    (checks.check_r_drop, lambda *given: r_drop(*given, reduction="sum"), "a sum over the rows"),
    (checks.check_r_drop, lambda *given: r_drop(*given, reduction="mean"), "rows and classes"),
    (checks.check_r_drop, lambda *given: r_drop(*given, ab=1, ba=0), "one-sided:"),
    (checks.check_r_drop, lambda *given: r_drop(*given, ab=0, ba=1), "KL(b || a)"),
    (checks.check_r_drop, lambda *given: r_drop(*given, ab=1, ba=1), "adds the two directions"),
    (checks.check_r_drop, lambda *given: r_drop(*given, entropy=1), "are added"),
    (checks.check_r_drop, lambda *given: r_drop(*given, both=False), "first pass alone"),
    (checks.check_first_steps, lambda t, b1, b2: (1 - b2**t) ** 0.5 / (1 - b1**t), "upside down"),
    (checks.check_first_steps, lambda t, b1, b2: (1 - b1**t) / (1 - b2**t), "root is missing"),
    (checks.check_first_steps, lambda t, b1, b2: (1 - b2**t) ** -0.5, "m is left out"),
    (checks.check_first_steps, lambda t, b1, b2: first(t, b2, b1), "exchanged"),
    (checks.check_first_steps, lambda t, b1, b2: first(t + 1, b1, b2), "begin at 0"),
]
