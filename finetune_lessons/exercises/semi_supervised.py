"""Checks of lesson 35, semi-supervised learning."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises.cases import telling
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(35)


def apart(draw: Draw, rows: int, classes: int, confidences: list[float]) -> Tensor:
    "Logits of such confidences: row i has the i-th of them, over and over, for a class drawn at random."
    p = torch.tensor([confidences[i % len(confidences)] for i in range(rows)])
    guess = draw.wholes(0, classes - 1, rows)
    rest = ((1 - p) / (classes - 1)).unsqueeze(1).expand(rows, classes).clone()
    return rest.scatter(1, guess.unsqueeze(1), p.unsqueeze(1)).log() + draw(rows, 1)  # a constant changes no softmax


# 1. sharpen


def sharper(p: Tensor, T: float) -> Tensor:
    "p^(1/T), made to sum to one in each row."
    powers = p ** (1 / T)
    return powers / powers.sum(-1, keepdim=True)


@exercise
def check_sharper(learner: Function) -> Verdict:
    draw = Draw()

    def texts(rows: int, classes: int) -> Tensor:
        return (draw(rows, classes, size=1.0)).softmax(-1)

    cases = {
        "two classes": (texts(4, 2), 0.4),
        "five classes": (texts(3, 5), draw.number(0.2, 0.35)),
        "one text": (texts(1, 3), draw.number(0.55, 0.7)),
    }
    mistakes = {
        "your exponent is T; below 1 that makes the guess less sure": lambda p, T: sharper(p, 1 / T),
        "your rows do not sum to one": lambda p, T: p ** (1 / T),
        "you divide the probabilities, not the logits, by T before the softmax": lambda p, T: (p / T).softmax(-1),
        "you divide by the sum over the texts; each row sums to one": lambda p, T: (
            p ** (1 / T) / (p ** (1 / T)).sum(0, keepdim=True)
        ),
    }
    return check(learner, cases, sharper, mistakes)


# 2. FixMatch


def fixmatch(strong: Tensor, weak: Tensor, threshold: float) -> Tensor:
    "The mean over all texts of 1[max p >= threshold] * cross-entropy of the guess."
    p, guess = weak.softmax(-1).max(-1)
    return (cross_entropy(strong, guess, reduction="none") * (p >= threshold)).mean()


@exercise
def check_fixmatch(learner: Function) -> Verdict:
    draw = Draw()
    sure = [draw.number(0.95, 0.99), draw.number(0.55, 0.65), draw.number(0.85, 0.9)]
    threshold = draw.number(0.7, 0.8)

    def views(rows: int, classes: int, sure: list[float]) -> tuple[Tensor, Tensor, float]:
        "Of which each is sure of other texts."
        turned = apart(draw, rows, classes, [*sure[1:], sure[0]]) + draw(rows, classes, size=0.2)
        return turned, apart(draw, rows, classes, sure), threshold

    def over_used(strong: Tensor, weak: Tensor, threshold: float) -> Tensor:
        return fixmatch(strong, weak, threshold) / (weak.softmax(-1).amax(-1) >= threshold).float().mean()

    def soft(strong: Tensor, weak: Tensor, threshold: float) -> Tensor:
        p = weak.softmax(-1)
        return (-(p * strong.log_softmax(-1)).sum(-1) * (p.amax(-1) >= threshold)).mean()

    def mask_of_strong(strong: Tensor, weak: Tensor, threshold: float) -> Tensor:
        used = strong.softmax(-1).amax(-1) >= threshold
        return (cross_entropy(strong, weak.argmax(-1), reduction="none") * used).mean()

    mistakes = {
        "you divide by the number of texts that are used; the mean is over all texts": over_used,
        "you use every guess; those below the threshold count 0": lambda s, w, t: fixmatch(s, w, 0.0),
        "you use the guesses below the threshold": lambda s, w, t: fixmatch(s, w, 0.0) - fixmatch(s, w, t),
        "you have the two views the wrong way round": lambda s, w, t: fixmatch(w, s, t),
        "your target is the probabilities; FixMatch takes the most probable class": soft,
        "you ask the strong view how sure it is; the weak one decides": mask_of_strong,
        "that is a sum over the texts, not their mean": lambda s, w, t: fixmatch(s, w, t) * len(s),
    }
    def case(rows: int, classes: int, sure: list[float]) -> tuple:
        return telling(lambda: views(rows, classes, sure), fixmatch, mistakes.values())

    cases = {
        "two classes": case(9, 2, sure),
        "five classes": case(12, 5, sure),
        "few texts": views(4, 3, sure[1:]),
    }
    return check(learner, cases, fixmatch, mistakes, tolerance=1e-5)


# 3. how many, how good


def share_and_accuracy(weak: Tensor, labels: Tensor, threshold: float) -> Tensor:
    "(2,): which share of the texts is used, and which share of these guesses is right."
    p, guess = weak.softmax(-1).max(-1)
    used = p >= threshold
    return torch.stack([used.float().mean(), (guess == labels)[used].float().mean()])


@exercise
def check_share_and_accuracy(learner: Function) -> Verdict:
    draw = Draw()
    sure, threshold = [draw.number(0.95, 0.99), draw.number(0.8, 0.9), draw.number(0.5, 0.6)], draw.number(0.65, 0.7)

    def texts(used_right: int, used_wrong: int, left_right: int, left_wrong: int) -> tuple[Tensor, Tensor, float]:
        used, left = used_right + used_wrong, left_right + left_wrong
        weak = torch.cat([apart(draw, used, 3, sure[:2]), apart(draw, left, 3, sure[2:])])
        right = torch.tensor([1] * used_right + [0] * used_wrong + [1] * left_right + [0] * left_wrong).bool()
        labels = torch.where(right, weak.argmax(-1), (weak.argmax(-1) + 1) % 3)
        order = draw.order(used + left)
        return weak[order], labels[order], threshold

    cases = {"twenty texts": texts(9, 4, 2, 5), "thirty texts": texts(7, 1, 9, 13), "few": texts(3, 2, 1, 4)}

    def of_all(weak: Tensor, labels: Tensor, threshold: float) -> Tensor:
        share, accuracy = share_and_accuracy(weak, labels, threshold)
        return torch.stack([share, share * accuracy])

    def every(weak: Tensor, labels: Tensor, threshold: float) -> Tensor:
        share = share_and_accuracy(weak, labels, threshold)[0]
        return torch.stack([share, (weak.argmax(-1) == labels).float().mean()])

    def left(weak: Tensor, labels: Tensor, threshold: float) -> Tensor:
        share, accuracy = share_and_accuracy(weak, labels, threshold)
        return torch.stack([1 - share, accuracy])

    mistakes = {
        "you divide the right ones by all texts; it is by those that are used": of_all,
        "your accuracy is that of all guesses, used or not": every,
        "your share is that of the texts that are left out": left,
        "the share comes first, then the accuracy": lambda w, y, t: share_and_accuracy(w, y, t).flip(0),
        "your second number is the share of the wrong ones": lambda w, y, t: torch.stack(
            [share_and_accuracy(w, y, t)[0], 1 - share_and_accuracy(w, y, t)[1]]
        ),
    }
    return check(learner, cases, share_and_accuracy, mistakes, tolerance=1e-5)


# 4. the teacher's weights


def averaged(weights: Tensor, decay: float) -> Tensor:
    "(parameters,): the moving average after the last of the steps, (steps, parameters); it begins as the first."
    average = weights[0]
    for w in weights[1:]:
        average = decay * average + (1 - decay) * w
    return average


@exercise
def check_averaged(learner: Function) -> Verdict:
    draw = Draw()
    cases = {
        "five steps": (draw(5, 3), 0.9),
        "two steps": (draw(2, 4), draw.number(0.6, 0.8)),
        "many steps": (draw(30, 2), draw.number(0.82, 0.88)),
    }

    def from_zero(weights: Tensor, decay: float) -> Tensor:
        return averaged(torch.cat([torch.zeros_like(weights[:1]), weights]), decay)

    mistakes = {
        "you have decay and 1 - decay the wrong way round": lambda w, d: averaged(w, 1 - d),
        "your average begins at zero; it begins as the first weights": from_zero,
        "that is the plain mean of all steps": lambda w, d: w.mean(0),
        "your average stops before the last step": lambda w, d: averaged(w[:-1], d),
        "you mix each step with the one before it, not with the average": lambda w, d: d * w[-2] + (1 - d) * w[-1],
    }
    return check(learner, cases, averaged, mistakes, tolerance=1e-5, unchanged={"weights": 0})


# 5. mixed targets


def mixed_targets(targets: Tensor, order: Tensor, share: float) -> Tensor:
    "l t + (1 - l) t[order] with l = max(share, 1 - share)."
    own = max(share, 1 - share)
    return own * targets + (1 - own) * targets[order]


@exercise
def check_mixed_targets(learner: Function) -> Verdict:
    draw = Draw()

    def texts(rows: int, classes: int, low: float, high: float) -> tuple[Tensor, Tensor, float]:
        order = torch.arange(rows).roll(draw.whole(2, rows - 2))  # no text with itself, and no turn that is its own
        return draw(rows, classes, size=1.0).softmax(-1), order, draw.number(low, high)

    cases = {
        "a share above one half": texts(7, 2, 0.7, 0.9),
        "a share below one half": texts(7, 3, 0.1, 0.3),
        "many texts": texts(11, 4, 0.15, 0.35),
    }

    def backwards(targets: Tensor, order: Tensor, share: float) -> Tensor:
        return mixed_targets(targets, order.argsort(), share)

    mistakes = {
        "the text itself has to be the larger part: l = max(share, 1 - share)": lambda t, o, s: s * t + (1 - s) * t[o],
        "your larger part is the other text": lambda t, o, s: min(s, 1 - s) * t + max(s, 1 - s) * t[o],
        "you mix half and half": lambda t, o, s: (t + t[o]) / 2,
        "your partners are those of the order turned round": backwards,
        "your targets are not mixed": lambda t, o, s: t,
    }
    return check(learner, cases, mixed_targets, mistakes, tolerance=1e-5)


# 6. labels that wait


def waiting_loss(p: Tensor, progress: float, classes: int) -> Tensor:
    "The mean over all rows of -log p, 0 for those whose p is above progress (1 - 1/K) + 1/K."
    limit = progress * (1 - 1 / classes) + 1 / classes
    return (-p.log() * (p <= limit)).mean()


@exercise
def check_waiting_loss(learner: Function) -> Verdict:
    draw = Draw()

    def rows(classes: int, progress: float) -> tuple[Tensor, float, int]:
        limit = progress * (1 - 1 / classes) + 1 / classes
        bounds = sorted([progress, limit, 1 / classes])
        low = [draw.number(0.02, bounds[0] - 0.01) for _ in range(3)]
        between = [draw.number(a + 0.01, b - 0.01) for a, b in zip(bounds, [*bounds[1:], 0.999], strict=True)]
        return torch.tensor([*low, *between])[draw.order(6)], progress, classes

    cases = {
        "two classes": rows(2, draw.number(0.2, 0.35)),
        "five classes": rows(5, draw.number(0.4, 0.6)),
        "four classes, late": rows(4, draw.number(0.7, 0.8)),
    }

    def over_counted(p: Tensor, progress: float, classes: int) -> Tensor:
        limit = progress * (1 - 1 / classes) + 1 / classes
        return -p[p <= limit].log().mean()

    mistakes = {
        "you divide by the number of labels that count; the mean is over all": over_counted,
        "your threshold begins at 0; a model that knows nothing gives 1 / K already": lambda p, t, K: (
            -p.log() * (p <= t)
        ).mean(),
        "you keep the labels above the threshold; those wait": lambda p, t, K: -p.log().mean() - waiting_loss(p, t, K),
        "all your labels count": lambda p, t, K: -p.log().mean(),
        "your threshold stays at 1 / K": lambda p, t, K: (-p.log() * (p <= 1 / K)).mean(),
        "that is a sum over the rows": lambda p, t, K: waiting_loss(p, t, K) * len(p),
    }
    return check(learner, cases, waiting_loss, mistakes, tolerance=1e-5)


__all__ = [
    "check_sharper",
    "check_fixmatch",
    "check_share_and_accuracy",
    "check_averaged",
    "check_mixed_targets",
    "check_waiting_loss",
]
