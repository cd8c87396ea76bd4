"""Checks of lesson 36, rules and hybrid losses."""

import math

import torch
from torch import Tensor

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(36)


# 1. the score


def compound(values: Tensor, exclamations: int) -> float:
    "VADER's score from the values of the words and the number of exclamation marks, of which four count."
    total, marks = float(values.sum()), 0.292 * min(exclamations, 4)
    total += math.copysign(marks, total)
    return total / math.sqrt(total**2 + 15)


@exercise
def check_compound(learner: Function) -> Verdict:
    draw = Draw()

    def words(n: int, sign: int) -> Tensor:
        values = torch.tensor([draw.number(0.6, 1.9) * sign for _ in range(n)])
        values[-1] = -sign * draw.number(0.1, 0.4)
        return values

    cases = {
        "praise that shouts": (words(3, 1), draw.whole(1, 3)),
        "blame that shouts": (words(4, -1), draw.whole(1, 3)),
        "many marks": (words(5, -1), draw.whole(6, 9)),
        "no marks": (words(2, 1), 0),
    }

    def score(total: float) -> float:
        return total / math.sqrt(total**2 + 15)

    mistakes = {
        "you add the marks to blame too; they push it further down": lambda v, n: score(
            float(v.sum()) + 0.292 * min(n, 4)
        ),
        "your marks count beyond the fourth": lambda v, n: score(
            float(v.sum()) + math.copysign(0.292 * n, float(v.sum()))
        ),
        "you leave the marks out": lambda v, n: score(float(v.sum())),
        "that is the sum; it is not yet brought between -1 and 1": lambda v, n: (
            float(v.sum()) + math.copysign(0.292 * min(n, 4), float(v.sum()))
        ),
        "you divide by the root of the squares of all words; it is the square of the sum": lambda v, n: (
            float(v.sum()) + math.copysign(0.292 * min(n, 4), float(v.sum()))
        ) / math.sqrt(float((v**2).sum()) + 15),
        "you average the words; their values are added": lambda v, n: compound(v / len(v), n),
    }
    return check(learner, cases, compound, mistakes)


# 2. the majority


def majority(votes: Tensor, classes: int) -> Tensor:
    "The class with most votes, (texts,); -1 where there is none, or a tie."
    counts = torch.stack([(votes == y).sum(1) for y in range(classes)], 1)
    most = counts.amax(1, keepdim=True)
    return counts.argmax(1).masked_fill((counts == most).sum(1) > 1, -1)


@exercise
def check_majority(learner: Function) -> Verdict:
    draw = Draw()
    sharp = torch.tensor(
        [[2, 2, 1, -1, -1], [-1, -1, -1, -1, 0], [-1] * 5, [0, 1, -1, -1, -1], [1, 1, 2, 2, -1], [2, 2, 1, 0, -1]]
    )

    def votes(texts: int, classes: int) -> tuple[Tensor, int]:
        return torch.cat([draw.wholes(-1, classes - 1, texts, 5), sharp[:, draw.order(5)]]), max(classes, 3)

    cases = {"three classes": votes(12, 3), "four classes": votes(20, 4)}

    def first_of_a_tie(votes: Tensor, classes: int) -> Tensor:
        counts = torch.stack([(votes == y).sum(1) for y in range(classes)], 1)
        return counts.argmax(1).masked_fill(counts.sum(1) == 0, -1)

    def silence_counts(votes: Tensor, classes: int) -> Tensor:
        return majority(votes + 1, classes + 1).clamp(min=0) - 1

    def of_all_rules(votes: Tensor, classes: int) -> Tensor:
        counts = torch.stack([(votes == y).sum(1) for y in range(classes)], 1)
        return counts.argmax(1).masked_fill(counts.amax(1) * 2 <= votes.shape[1], -1)

    mistakes = {
        "you break a tie: where two classes have as many votes, nothing is said": first_of_a_tie,
        "you let rules that abstain vote: -1 is no class": silence_counts,
        "you give class 0 to texts without a vote": lambda votes, classes: majority(votes, classes).masked_fill(
            (votes < 0).all(1), 0
        ),
        "you ask for more than half of all rules; most of the votes are enough": of_all_rules,
        "your majority is the mean of the votes": lambda votes, classes: votes.float().mean(1).round(),
    }
    return check(learner, cases, majority, mistakes, unchanged={"votes": 0})


# 3. how good a rule is


