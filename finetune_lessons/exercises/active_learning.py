"""Checks of lesson 43, active learning."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from finetune_lessons.exercises.cases import telling
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(43)


def entropy(p: Tensor) -> Tensor:
    "In nats, over the last dimension; 0 log 0 is 0."
    return -torch.xlogy(p, p).sum(-1)


# 1. margins


def margins(p: Tensor) -> Tensor:
    "Minus the difference of the two largest probabilities: the larger, the sooner a text is asked for."
    first, second = p.topk(2, dim=-1).values.unbind(-1)
    return second - first


@exercise
def check_margins(learner: Function) -> Verdict:
    draw = Draw()
    mistakes = {
        "your sign is turned round; the text with the smallest margin is to have the largest score": lambda p: (
            -margins(p)
        ),
        "that is minus the largest probability; the second one counts too": lambda p: -p.amax(-1),
        "that is one minus the largest probability; the second one counts too": lambda p: 1 - p.amax(-1),
        "that is one minus the margin; return minus the margin": lambda p: 1 + margins(p),
        "you take the smallest probability off the largest; take the second largest": lambda p: (
            p.amin(-1) - p.amax(-1)
        ),
        "you take the first two classes; take the two that are most probable": lambda p: p[:, 1] - p[:, 0],
        "you take the first two classes, without sign; take the two that are most probable": lambda p: (
            -(p[:, 0] - p[:, 1]).abs()
        ),
        "you divide the two; take their difference": lambda p: -p.amax(-1) / p.topk(2, dim=-1).values[:, 1],
        "that is the entropy": entropy,
        "your answer is the mean over the texts; each has its score": lambda p: margins(p).mean().expand(len(p)),
    }

    def texts(rows: int, classes: int) -> tuple[Tensor]:
        return (draw(rows, classes, size=1.2).softmax(-1),)

    cases = {
        "four classes": telling(lambda: texts(5, 4), margins, mistakes.values()),
        "two classes": texts(6, 2),
        "one text": texts(1, 5),
    }
    return check(learner, cases, margins, mistakes, tolerance=1e-5)


# 2. BALD


def bald(p: Tensor) -> Tensor:
    "The entropy of the mean over the passes, minus the mean of their entropies: (texts,)."
    return entropy(p.mean(0)) - entropy(p).mean(0)


@exercise
def check_bald(learner: Function) -> Verdict:
    draw = Draw()

    def passes(n: int, texts: int, classes: int) -> tuple[Tensor]:
        return (draw(n, texts, classes, size=1.5).softmax(-1),)

    def certain(n: int, texts: int, classes: int) -> tuple[Tensor]:
        "In some of whose passes a class has all of the probability."
        p = passes(n, texts, classes)[0]
        p[0] = torch.eye(classes)[draw.wholes(0, classes - 1, texts)]
        return (p,)

    def naive(p: Tensor) -> Tensor:
        return -(p.mean(0) * p.mean(0).log()).sum(-1) + (p * p.log()).sum(-1).mean(0)

    mistakes = {
        "your answer is in bits; take the natural logarithm": lambda p: bald(p) / torch.tensor(2.0).log(),
        "that is the entropy of the mean; take off the mean entropy of the passes": lambda p: entropy(p.mean(0)),
        "that is the mean entropy of the passes; it is to be taken off the entropy of their mean": lambda p: (
            entropy(p).mean(0)
        ),
        "you have the two entropies the wrong way round": lambda p: -bald(p),
        "you add the two entropies": lambda p: entropy(p.mean(0)) + entropy(p).mean(0),
        "you take the sum of the passes' entropies off; take their mean": lambda p: (
            entropy(p.mean(0)) - entropy(p).sum(0)
        ),
        "that is the spread of the probabilities over the passes": lambda p: p.std(0, correction=0).mean(-1),
        "that is the variance of the probabilities over the passes": lambda p: p.var(0, correction=0).mean(-1),
        "you divide by the number of classes; an entropy is a sum over them": lambda p: bald(p) / p.shape[-1],
        "your p log p is nan where p is 0; it counts 0": naive,
    }
    cases = {
        "four passes": telling(lambda: passes(4, 3, 3), bald, list(mistakes.values())[:-1]),
        "many passes": passes(12, 2, 4),
        "passes that agree": (passes(1, 4, 3)[0].expand(5, -1, -1).clone(),),
        "a pass that is certain": certain(5, 4, 2),
    }
    return check(learner, cases, bald, mistakes, tolerance=1e-4)


# 3. k-centre


def distances(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).double().square().sum(-1).sqrt()


def k_centre(x: Tensor, labelled: Tensor, n: int) -> Tensor:
    "n texts in the order in which they are taken: each the farthest from its nearest labelled or taken one."
    return greedy(x, labelled, n)[0]


def greedy(x: Tensor, labelled: Tensor, n: int) -> tuple[Tensor, float]:
    "The texts, and by how much the closest decision was decided."
    nearest, taken, clear = distances(x, x[labelled]).amin(1), [], float("inf")
    for _ in range(n):
        first, second = nearest.topk(2).values.tolist()
        taken.append(int(nearest.argmax()))
        clear = min(clear, first - second)
        nearest = nearest.minimum(distances(x, x[taken[-1:]]).squeeze(1))
    return torch.tensor(taken), clear


@exercise
def check_k_centre(learner: Function) -> Verdict:
    draw = Draw()

    def texts(rows: int, known: int, n: int) -> tuple[Tensor, Tensor, int]:
        "Of which no two are so nearly as far that rounding decides."
        while True:
            case = draw(rows, 3) + draw(1, 3), draw.order(rows)[:known], n
            if greedy(*case)[1] > 0.05:
                return case

    def by(score: Function) -> Function:
        "Greedily the text with the largest score, of the distances to those that are labelled or taken."

        def choose(x: Tensor, labelled: Tensor, n: int) -> Tensor:
            known = labelled.tolist()
            for _ in range(n):
                found = score(distances(x, x[known])).clone()
                found[known] = -float("inf")
                known.append(int(found.argmax()))
            return torch.tensor(known[len(labelled) :])

        return choose

    def at_once(x: Tensor, labelled: Tensor, n: int) -> Tensor:
        return distances(x, x[labelled]).amin(1).topk(n).indices

    def from_taken_alone(x: Tensor, labelled: Tensor, n: int) -> Tensor:
        first = k_centre(x, labelled, 1)
        return torch.cat([first, k_centre(x, first, n - 1)])

    def cosine(x: Tensor, labelled: Tensor, n: int) -> Tensor:
        return k_centre(torch.nn.functional.normalize(x, dim=-1), labelled, n)

    mistakes = {
        "you do not look again after each text; the next is far from those that are taken too": at_once,
        "you take the nearest text; take the farthest": by(lambda d: -d.amin(1)),
        "you take the text with the largest mean distance; the nearest labelled one counts": by(lambda d: d.mean(1)),
        "you take the text farthest from any labelled one; the nearest labelled one counts": by(lambda d: d.amax(1)),
        "you forget the labelled texts after the first; they count to the end": from_taken_alone,
        "you forget the labelled texts; they count from the beginning": lambda x, known, n: (
            k_centre(x, torch.tensor([0]), n)
        ),
        "you compare directions; take the distance of the vectors": cosine,
        "your texts are sorted; return them in the order in which they are taken": lambda x, known, n: (
            k_centre(x, known, n).sort().values
        ),
        "those are places among the texts without a label; return places in x": lambda x, known, n: (
            torch.tensor([int(i - (known < i).sum()) for i in k_centre(x, known, n)])
        ),
    }
    cases = {
        "twenty texts": telling(lambda: texts(20, 3, 4), k_centre, mistakes.values(), apart=0.001),
        "one labelled text": texts(12, 1, 3),
        "one to choose": texts(draw.whole(9, 14), 4, 1),
    }
    return check(learner, cases, k_centre, mistakes)


# 4. BADGE's embedding


def badge(p: Tensor, h: Tensor) -> Tensor:
    "(texts, classes * width): each text's gradient by autograd, of the last layer's weights, its guess as the label."
    rows = []
    for chances, vector in zip(p, h, strict=True):
        weights = torch.zeros(len(chances), len(vector), requires_grad=True)  # the logits are log p as they stand
        cross_entropy(chances.log() + weights @ vector, chances.argmax()).backward()
        assert weights.grad is not None
        rows.append(weights.grad.flatten())
    return torch.stack(rows)


@exercise
def check_badge(learner: Function) -> Verdict:
    draw = Draw()

    def outer(factors: Tensor, h: Tensor) -> Tensor:
        return torch.einsum("nc,nw->ncw", factors, h).flatten(1)

    def guess(p: Tensor, place: Tensor | None = None) -> Tensor:
        return one_hot(p.argmax(-1) if place is None else place, p.shape[-1])

    mistakes = {
        "your sign is turned round; it is p minus the guess": lambda p, h: -badge(p, h),
        "your factors are p; take the guess off": lambda p, h: outer(p, h),
        "your factors are the guess alone": lambda p, h: outer(guess(p), h),
        "your guess is the least probable class": lambda p, h: outer(p - guess(p, p.argmin(-1)), h),
        "your guess is the first class for every text": lambda p, h: outer(p - guess(p, torch.zeros(len(p)).long()), h),
        "your rows run over the width first; each class has a block of its own": lambda p, h: (
            badge(p, h).reshape(len(p), p.shape[1], h.shape[1]).transpose(1, 2).flatten(1)
        ),
        "your rows are divided by the number of texts; each is the gradient of its own loss": lambda p, h: (
            badge(p, h) / len(p)
        ),
        "your factors are p (1 - p); it is p minus the guess": lambda p, h: outer(p * (1 - p), h),
        "your rows are brought to length one": lambda p, h: torch.nn.functional.normalize(badge(p, h), dim=-1),
    }

    def texts(rows: int, classes: int, width: int) -> tuple[Tensor, Tensor]:
        return draw(rows, classes, size=1.2).softmax(-1), draw(rows, width)

    cases = {
        "three classes": telling(lambda: texts(5, 3, 4), badge, mistakes.values()),
        "two classes": texts(3, 2, 6),
        "one text": texts(1, 5, 3),
    }
    return check(learner, cases, badge, mistakes, tolerance=1e-5)


# 5. the area under a curve


def area(labels: Tensor, scores: Tensor) -> Tensor:
    "By trapezes over the number of labels, divided by its range."
    return torch.trapezoid(scores, labels.float()) / (labels[-1] - labels[0])


@exercise
def check_area(learner: Function) -> Verdict:
    draw = Draw()

    def curve(steps: int, even: bool = False) -> tuple[Tensor, Tensor]:
        "A curve that climbs, and falls at times; its steps get larger unless they are even."
        sizes = draw.wholes(10, 40, 1).expand(steps) if even else draw.wholes(5, 20, steps) * 2 ** torch.arange(steps)
        scores = 0.5 + 0.4 * torch.linspace(0, 1, steps).sqrt() + draw(steps, size=0.03)
        return sizes.cumsum(0) + draw.whole(5, 60), scores

    def widths(labels: Tensor) -> Tensor:
        return labels.diff().float()

    mistakes = {
        "that is the mean of the points; they are not evenly apart": lambda n, s: s.mean(),
        "your steps count alike; a step counts by its number of labels": lambda n, s: (s[1:] + s[:-1]).mean() / 2,
        "you do not divide by the range of the labels": lambda n, s: torch.trapezoid(s, n.float()),
        "you divide by the last number of labels; divide by the last minus the first": lambda n, s: (
            torch.trapezoid(s, n.float()) / n[-1]
        ),
        "you take the left end of each step; take the mean of both ends": lambda n, s: (
            (widths(n) * s[:-1]).sum() / widths(n).sum()
        ),
        "you take the right end of each step; take the mean of both ends": lambda n, s: (
            (widths(n) * s[1:]).sum() / widths(n).sum()
        ),
        "you take the logarithm of the labels; take the labels": lambda n, s: area(n.float().log(), s),
        "you add both ends and do not halve": lambda n, s: 2 * area(n, s),
        "you divide by the number of steps; divide by the range of the labels": lambda n, s: (
            torch.trapezoid(s, n.float()) / (len(n) - 1)
        ),
        "your area begins at the first score; it begins at 0": lambda n, s: area(n, s - s[0]),
    }
    cases = {
        "six points": telling(lambda: curve(6), area, mistakes.values()),
        "two points": curve(2),
        "even steps": curve(5, even=True),
    }
    return check(learner, cases, area, mistakes, tolerance=1e-5)


# 6. how many labels


def labels_needed(labels: Tensor, accuracy: Tensor, share: float) -> float:
    "The least number of labels, on lines between the points, at which share * the last accuracy is reached."
    return reached(labels, accuracy, share * float(accuracy[-1]))


def reached(labels: Tensor, accuracy: Tensor, goal: float) -> float:
    "nan where it is not."
    n, a = labels.tolist(), accuracy.tolist()
    if a[0] >= goal:
        return n[0]
    for i in range(1, len(n)):
        if a[i] >= goal:
            return n[i - 1] + (goal - a[i - 1]) / (a[i] - a[i - 1]) * (n[i] - n[i - 1])
    return float("nan")


@exercise
def check_labels_needed(learner: Function) -> Verdict:
    draw = Draw()

    def curve(steps: int) -> tuple[Tensor, Tensor, float]:
        "Its best is before its end and above the share itself, and it falls below the goal once more."
        n = (draw.wholes(5, 20, steps) * 2 ** torch.arange(steps)).cumsum(0)
        climb = 0.45 + 0.4 * torch.linspace(0, 1, steps)
        share = draw.number(0.81, 0.84)
        climb[-4:] = torch.tensor([share + draw.number(0.05, 0.09), 0.58, 0.82, 0.8])
        return n, climb + draw(steps, size=0.01), share

    def at_once() -> tuple[Tensor, Tensor, float]:
        n, accuracy, _ = curve(6)
        return n, accuracy, draw.number(0.35, 0.48)

    def point(labels: Tensor, accuracy: Tensor, share: float, back: int = 0) -> Tensor:
        return labels[(accuracy >= share * accuracy[-1]).long().argmax() - back]

    def last_time(labels: Tensor, accuracy: Tensor, share: float) -> float:
        goal = share * float(accuracy[-1])
        below = int((accuracy < goal).nonzero()[-1]) if (accuracy < goal).any() else 0
        return reached(labels[below:], accuracy[below:], goal)

    def of_gain(labels: Tensor, accuracy: Tensor, share: float) -> float:
        first, last = float(accuracy[0]), float(accuracy[-1])
        return reached(labels, accuracy, first + share * (last - first))

    def on_a_log_axis(labels: Tensor, accuracy: Tensor, share: float) -> Tensor:
        return torch.tensor(labels_needed(labels.double().log(), accuracy, share)).exp()

    mistakes = {
        "that is the first point at or above the goal; go along the line to where it is reached": point,
        "that is the last point below the goal; go along the line to where it is reached": lambda n, a, s: (
            point(n, a, s, back=1)
        ),
        "that is where the curve reaches the goal for the last time; take the first": last_time,
        "your goal is a share of the best accuracy; it is one of the last": lambda n, a, s: (
            reached(n, a, s * float(a.max()))
        ),
        "your goal is the share itself; it is the share of the last accuracy": lambda n, a, s: reached(n, a, s),
        "your goal is a share of the gain; it is one of the last accuracy": of_gain,
        "that is a share of the labels; ask the curve": lambda n, a, s: s * n[-1],
        "your line is straight over the logarithm of the labels; take the labels": on_a_log_axis,
        "that is a part of the labels; return their number": lambda n, a, s: labels_needed(n, a, s) / n[-1],
        "you go half of the step; go as far as the goal is": lambda n, a, s: (
            (point(n, a, s) + point(n, a, s, back=1)) / 2
        ),
    }
    cases = {
        "a curve that falls at times": telling(lambda: curve(8), labels_needed, mistakes.values()),
        "many points": curve(draw.whole(9, 11)),
        "reached at the first point": at_once(),
    }
    return check(learner, cases, labels_needed, mistakes, tolerance=1e-4)


__all__ = [
    "check_margins",
    "check_bald",
    "check_k_centre",
    "check_badge",
    "check_area",
    "check_labels_needed",
]
