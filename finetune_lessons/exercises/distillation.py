"""Checks of lesson 31, distillation."""

import torch
from torch import Tensor

from finetune_lessons.exercises.calls import AUTOGRAD
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(31)


@exercise
def check_soft_loss(
    learner: Function,  # learner(student (rows, classes), teacher (rows, classes), T) -> a number
) -> Verdict:
    "Is it the mean over the rows of T^2 KL(teacher || student)?"
    draw = Draw()

    def kl(student: Tensor, teacher: Tensor, T: float) -> Tensor:
        log_p, log_q = (teacher / T).log_softmax(-1), (student / T).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    cases = {
        "two classes": (draw(4, 2), draw(4, 2), 3.0),
        "five classes": (draw(3, 5), draw(3, 5), 4.0),
        "T below 1": (draw(6, 3), draw(6, 3), 0.5),
    }
    mistakes: dict[str, Function] = {
        "your loss lacks the factor T^2": lambda s, t, T: kl(s, t, T).mean(),
        "your loss has T where T^2 belongs": lambda s, t, T: T * kl(s, t, T).mean(),
        "your loss is KL(student || teacher); the teacher's probabilities are the weights": lambda s, t, T: (
            T**2 * kl(t, s, T).mean()
        ),
        "your loss is divided by the number of classes too, as with reduction='mean'": lambda s, t, T: (
            T**2 * kl(s, t, T).mean() / s.shape[1]
        ),
        "your loss is the sum over the rows; take the mean": lambda s, t, T: T**2 * kl(s, t, T).sum(),
        "your loss divides only the teacher's logits by T": lambda s, t, T: T**2 * kl(s * T, t, T).mean(),
        "your loss divides only the student's logits by T": lambda s, t, T: T**2 * kl(s, t * T, T).mean(),
        "your loss is the cross-entropy with the teacher's probabilities; subtract their entropy": lambda s, t, T: (
            -(T**2) * ((t / T).softmax(-1) * (s / T).log_softmax(-1)).sum(-1).mean()
        ),
    }
    return check(learner, cases, lambda s, t, T: T**2 * kl(s, t, T).mean(), mistakes)


@exercise
def check_soft_gradient(
    learner: Function,  # learner(student (classes,), teacher (classes,), T) -> (classes,)
) -> Verdict:
    "Is it T (q - p), the gradient of T^2 KL(p || q) by the student's logits?"
    draw = Draw()
    agrees = draw(4)
    cases = {
        "T = 1": (draw(3), draw(3), 1.0),
        "T = 4": (draw(5), draw(5), 4.0),
        "a student that agrees": (agrees, agrees, 2.0),
    }

    def difference(s: Tensor, t: Tensor, T: float) -> Tensor:
        return (s / T).softmax(-1) - (t / T).softmax(-1)

    mistakes: dict[str, Function] = {
        "your gradient has the wrong sign": lambda s, t, T: -T * difference(s, t, T),
        "your gradient lacks the factor T: T^2 times the 1/T of the logits": difference,
        "your gradient has T^2; the logits are divided by T, so one T is left": lambda s, t, T: (
            T**2 * difference(s, t, T)
        ),
        "your gradient is 1/T of the difference, as without T^2": lambda s, t, T: difference(s, t, T) / T,
        "your probabilities are those at T = 1": lambda s, t, T: T * difference(s * T, t * T, T),
    }
    return check(learner, cases, lambda s, t, T: T * difference(s, t, T), mistakes, without=AUTOGRAD)


@exercise
def check_mixed_loss(
    learner: Function,  # learner(hard (rows,), soft (rows,), labels (rows,), alpha) -> a number
) -> Verdict:
    "Does a row with a label count alpha hard + (1 - alpha) soft, and one without (-100) its soft part whole?"
    draw = Draw()
    labels = torch.tensor([1, -100, 0, -100, -100])[draw.order(5)]
    hard, soft = draw(5).abs(), draw(5).abs()
    cases = {
        "two labels among five rows": (hard, soft, labels, 0.3),
        "labels everywhere": (hard, soft, labels.clamp(min=0), 0.7),
        "no label": (hard, soft, torch.full((5,), -100), 0.3),
        "alpha = 1": (hard, soft, labels, 1.0),
    }

    def mixed(hard: Tensor, soft: Tensor, labels: Tensor, alpha: float) -> Tensor:
        return torch.where(labels == -100, soft, alpha * hard + (1 - alpha) * soft).mean()

    mistakes: dict[str, Function] = {
        "your loss counts the hard part of rows that have no label": lambda h, s, y, a: (a * h + (1 - a) * s).mean(),
        "your loss gives rows without a label (1 - alpha) of their soft part; it is all they have": lambda h, s, y, a: (
            torch.where(y == -100, 0.0, a * h) + (1 - a) * s
        ).mean(),
        "your loss leaves rows without a label out": lambda h, s, y, a: (
            (mixed(h, s, y, a) * len(y) - s[y == -100].sum()) / len(y)
        ),
        "your alpha weighs the soft part; it is that of the hard one": lambda h, s, y, a: mixed(h, s, y, 1 - a),
        "your loss is a sum; take the mean over all rows": lambda h, s, y, a: mixed(h, s, y, a) * len(y),
    }
    return check(learner, cases, mixed, mistakes)