def coverage_and_precision(votes: Tensor, labels: Tensor) -> Tensor:
    "(2,): the share of texts on which a rule votes, and of these votes the share that are right."
    voted = votes >= 0
    return torch.stack([voted.double().mean(), (votes == labels)[voted].double().mean()])


@exercise
def check_coverage_and_precision(learner: Function) -> Verdict:
    draw = Draw()

    def rule(texts: int, silent: int, wrong: int) -> tuple[Tensor, Tensor]:
        labels = draw.wholes(0, 1, texts)
        votes, order = labels.clone(), draw.order(texts)
        votes[order[:silent]] = -1
        flipped = order[silent : silent + wrong]
        votes[flipped] = 1 - votes[flipped]
        return votes, labels

    cases = {
        "a rule for few texts": rule(29, draw.whole(19, 21), 2),
        "a rule for most": rule(41, draw.whole(5, 7), draw.whole(10, 12)),
        "a rule for all": rule(23, 0, draw.whole(5, 9)),
    }
    mistakes = {
        "your precision counts texts without a vote as wrong": lambda v, y: torch.stack(
            [(v >= 0).double().mean(), (v == y).double().mean()]
        ),
        "your precision counts texts without a vote as right": lambda v, y: torch.stack(
            [(v >= 0).double().mean(), ((v == y) | (v < 0)).double().mean()]
        ),
        "that is precision and coverage, in this order": lambda v, y: coverage_and_precision(v, y).flip(0),
        "your coverage is the share on which it abstains": lambda v, y: torch.stack(
            [(v < 0).double().mean(), coverage_and_precision(v, y)[1]]
        ),
        "your coverage counts votes for class 1 only": lambda v, y: torch.stack(
            [(v > 0).double().mean(), coverage_and_precision(v, y)[1]]
        ),
        "that is the share of the votes that are wrong": lambda v, y: torch.stack(
            [(v >= 0).double().mean(), 1 - coverage_and_precision(v, y)[1]]
        ),
    }
    return check(learner, cases, coverage_and_precision, mistakes)


# 4. what independent votes say


def posterior(votes: Tensor, right: Tensor, share: float) -> Tensor:
    "P(class 1 | votes), (texts,), of rules that are right with these probabilities, whichever the class."
    one = torch.where(votes == 1, right, 1 - right).masked_fill(votes < 0, 1.0).prod(1) * share
    zero = torch.where(votes == 0, right, 1 - right).masked_fill(votes < 0, 1.0).prod(1) * (1 - share)
    return one / (one + zero)


