"""Checks of lesson 51, ensembles and merging."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from finetune_lessons.exercises.cases import telling
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check
from finetune_lessons.exercises.semi_supervised import averaged

exercise = Exercises(51)


# 1. the mean probability, in log space


def log_mean(logits: Tensor) -> Tensor:
    "The logarithm of the members' mean probability."
    return logits.log_softmax(-1).logsumexp(0) - torch.tensor(len(logits)).log()


@exercise
def check_log_mean(learner: Function) -> Verdict:
    draw = Draw()
    mistakes = {
        "that is the mean of the logarithms; take the logarithm of the mean": lambda f: f.log_softmax(-1).mean(0),
        "that is the geometric mean; it is the probabilities whose mean is asked": lambda f: f.mean(0).log_softmax(-1),
        "your members are summed; divide by their number": lambda f: f.log_softmax(-1).logsumexp(0),
        "that is the mean probability; return its logarithm": lambda f: f.softmax(-1).mean(0),
        "you take the softmax over the members; it is over the classes": lambda f: (
            f.log_softmax(0).logsumexp(0) - torch.tensor(len(f)).log()
        ),
        "you leave the softmax out: logits are no log-probabilities": lambda f: (
            f.logsumexp(0) - torch.tensor(len(f)).log()
        ),
        "your probabilities underflow to 0; stay in log space": lambda f: f.softmax(-1).mean(0).log(),
        "your mean is over the rows; it is over the members": lambda f: (
            f.log_softmax(-1).logsumexp(1) - torch.tensor(f.shape[1]).log()
        ),
    }
    told = {sentence: mistake for sentence, mistake in mistakes.items() if "underflow" not in sentence}

    def case(members: int, classes: int) -> tuple:
        return telling(lambda: (draw(members, members, classes, size=2.0),), log_mean, told.values())

    sure = draw(3, 4, 3) + 300 * one_hot(draw.wholes(0, 1, 4), 3)
    cases = {"two members": case(2, 2), "five members": case(5, 3), "members that are very sure": (sure,)}
    return check(learner, cases, log_mean, mistakes, tolerance=1e-5)


# 2. votes


def voted(logits: Tensor) -> Tensor:
    "The class with most votes; of several the one with the largest mean probability."
    votes = one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
    return (votes + 0.5 * logits.softmax(-1).mean(0)).argmax(-1)


@exercise
def check_vote(learner: Function) -> Verdict:
    draw = Draw()

    def counted(f: Tensor) -> Tensor:
        return one_hot(f.argmax(-1), f.shape[-1]).sum(0)

    mistakes = {
        "of tied classes you take the first; take the one with the larger mean probability": lambda f: counted(
            f
        ).argmax(-1),
        "that is the largest mean probability, whatever the votes": lambda f: f.softmax(-1).mean(0).argmax(-1),
        "that is what the mean of the logits says": lambda f: f.mean(0).argmax(-1),
        "of tied classes you take the last": lambda f: f.shape[-1] - 1 - counted(f).flip(-1).argmax(-1),
        "that is the class with fewest votes": lambda f: (counted(f) - 0.5 * f.softmax(-1).mean(0)).argmin(-1),
        "of tied classes you take the less probable one": lambda f: (counted(f) - 0.5 * f.softmax(-1).mean(0)).argmax(
            -1
        ),
        "that is the first member's answer": lambda f: f[0].argmax(-1),
        "of tied classes you take the one of the surest member; take the mean": lambda f: (
            counted(f) + 0.5 * f.softmax(-1).amax(0)
        ).argmax(-1),
    }

    def case(members: int, classes: int, rows: int) -> tuple:
        return telling(lambda: (draw(members, rows, classes, size=2.0),), voted, mistakes.values())

    cases = {"four members": case(4, 3, 60), "two members": (draw(2, 40, 4),), "five classes": case(6, 5, 60)}
    return check(learner, cases, voted, mistakes)


# 3. what an average gains


def gain(logits: Tensor, labels: Tensor) -> Tensor:
    "The mean of the members' cross-entropies minus that of their mean probability."
    losses = torch.stack([cross_entropy(f, labels) for f in logits])
    return losses.mean() - cross_entropy(log_mean(logits), labels)


@exercise
def check_gain(learner: Function) -> Verdict:
    draw = Draw()

    def of_average(average: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([cross_entropy(f, labels) for f in logits]).mean() - cross_entropy(average, labels)

    mistakes = {
        "you have it the wrong way round: the average's loss is the smaller one": lambda f, y: -gain(f, y),
        "you average the logits; average the probabilities": lambda f, y: of_average(f.mean(0), f, y),
        "that is the loss of the average; subtract it from the members'": lambda f, y: cross_entropy(log_mean(f), y),
        "that is the members' mean loss; the average's is to be subtracted": lambda f, y: (
            gain(f, y) + cross_entropy(log_mean(f), y)
        ),
        "you give probabilities to a cross-entropy that takes logits": lambda f, y: of_average(
            f.softmax(-1).mean(0), f, y
        ),
        "you subtract from the best member's loss; it is the mean of all": lambda f, y: (
            min(cross_entropy(one, y) for one in f) - cross_entropy(log_mean(f), y)
        ),
        "you sum the members' losses; take their mean": lambda f, y: (
            sum(cross_entropy(one, y) for one in f) - cross_entropy(log_mean(f), y)
        ),
        "that is a sum over the rows; take the mean": lambda f, y: gain(f, y) * len(y),
    }

    def case(members: int, rows: int, classes: int) -> tuple:
        def texts() -> tuple[Tensor, Tensor]:
            return draw(members, rows, classes, size=2.0), draw.wholes(0, classes - 1, rows)

        return telling(texts, gain, mistakes.values())

    cases = {"two members": case(2, 6, 2), "five members": case(5, 7, 3)}
    return check(learner, cases, gain, mistakes, tolerance=1e-5)


# 4. the moving average


@exercise
def check_ema(learner: Function) -> Verdict:
    draw = Draw()

    def from_zero(weights: Tensor, decay: float) -> Tensor:
        return averaged(torch.cat([torch.zeros_like(weights[:1]), weights]), decay)

    mistakes = {
        "your average begins at 0; it begins with the first row": from_zero,
        "you have decay and 1 - decay the wrong way round": lambda w, d: averaged(w, 1 - d),
        "that is the plain mean": lambda w, d: w.mean(0),
        "those are the last weights": lambda w, d: w[-1],
        "your average begins with the second row, as that of torch does after its first update": lambda w, d: averaged(
            w[1:], d
        ),
        "you leave the last row out": lambda w, d: averaged(w[:-1], d),
        "you divide by 1 - decay^steps, as Adam does; that is for what begins at 0": lambda w, d: (
            averaged(w, d) / (1 - d ** (len(w) - 1))
        ),
        "you go through the rows from the last to the first": lambda w, d: averaged(w.flip(0), d),
        "your average is of decay times the rows alone; the new row counts 1 - decay": lambda w, d: sum(
            d ** (len(w) - i) * row for i, row in enumerate(w, 1)
        ),
    }

    def case(steps: int, width: int, low: float, high: float) -> tuple:
        return telling(lambda: (draw(steps, width), draw.number(low, high)), averaged, mistakes.values())

    cases = {"a few steps": case(5, 3, 0.6, 0.8), "a slow average": case(8, 4, 0.85, 0.93)}
    return check(learner, cases, averaged, mistakes, tolerance=1e-5, unchanged={"weights": 0})


# 5. TIES


def ties(vectors: Tensor, keep: int) -> Tensor:
    "Trim each to its largest entries, elect the sign of the sum, take the mean of those that agree and are not 0."
    return _elected(_trimmed(vectors, keep))


def _trimmed(vectors: Tensor, keep: int, largest: bool = True) -> Tensor:
    places = vectors.abs().topk(keep, dim=1, largest=largest).indices
    return torch.zeros_like(vectors).scatter(1, places, vectors.gather(1, places))


def _elected(vectors: Tensor, sign: Tensor | None = None, zeros_count: bool = False, mean: bool = True) -> Tensor:
    sign = vectors.sum(0).sign() if sign is None else sign
    agrees = (vectors.sign() == sign) & (vectors != 0)
    count = len(vectors) if zeros_count else agrees.sum(0).clamp(min=1)
    return (vectors * agrees).sum(0) / (count if mean else 1)


@exercise
def check_ties(learner: Function) -> Verdict:
    draw = Draw()
    mistakes = {
        "you do not trim": lambda v, k: _elected(v),
        "you keep the smallest entries; keep the largest": lambda v, k: _elected(_trimmed(v, k, largest=False)),
        "you elect the sign by the number of vectors; it is that of their sum": lambda v, k: _elected(
            _trimmed(v, k), sign=_trimmed(v, k).sign().sum(0).sign()
        ),
        "you elect the sign before you trim": lambda v, k: _elected(_trimmed(v, k), sign=v.sum(0).sign()),
        "you divide by the number of vectors; divide by how many agree": lambda v, k: _elected(
            _trimmed(v, k), zeros_count=True
        ),
        "you sum those that agree; take their mean": lambda v, k: _elected(_trimmed(v, k), mean=False),
        "that is the mean of all entries that are not 0, whatever their sign": lambda v, k: (
            _trimmed(v, k).sum(0) / (_trimmed(v, k) != 0).sum(0).clamp(min=1)
        ),
        "you trim all vectors together; each keeps its own largest": lambda v, k: _elected(
            _trimmed(v.reshape(1, -1), k * len(v)).view_as(v)
        ),
        "that is the mean of those that disagree": lambda v, k: _elected(
            _trimmed(v, k), sign=-_trimmed(v, k).sum(0).sign()
        ),
        "you trim by the value; it is the size that counts": lambda v, k: _elected(
            torch.zeros_like(v).scatter(1, v.topk(k, 1).indices, v.gather(1, v.topk(k, 1).indices))
        ),
    }

    def case(count: int, width: int, keep: int) -> tuple:
        return telling(lambda: (draw(count, width), keep), ties, mistakes.values())

    cases = {"three vectors": case(3, 12, 6), "five vectors": case(5, 16, 7), "all kept": (draw(2, 6), 6)}
    return check(learner, cases, ties, mistakes, tolerance=1e-5)


# 6. a greedy soup


def greedy(members: Tensor, goal: Tensor) -> Tensor:
    "Members from the best on, each kept if the mean is no further from the goal with it."
    order = _far(members, goal).argsort().tolist()
    chosen = [order[0]]
    for i in order[1:]:
        if _far(members[[*chosen, i]].mean(0), goal) <= _far(members[chosen].mean(0), goal):
            chosen.append(i)
    return members[chosen].mean(0)


def _far(w: Tensor, goal: Tensor) -> Tensor:
    return (w - goal).square().sum(-1)


def _greedy(members: Tensor, goal: Tensor, order: Tensor, against_best: bool = False, pairs: bool = False) -> Tensor:
    "With a mistake."
    soup, count = members[order[0]], 1
    for i in order[1:]:
        new = (soup + members[i]) / 2 if pairs else (soup * count + members[i]) / (count + 1)
        if _far(new, goal) <= _far(members[order[0]] if against_best else soup, goal):
            soup, count = new, count + 1
    return soup


@exercise
def check_greedy(learner: Function) -> Verdict:
    draw = Draw()

    def best_first(members: Tensor, goal: Tensor) -> Tensor:
        return _far(members, goal).argsort()

    mistakes = {
        "that is the mean of all members": lambda m, g: m.mean(0),
        "that is the best member alone": lambda m, g: m[_far(m, g).argmin()],
        "you take the members as they come; begin with the best": lambda m, g: _greedy(m, g, torch.arange(len(m))),
        "you begin with the worst": lambda m, g: _greedy(m, g, best_first(m, g).flip(0)),
        "you compare with the best member; compare with the soup so far": lambda m, g: _greedy(
            m, g, best_first(m, g), against_best=True
        ),
        "you take the mean of the soup and the new member; every member counts alike": lambda m, g: _greedy(
            m, g, best_first(m, g), pairs=True
        ),
        "you stop at the first member that does not help; go on with the next": _stopping,
    }

    def case(count: int, width: int) -> tuple:
        def texts() -> tuple[Tensor, Tensor]:
            goal = draw(width, size=1.0)
            return goal + draw(count, width, size=1.0), goal

        return telling(texts, greedy, mistakes.values())

    cases = {"six members": case(6, 3), "eight members": case(8, 4), "one member": (draw(1, 3), draw(3))}
    return check(learner, cases, greedy, mistakes, tolerance=1e-5)


def _stopping(members: Tensor, goal: Tensor) -> Tensor:
    order = _far(members, goal).argsort().tolist()
    chosen = [order[0]]
    for i in order[1:]:
        if _far(members[[*chosen, i]].mean(0), goal) > _far(members[chosen].mean(0), goal):
            break
        chosen.append(i)
    return members[chosen].mean(0)


__all__ = ["check_log_mean", "check_vote", "check_gain", "check_ema", "check_ties", "check_greedy"]
