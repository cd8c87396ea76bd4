"""Checks of lesson 42, imbalance."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises.cases import telling
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(42)

CROSS_ENTROPIES = ("cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss_nd")


def surprise(logits: Tensor, labels: Tensor) -> Tensor:
    "The cross-entropy of each text."
    return cross_entropy(logits, labels, reduction="none")


def thinned(draw: Draw, counts: list[int]) -> Tensor:
    "So many labels of each class, shuffled."
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[draw.order(sum(counts))]


# 1. class weights


def class_weights(labels: Tensor, classes: int) -> Tensor:
    "n / (classes * n_c)."
    return len(labels) / (classes * labels.bincount(minlength=classes))


@exercise
def check_class_weights(learner: Function) -> Verdict:
    draw = Draw()

    def texts(classes: int, rare: int) -> tuple[Tensor, int]:
        "The first class is neither the most frequent nor the rarest, where there are three."
        counts = [draw.whole(rare + 3, 2 * rare + 2) for _ in range(classes)]
        counts[classes - 1], counts[classes - 2] = draw.whole(1, rare), draw.whole(4 * rare, 6 * rare)
        return thinned(draw, counts), classes

    cases = {"two classes": texts(2, 6), "three classes": texts(3, 5), "five classes": texts(5, 4)}
    mistakes = {
        "those are the shares of the classes; a rare class weighs more": lambda y, k: y.bincount() / len(y),
        "your weights are 1 / number of texts of the class; n / classes is missing": lambda y, k: 1 / y.bincount(),
        "your weights are not divided by the number of classes": lambda y, k: len(y) / y.bincount(),
        "your weights sum to one; it is the mean over the texts that is one": lambda y, k: (
            class_weights(y, k) / class_weights(y, k).sum()
        ),
        "you divide the largest class by each": lambda y, k: y.bincount().max() / y.bincount(),
        "you divide each class by the rarest; a rare class weighs more": lambda y, k: y.bincount() / y.bincount().min(),
        "your weights are sorted; they stand in the order of the classes": lambda y, k: (
            class_weights(y, k).sort().values
        ),
        "your weights are turned upside down; a rare class weighs more": lambda y, k: 1 / class_weights(y, k),
    }
    return check(learner, cases, class_weights, mistakes, tolerance=1e-5)


# 2. the weighted mean


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    "The sum of weight * cross-entropy over the sum of these texts' weights."
    w = weights[labels]
    return (w * surprise(logits, labels)).sum() / w.sum()


@exercise
def check_weighted_loss(learner: Function) -> Verdict:
    draw = Draw()

    def weights(classes: int) -> Tensor:
        return torch.tensor([draw.number(0.2, 0.5), draw.number(3, 6), *(draw.number(0.6, 2) for _ in range(classes))])

    mistakes = {
        "you divide by the number of texts; divide by the sum of their weights": lambda z, y, w: (
            (w[y] * surprise(z, y)).mean()
        ),
        "you divide by the sum of the classes' weights; divide by that of the texts": lambda z, y, w: (
            (w[y] * surprise(z, y)).sum() / w.sum()
        ),
        "that is a sum; divide by the sum of the weights": lambda z, y, w: (w[y] * surprise(z, y)).sum(),
        "your weights change nothing": lambda z, y, w: surprise(z, y).mean(),
        "you weigh by the class that is guessed; it is the label's weight": lambda z, y, w: (
            (w[z.argmax(-1)] * surprise(z, y)).sum() / w[z.argmax(-1)].sum()
        ),
        "you multiply the logits; the weight is a factor of the loss": lambda z, y, w: surprise(z * w, y).mean(),
        "you divide by the weights; multiply": lambda z, y, w: weighted_loss(z, y, 1 / w),
        "your mean is that of the classes; every text has the weight of its class": lambda z, y, w: (
            torch.stack([w[c] * surprise(z, y)[y == c].mean() for c in y.unique()]).sum() / w[y.unique()].sum()
        ),
    }

    def case(classes: int, counts: list[int]) -> tuple:
        def texts() -> tuple[Tensor, Tensor, Tensor]:
            return draw(sum(counts), classes, size=1.5), thinned(draw, counts), weights(classes - 2)

        return telling(texts, weighted_loss, mistakes.values())

    cases = {
        "two classes": case(2, [7, 2]),
        "four classes": case(4, [6, 2, 3, 1]),
        "a class of which there is no text": case(3, [5, 3, 0]),
    }
    one = draw(4, 2), torch.full((4,), 1), weights(0)
    return check(
        learner,
        cases | {"a batch of one class": one},
        weighted_loss,
        mistakes,
        tolerance=1e-5,
        without=CROSS_ENTROPIES,
    )


# 3. focal


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    "The mean of (1 - p)^gamma * -log p, with p that of the label."
    p = (-surprise(logits, labels)).exp()
    return ((1 - p) ** gamma * surprise(logits, labels)).mean()


@exercise
def check_focal_loss(learner: Function) -> Verdict:
    draw = Draw()

    def chance(logits: Tensor, labels: Tensor) -> Tensor:
        return (-surprise(logits, labels)).exp()

    def per_weight(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
        return focal_loss(logits, labels, gamma) / ((1 - chance(logits, labels)) ** gamma).mean()

    mistakes = {
        "your factor is p^gamma; it is what is easy that counts less": lambda z, y, g: (
            (chance(z, y) ** g * surprise(z, y)).mean()
        ),
        "that is the plain cross-entropy; the factor is missing": lambda z, y, g: surprise(z, y).mean(),
        "you multiply 1 - p by gamma; gamma is its exponent": lambda z, y, g: (
            ((1 - chance(z, y)) * g * surprise(z, y)).mean()
        ),
        "your factor takes the largest p; it is that of the label": lambda z, y, g: (
            ((1 - z.softmax(-1).amax(-1)) ** g * surprise(z, y)).mean()
        ),
        "that is a sum over the texts, not their mean": lambda z, y, g: focal_loss(z, y, g) * len(z),
        "you divide by the sum of the factors; divide by the number of texts": per_weight,
        "your gamma is left out, as if it were 1": lambda z, y, g: focal_loss(z, y, 1.0),
        "the factor is there, but not -log p": lambda z, y, g: ((1 - chance(z, y)) ** g).mean(),
        "your exponent is over the loss of the text too": lambda z, y, g: (
            ((1 - chance(z, y)) * surprise(z, y)) ** g
        ).mean(),
        "your factor is made of the mean p; each text has its own": lambda z, y, g: (
            (1 - chance(z, y).mean()) ** g * surprise(z, y).mean()
        ),
    }

    def case(rows: int, classes: int, low: float, high: float) -> tuple:
        def texts() -> tuple[Tensor, Tensor, float]:
            return draw(rows, classes, size=1.5), draw.wholes(0, classes - 1, rows), draw.number(low, high)

        return telling(texts, focal_loss, mistakes.values())

    cases = {
        "two classes": case(7, 2, 1.6, 2.5),
        "a small gamma": case(6, 3, 0.3, 0.7),
        "five classes": case(9, 5, 2.5, 3.5),
        "gamma 0": (draw(5, 3), draw.wholes(0, 2, 5), 0.0),
    }
    return check(learner, cases, focal_loss, mistakes, tolerance=1e-5)


# 4. logit adjustment


def adjusted_loss(logits: Tensor, labels: Tensor, prior: Tensor, tau: float) -> Tensor:
    "The mean cross-entropy of logits + tau log prior."
    return cross_entropy(logits + tau * prior.log(), labels)


@exercise
def check_adjusted_loss(learner: Function) -> Verdict:
    draw = Draw()

    def prior(classes: int) -> Tensor:
        rare = torch.tensor([draw.number(0.02, 0.3) for _ in range(classes - 1)]) / (classes - 1)
        return torch.cat([1 - rare.sum().unsqueeze(0), rare])[draw.order(classes)]

    mistakes = {
        "you subtract the logarithm; in the loss it is added": lambda z, y, q, t: adjusted_loss(z, y, q, -t),
        "you add the prior itself; add its logarithm": lambda z, y, q, t: cross_entropy(z + t * q, y),
        "your tau is left out": lambda z, y, q, t: adjusted_loss(z, y, q, 1.0),
        "your tau multiplies the logits too": lambda z, y, q, t: cross_entropy(t * (z + q.log()), y),
        "that is the plain cross-entropy; the prior is missing": lambda z, y, q, t: cross_entropy(z, y),
        "you add it behind the softmax, where it is a constant without gradient": lambda z, y, q, t: (
            cross_entropy(z, y) - t * q[y].log().mean()
        ),
        "you multiply the loss by the prior": lambda z, y, q, t: (q[y] ** t * surprise(z, y)).mean(),
        "that is a sum over the texts, not their mean": lambda z, y, q, t: adjusted_loss(z, y, q, t) * len(z),
        "you add it to the label's logit alone; add it to those of all classes": lambda z, y, q, t: cross_entropy(
            z + t * q.log() * torch.eye(len(q))[y], y
        ),
    }

    def case(rows: int, classes: int, low: float, high: float) -> tuple:
        def texts() -> tuple[Tensor, Tensor, Tensor, float]:
            labels = draw.wholes(0, classes - 1, rows)
            return draw(rows, classes, size=1.5), labels, prior(classes), draw.number(low, high)

        return telling(texts, adjusted_loss, mistakes.values())

    cases = {
        "two classes": case(6, 2, 0.3, 0.7),
        "tau above one": case(7, 3, 1.4, 2.0),
        "five classes": case(8, 5, 0.4, 0.8),
    }
    return check(learner, cases, adjusted_loss, mistakes, tolerance=1e-5)


# 5. the threshold


def cheapest(probability: Tensor, labels: Tensor, cost_fp: float, cost_fn: float, above: bool = False) -> Tensor:
    "That of the given probabilities with the least cost; a text is positive from it on (or above it)."
    costs = _costs(probability, labels, cost_fp, cost_fn, above)
    return probability[costs.argmin()]


def _costs(probability: Tensor, labels: Tensor, cost_fp: float, cost_fn: float, above: bool = False) -> Tensor:
    "Of each of the probabilities as the threshold."
    limit = probability.unsqueeze(1)
    positive = probability > limit if above else probability >= limit
    return (positive & (labels == 0)).sum(1) * cost_fp + (~positive & (labels == 1)).sum(1) * cost_fn


@exercise
def check_threshold(learner: Function) -> Verdict:
    draw = Draw()

    def of_cost(found: Function) -> Function:
        return lambda p, y, fp, fn: found(_costs(p, y, fp, fn))

    mistakes = {
        "you have the two costs the wrong way round": lambda p, y, fp, fn: cheapest(p, y, fn, fp),
        "you count both kinds of error alike": lambda p, y, fp, fn: cheapest(p, y, 1.0, 1.0),
        "you call a text positive above the threshold only; one on it is positive too": lambda p, y, fp, fn: (
            cheapest(p, y, fp, fn, above=True)
        ),
        "that is the cost; return the threshold": of_cost(torch.min),
        "that is the cost of a text; return the threshold": lambda p, y, fp, fn: _costs(p, y, fp, fn).min() / len(p),
        "that is a place in the list; return the probability there": of_cost(torch.argmin),
        "that is where the cost is largest": lambda p, y, fp, fn: p[_costs(p, y, fp, fn).argmax()],
        "that is the rule for true probabilities; ask these texts": lambda p, y, fp, fn: torch.tensor(fp / (fp + fn)),
        "that is 0.5, whatever the costs": lambda p, y, fp, fn: torch.tensor(0.5),
        "that is the smallest probability of a positive": lambda p, y, fp, fn: p[y == 1].min(),
    }

    def texts(rows: int, fp: tuple[float, float], fn: tuple[float, float]) -> tuple[Tensor, Tensor, float, float]:
        "Of which one threshold is the cheapest for certain."
        while True:
            p = (draw.order(997)[:rows] + 1) / 1000
            y = (p + draw(rows, size=0.5) > 0.6).long()
            costs = draw.number(*fp), draw.number(*fn)
            best, second = _costs(p, y, *costs).sort().values[:2].tolist()
            if 0 < y.sum() < rows and second - best > 0.05:
                return p, y, *costs

    cases = {
        "what is missed costs more": telling(
            lambda: texts(40, (0.8, 1.3), (2.2, 4.0)), cheapest, mistakes.values(), apart=0.0004
        ),
        "a false alarm costs more": texts(14, (2.5, 4.0), (0.7, 1.2)),
        "few texts": texts(9, (0.8, 1.3), (1.5, 2.5)),
    }
    return check(learner, cases, cheapest, mistakes, tolerance=1e-5)


# 6. the prior, put right


def undone(p: Tensor, trained: float, real: float) -> Tensor:
    "The probability whose log-odds are shifted by the real prior's minus the trained one's."
    t, r = torch.tensor([trained, real]).logit()
    return (p.logit() - t + r).sigmoid()


@exercise
def check_undone(learner: Function) -> Verdict:
    draw = Draw()

    def texts(rows: int, trained: tuple[float, float], real: tuple[float, float]) -> tuple[Tensor, float, float]:
        p = [draw.number(0.05, 0.3), draw.number(0.6, 0.95), *(draw.number(0.1, 0.9) for _ in range(rows))]
        return torch.tensor(p), draw.number(*trained), draw.number(*real)

    def odds(p: Tensor, t: float, r: float) -> Tensor:
        return p / (1 - p) * (1 - t) / t * r / (1 - r)

    mistakes = {
        "you have the two priors the wrong way round": lambda p, t, r: undone(p, r, t),
        "your two sides do not sum to one: divide by both": lambda p, t, r: p * r / t,
        "you shift the probability; shift its log-odds": lambda p, t, r: p + r - t,
        "you shift by the real prior alone; the trained one is taken out as well": lambda p, t, r: undone(p, 0.5, r),
        "you take the trained prior out, and do not put the real one in": lambda p, t, r: undone(p, t, 0.5),
        "you change the positive side alone; the negatives' prior has changed too": lambda p, t, r: (
            p * r / t / (p * r / t + 1 - p)
        ),
        "those are the odds; bring them back to a probability": odds,
        "those are the log-odds; bring them back to a probability": lambda p, t, r: odds(p, t, r).log(),
        "you shift by the logarithms of the priors; take their log-odds": lambda p, t, r: (
            (p.log() - torch.tensor(t).log() + torch.tensor(r).log()).sigmoid()
        ),
        "your probabilities have not changed": lambda p, t, r: p,
    }

    def case(rows: int, trained: tuple[float, float], real: tuple[float, float]) -> tuple:
        return telling(lambda: texts(rows, trained, real), undone, mistakes.values())

    cases = {
        "trained on too many": case(4, (0.3, 0.45), (0.1, 0.2)),
        "trained on half and half": texts(3, (0.5, 0.5), (0.03, 0.1)),
        "trained on too few": case(2, (0.1, 0.2), (0.3, 0.4)),
    }
    return check(learner, cases, undone, mistakes, tolerance=1e-5)


__all__ = [
    "check_class_weights",
    "check_weighted_loss",
    "check_focal_loss",
    "check_adjusted_loss",
    "check_threshold",
    "check_undone",
]