@exercise
def check_teacher_layers(
    learner: Function,  # learner(student_layers, teacher_layers) -> (student_layers,) whole numbers
) -> Verdict:
    "Are the teacher's layers evenly spread, and does the last learn from the last?"
    draw = Draw()
    m, times = draw.whole(2, 200), draw.whole(2, 50_000)
    cases = {"two of six": (2, 6), "three of six": (3, 6), "as many as there are": (6, 6), "many": (m, times * m)}

    def spread(ours: int, theirs: int) -> Tensor:
        return torch.tensor([(i + 1) * theirs // ours - 1 for i in range(ours)])

    mistakes: dict[str, Function] = {
        "your layers are one too high: they are counted from 0": lambda m, n: spread(m, n) + 1,
        "your layers are the first ones": lambda m, n: torch.arange(m),
        "your layers are the last ones": lambda m, n: torch.arange(n - m, n),
        "your last layer does not learn from the teacher's last": lambda m, n: torch.arange(m) * n // m,
    }
    return check(learner, cases, spread, mistakes)


@exercise
def check_rater_shares(
    learner: Function,  # learner(ratings (raters,)) -> (2,): share of negative, share of positive
) -> Verdict:
    "Is it the share of raters below and above zero, a zero counting half for each?"
    draw = Draw()
    cases = {
        "all agree": (draw(3).abs() + 0.1,),
        "two sides": (torch.cat([-draw(draw.whole(4, 30)).abs(), draw(3).abs()]) * 4,),
        "with zeros": (torch.cat([torch.zeros(2), draw(3).abs(), -draw(1).abs()])[draw.order(6)],),
    }

    def shares(ratings: Tensor) -> Tensor:
        positive = ((ratings > 0).float() + 0.5 * (ratings == 0).float()).mean()
        return torch.stack([1 - positive, positive])

    mistakes: dict[str, Function] = {
        "your shares are in the order positive, negative": lambda r: shares(r).flip(0),
        "your shares count a zero as positive": lambda r: torch.stack(
            [(r < 0).float().mean(), (r >= 0).float().mean()]
        ),
        "your shares count a zero as negative": lambda r: torch.stack(
            [(r <= 0).float().mean(), (r > 0).float().mean()]
        ),
        "your shares do not sum to one: a zero counts half for each side": lambda r: torch.stack(
            [(r < 0).float().mean(), (r > 0).float().mean()]
        ),
        "your answer is the number of raters, not their share": lambda r: shares(r) * len(r),
    }
    return check(learner, cases, shares, mistakes)


@exercise
def check_token_loss(
    learner: Function,  # learner(kl (texts, tokens), mask (texts, tokens)) -> a number
) -> Verdict:
    "Is it the mean over all real tokens, and over nothing else?"
    draw = Draw()
    lengths = torch.tensor([5, 2, 3])[draw.order(3)]
    mask = (torch.arange(6) < lengths[:, None]).long()
    cases = {
        "three texts of unlike length": (draw(3, 6).abs(), mask),
        "no padding": (draw(2, 4).abs(), torch.ones(2, 4, dtype=torch.long)),
        "padding full of nonsense": (draw(3, 6).abs() + 1e4 * (1 - mask), mask),
    }
    mistakes: dict[str, Function] = {
        "your mean is over padding too": lambda kl, mask: kl.mean(),
        "your mean divides by all places, padding too": lambda kl, mask: (kl * mask).sum() / kl.numel(),
        "your answer is a sum; divide by the number of real tokens": lambda kl, mask: (kl * mask).sum(),
        "your answer is the mean of the texts' means: a token of a short text counts more": lambda kl, mask: (
            (kl * mask).sum(1) / mask.sum(1)
        ).mean(),
        "your sum is divided by the number of texts, so that long texts count more": lambda kl, mask: (
            (kl * mask).sum() / len(kl)
        ),
    }
    return check(learner, cases, lambda kl, mask: (kl * mask).sum() / mask.sum(), mistakes)


__all__ = [
    "check_soft_loss",
    "check_soft_gradient",
    "check_mixed_loss",
    "check_teacher_layers",
    "check_rater_shares",
    "check_token_loss",
]