@exercise
def check_posterior(learner: Function) -> Verdict:
    draw = Draw()

    def texts(rules: int) -> tuple[Tensor, Tensor, float]:
        votes = torch.cat([draw.wholes(-1, 1, 8, rules), torch.tensor([[1, 0, -1], [1, 1, 0]]).repeat(1, rules // 3)])
        votes[:, 0] = draw.wholes(0, 1, len(votes))
        votes[0, 1:] = -1
        return votes, torch.tensor([draw.number(0.6, 0.9) for _ in range(rules)]), draw.number(0.2, 0.4)

    cases = {"three rules": texts(3), "six rules": texts(6)}

    def odds(votes: Tensor, right: Tensor, share: float) -> Tensor:
        p = posterior(votes, right, share)
        return p / (1 - p)

    def unscaled(votes: Tensor, right: Tensor, share: float) -> Tensor:
        return torch.where(votes == 1, right, 1 - right).masked_fill(votes < 0, 1.0).prod(1) * share

    def averaged(votes: Tensor, right: Tensor, share: float) -> Tensor:
        p = torch.where(votes == 1, right, 1 - right)
        return (p * (votes >= 0)).sum(1) / (votes >= 0).sum(1)

    mistakes = {
        "you leave out how frequent the classes are": lambda v, a, share: posterior(v, a, 0.5),
        "you take a rule that abstains for one that votes 0": lambda v, a, share: posterior(v.clamp(min=0), a, share),
        "your probabilities are not divided by their sum over both classes": unscaled,
        "those are odds; a probability is odds / (1 + odds)": odds,
        "you average the probabilities; independent ones are multiplied": averaged,
        "that is the probability of class 0": lambda v, a, share: 1 - posterior(v, a, share),
        "every vote counts the same with you; a rule that is right more often counts more": lambda v, a, share: (
            posterior(v, torch.full_like(a, float(a.mean())), share)
        ),
    }
    return check(learner, cases, posterior, mistakes, unchanged={"votes": 0})


# 5. the teacher that a rule makes


def teacher(p: Tensor, r: Tensor, weight: float, strength: float) -> Tensor:
    "(texts, classes): q proportional to p exp(-C lambda (1 - r))."
    q = p * (-strength * weight * (1 - r)).exp()
    return q / q.sum(1, keepdim=True)


@exercise
def check_teacher(learner: Function) -> Verdict:
    draw = Draw()

    def texts(n: int, classes: int) -> tuple[Tensor, Tensor, float, float]:
        r = torch.tensor([[draw.number(0.0, 1.0) for _ in range(classes)] for _ in range(n)])
        r[0], r[1] = 1.0, torch.eye(classes)[draw.whole(0, classes - 1)]
        return draw(n, classes, size=1.0).softmax(1), r, draw.number(0.4, 0.8), draw.number(1.5, 3.0)

    cases = {"two classes": texts(5, 2), "four classes": texts(6, 4)}
    mistakes = {
        "you reward what breaks the rule: the sign is the other way round": lambda p, r, w, c: teacher(p, r, w, -c),
        "your q does not sum to one": lambda p, r, w, c: p * (-c * w * (1 - r)).exp(),
        "you divide by the sum over the texts; each text has a distribution of its own": lambda p, r, w, c: (
            p * (-c * w * (1 - r)).exp()
        ) / (p * (-c * w * (1 - r)).exp()).sum(0),
        "your q forgets the model: p is missing": lambda p, r, w, c: teacher(torch.ones_like(p), r, w, c),
        "your q forgets what the rule counts, lambda": lambda p, r, w, c: teacher(p, r, 1.0, c),
        "your q forgets the strength C": lambda p, r, w, c: teacher(p, r, w, 1.0),
        "you multiply p by r; an exponential is missing": lambda p, r, w, c: (p * r) / (p * r).sum(1, keepdim=True),
        "you add p to the exponent; its logarithm belongs there": lambda p, r, w, c: (p - c * w * (1 - r)).softmax(1),
    }
    return check(learner, cases, teacher, mistakes, unchanged={"p": 0})


# 6. exactly one


def exactly_one(p: Tensor) -> Tensor:
    "(texts,): -log of the probability that exactly one of the independent classes holds."
    worlds = [p[:, i] * torch.cat([1 - p[:, :i], 1 - p[:, i + 1 :]], 1).prod(1) for i in range(p.shape[1])]
    return -torch.stack(worlds).sum(0).log()


@exercise
def check_exactly_one(learner: Function) -> Verdict:
    draw = Draw()

    def texts(n: int, classes: int) -> tuple[Tensor]:
        return (torch.tensor([[draw.number(0.15, 0.85) for _ in range(classes)] for _ in range(n)]),)

    cases = {"three classes": texts(4, 3), "five classes": texts(3, 5), "two classes": texts(2, 2)}

    def none(p: Tensor) -> Tensor:
        return (1 - p).prod(1)

    mistakes = {
        "that is the probability; its negative logarithm is missing": lambda p: (-exactly_one(p)).exp(),
        "the sign is missing": lambda p: -exactly_one(p),
        "you allow several: that is at least one": lambda p: -(1 - none(p)).log(),
        "you allow none: that is at most one": lambda p: -((-exactly_one(p)).exp() + none(p)).log(),
        "you forget that the others must not hold": lambda p: -p.sum(1).log(),
        "you multiply over the worlds; they exclude each other, so their probabilities add": lambda p: (
            -torch.stack(
                [p[:, i] * torch.cat([1 - p[:, :i], 1 - p[:, i + 1 :]], 1).prod(1) for i in range(p.shape[1])]
            )
            .log()
            .sum(0)
        ),
        "you add up the logarithms of p; that asks for all of them": lambda p: -p.log().sum(1),
        "your sum has (1 - p) of the class itself too": lambda p: -(p * none(p).unsqueeze(1)).sum(1).log(),
        "your answer is the mean over the texts": lambda p: exactly_one(p).mean().expand(len(p)),
    }
    return check(learner, cases, exactly_one, mistakes)


__all__ = [
    "check_compound",
    "check_majority",
    "check_coverage_and_precision",
    "check_posterior",
    "check_teacher",
    "check_exactly_one",
]
