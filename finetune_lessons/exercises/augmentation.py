"""Checks of lesson 41, augmentation."""

from collections.abc import Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises.cases import telling
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, call, check, name_of

exercise = Exercises(41)

WORDS = """a film that knows its end and never hurries to it while the music waits behind each door for somebody
who has not yet come home""".split()
Swaps = list[tuple[int, int]]


def check_words(
    learner: Function, cases: Mapping[str, tuple], solution: Function, mistakes: Mapping[str, Function]
) -> Verdict:
    "As check does, for answers that are lists of words; the first argument, a list too, is to stay as it is."
    answers, afterwards = [], []

    @wraps(learner)
    def noting(*given: Any) -> float:
        answers.append(learner(*given))
        afterwards.append(given[0])
        return 0.0

    noting.__name__ = name_of(learner)
    ran = check(noting, cases, lambda *given: 0.0, {})
    if not ran:
        return ran
    for (about, arguments), got, words in zip(cases.items(), answers, afterwards, strict=True):
        if problem := _of_words(got, arguments, solution, mistakes) or _changed(words, arguments[0]):
            return Verdict(False, f"Not yet: with {about}, {problem}")
    return ran


def _of_words(got: Any, arguments: tuple, solution: Function, mistakes: Mapping[str, Function]) -> str:
    if got is None:
        return "your function returned None: is there a `return`?"
    if not isinstance(got, list | tuple):
        return f"your function returned a {type(got).__name__}; expected a list of words"
    expected, answer = call(solution, arguments), list(got)
    if answer == expected:
        return ""
    for sentence, mistaken in mistakes.items():
        if answer == call(mistaken, arguments):
            return f"{sentence}: {answer}, expected {expected}"
    return f"the answer is {answer}, expected {expected}"


def _changed(now: list[str], then: list[str]) -> str:
    return "" if now == then else f"your function changes `words` itself: {now}, expected {then}; work on a copy"


def some_words(draw: Draw, n: int) -> list[str]:
    return [WORDS[i] for i in draw.order(len(WORDS))[:n]]


# 1. deletion


def deletion(words: list[str], draws: Tensor, share: float) -> list[str]:
    "The words whose draw is above the share, or the one with the largest draw."
    return [w for w, d in zip(words, draws, strict=True) if d > share] or [words[draws.argmax()]]


@exercise
def check_deletion(learner: Function) -> Verdict:
    draw = Draw()

    def between(low: float, high: float, n: int) -> Tensor:
        "No two alike."
        return low + (high - low) * (draw.order(999)[:n] + 0.5) / 999

    def text(stay: int, go: int) -> tuple[list[str], Tensor, float]:
        share = draw.number(0.3, 0.6)
        draws = torch.cat([between(share, 1, stay), between(0, share, go)])
        return some_words(draw, stay + go), draws[draw.order(stay + go)], share

    def inner(n: int) -> tuple[list[str], Tensor, float]:
        "Neither the largest nor the smallest draw is the first or the last."
        words, draws, share = text(0, n)
        draws = draws.sort().values
        middle = draw.order(n - 2) + 1
        draws[[0, *middle.tolist(), n - 1]] = draws[[1, 0, *range(3, n), 2]].clone()
        return words, draws, share

    def twice(n: int) -> tuple[list[str], Tensor, float]:
        words, draws, share = text(n, 2)
        first, second = (draws > share).nonzero().flatten()[[0, -1]].tolist()
        words[second] = words[first]
        return words, draws, share

    cases = {
        "nine words": text(5, 4),
        "no word above the share": inner(draw.whole(5, 8)),
        "a word that comes twice": twice(draw.whole(4, 6)),
    }

    def or_else(other: Function) -> Function:
        return lambda words, draws, share: deletion(words, draws, share) if max(draws) > share else other(words, draws)

    mistakes = {
        "your text is empty; keep the word with the largest draw": or_else(lambda words, draws: []),
        "you keep the whole text; only the word with the largest draw stays": or_else(lambda words, draws: words),
        "you keep the words with the small draws; a word stays if its draw is above the share": lambda w, d, s: (
            deletion(w, -d, -s)
        ),
        "you keep the first word; it is the one with the largest draw": or_else(lambda words, draws: words[:1]),
        "you keep the last word; it is the one with the largest draw": or_else(lambda words, draws: words[-1:]),
        "you keep the word with the smallest draw; it is the one with the largest": or_else(
            lambda words, draws: [words[draws.argmin()]]
        ),
        "you lose a word that comes twice": lambda w, d, s: list(dict.fromkeys(deletion(w, d, s))),
    }
    return check_words(learner, cases, deletion, mistakes)


# 2. swaps


def swaps(words: list[str], pairs: Swaps, share: float) -> list[str]:
    "With max(1, floor(share * words)) swaps, one after another."
    return swapped(words, pairs, max(1, int(share * len(words))))


def swapped(words: list[str], pairs: Swaps, n: int) -> list[str]:
    words = list(words)
    for i, j in pairs[:n]:
        words[i], words[j] = words[j], words[i]
    return words


@exercise
def check_swaps(learner: Function) -> Verdict:
    draw = Draw()

    def text(words: int, low: float, high: float) -> tuple[list[str], Swaps, float]:
        "With that many swaps, not yet rounded. The second pair moves a word of the first once more."
        places = draw.order(words).tolist()
        chain = list(zip(places, places[1:], strict=False))
        return some_words(draw, words), [*chain[:2], *chain[3:7], chain[2]], draw.number(low / words, high / words)

    cases = {
        "ten words": text(10, 3.6, 3.9),
        "a short text": text(draw.whole(4, 5), 0.2, 0.8),
        "many words": text(draw.whole(18, 22), 3.1, 3.4),
    }

    def all_at_once(words: list[str], pairs: Swaps, share: float) -> list[str]:
        new = list(words)
        for i, j in pairs[: max(1, int(share * len(words)))]:
            new[i], new[j] = words[j], words[i]
        return new

    def one_way(words: list[str], pairs: Swaps, share: float) -> list[str]:
        new = list(words)
        for i, j in pairs[: max(1, int(share * len(words)))]:
            new[i] = new[j]
        return new

    def other_way(words: list[str], pairs: Swaps, share: float) -> list[str]:
        return one_way(words, [(j, i) for i, j in pairs], share)

    mistakes = {
        "you swap at every pair; only the first n count": lambda w, p, s: swapped(w, p, len(p)),
        "you round the number of swaps; cut off what is behind the point": lambda w, p, s: (
            swapped(w, p, max(1, round(s * len(w))))
        ),
        "you swap nothing in a short text; there is at least one swap": lambda w, p, s: swapped(w, p, int(s * len(w))),
        "your later swaps look at the text as it was; each works on what the one before it left": all_at_once,
        "you overwrite a word before you have moved it": one_way,
        "you overwrite a word before you have moved it; both of a pair stay in the text": other_way,
        "you make one swap, whatever the share": lambda w, p, s: swapped(w, p, 1),
    }
    return check_words(learner, cases, swaps, mistakes)


# 3. mixed


def mix(values: Tensor, order: Tensor, share: float) -> Tensor:
    return share * values + (1 - share) * values[order]


def turned(order: Tensor) -> Tensor:
    "The order that undoes it."
    return order.argsort()


def one_of_two(learner: Function, place: int) -> Function:
    "The first (0) or the second (1) of the two tensors that it returns."

    @wraps(learner)
    def one(*given: Any) -> Any:
        answers = learner(*given)
        if answers is not None and (not isinstance(answers, tuple | list) or len(answers) != 2):
            raise TypeError(f"it returns a {type(answers).__name__}; expected two tensors: `return inputs, targets`")
        return answers and answers[place]

    one.__name__ = name_of(learner)
    return one


def mixing_mistakes(name: str, place: int) -> dict[str, Function]:
    "Of the arguments x, y, order, share: those of mixing the one at that place."

    def of(mistaken: Function) -> Function:
        return lambda *given: mistaken(given[place], given[2], given[3])

    return {
        f"your {name} take the larger of share and 1 - share; take the share as it was drawn": of(
            lambda v, o, s: mix(v, o, max(s, 1 - s))
        ),
        f"your {name} have share and 1 - share the wrong way round": of(lambda v, o, s: mix(v, o, 1 - s)),
        f"your {name} are not mixed": of(lambda v, o, s: v),
        f"your {name} are mixed half and half, whatever the share": of(lambda v, o, s: mix(v, o, 0.5)),
        f"your {name} have the order turned round; row i's partner is row order[i]": of(
            lambda v, o, s: mix(v, turned(o), s)
        ),
        f"your {name} are those of the partners alone": of(lambda v, o, s: v[o]),
        f"your {name} are added and not weighted": of(lambda v, o, s: v + v[o]),
    }


@exercise
def check_mixed(learner: Function) -> Verdict:
    draw = Draw()

    def texts(rows: int, width: int, classes: int, share: float) -> tuple[Tensor, Tensor, Tensor, float]:
        labels = torch.cat([torch.arange(classes), draw.wholes(0, classes - 1, rows - classes)])[draw.order(rows)]
        return draw(rows, width), torch.eye(classes)[labels], draw.order(rows), share

    def case(rows: int, width: int, classes: int, low: float, high: float) -> tuple:
        "The larger of the shares is the share itself, or the other: no case tells it apart from both."
        return telling(
            lambda: texts(rows, width, classes, draw.number(low, high)),
            lambda x, y, o, s: mix(y, o, s),
            list(mixing_mistakes("targets", 1).values())[1:],
        )

    cases = {
        "two classes": case(6, 3, 2, 0.55, 0.9),
        "a small share": case(7, 4, 3, 0.1, 0.4),
        "five classes": case(8, 2, 5, 0.6, 0.95),
    }
    inputs = check(
        one_of_two(learner, 0),
        cases,
        lambda x, y, o, s: mix(x, o, s),
        mixing_mistakes("inputs", 0),
        tolerance=1e-5,
        unchanged={"x": 0, "y": 1},
    )
    if not inputs:
        return inputs

    mistakes = mixing_mistakes("targets", 1)
    return check(one_of_two(learner, 1), cases, lambda x, y, o, s: mix(y, o, s), mistakes, tolerance=1e-5)


# 4. mixup's loss


def mixup_loss(logits: Tensor, labels: Tensor, order: Tensor, share: float) -> Tensor:
    "The mean over the texts of share CE(own label) + (1 - share) CE(partner's label)."
    return share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, labels[order])


@exercise
def check_mixup_loss(learner: Function) -> Verdict:
    draw = Draw()

    def after_the_mix(logits: Tensor, labels: Tensor, order: Tensor, share: float) -> Tensor:
        p = logits.softmax(-1)
        own, others = (p.gather(1, y.unsqueeze(1)).squeeze(1) for y in (labels, labels[order]))
        return -(share * own + (1 - share) * others).log().mean()

    mistakes = {
        "you take the larger of share and 1 - share; take the share as it was drawn": lambda z, y, o, s: (
            mixup_loss(z, y, o, max(s, 1 - s))
        ),
        "you have share and 1 - share the wrong way round": lambda z, y, o, s: mixup_loss(z, y, o, 1 - s),
        "that is a sum over the texts, not their mean": lambda z, y, o, s: mixup_loss(z, y, o, s) * len(z),
        "your partners' labels change nothing: order the labels, not the logits": lambda z, y, o, s: (
            cross_entropy(z, y)
        ),
        "you weigh both labels alike, whatever the share": lambda z, y, o, s: mixup_loss(z, y, o, 0.5),
        "you have the order turned round; text i's partner is text order[i]": lambda z, y, o, s: (
            mixup_loss(z, y, turned(o), s)
        ),
        "you mix the probabilities and then take the logarithm; the two cross-entropies are mixed": after_the_mix,
        "you add the two cross-entropies and do not weigh them": lambda z, y, o, s: 2 * mixup_loss(z, y, o, 0.5),
        "that is the loss of the partners' labels alone": lambda z, y, o, s: cross_entropy(z, y[o]),
    }

    def case(rows: int, classes: int, low: float, high: float) -> tuple:
        def texts() -> tuple[Tensor, Tensor, Tensor, float]:
            labels = draw.wholes(0, classes - 1, rows)
            return draw(rows, classes, size=1.5), labels, draw.order(rows), draw.number(low, high)

        return telling(texts, mixup_loss, list(mistakes.values())[1:])

    cases = {
        "two classes": case(6, 2, 0.6, 0.9),
        "a small share": case(7, 4, 0.1, 0.4),
        "five classes": case(9, 5, 0.55, 0.95),
    }
    return check(learner, cases, mixup_loss, mistakes, tolerance=1e-5)


# 5. leaks


def leaks(train: Tensor, test: Tensor) -> Tensor:
    "The share of the test rows whose source is one of the training rows' sources."
    return torch.isin(test, train).float().mean()


@exercise
def check_leaks(learner: Function) -> Verdict:
    draw = Draw()

    def rows(shared: int, clean: int, trained: int) -> tuple[Tensor, Tensor]:
        "So many sources are in both, in the test rows alone, and in the training rows alone; each with some copies."
        n = shared + clean + trained
        sources = 10**6 * draw.order(n) + draw.wholes(0, 10**6 - 1, n)

        def copies(of: Tensor) -> Tensor:
            many = of.repeat_interleave(draw.wholes(1, 4, len(of)))
            return many[draw.order(len(many))]

        return copies(torch.cat([sources[:shared], sources[shared + clean :]])), copies(sources[: shared + clean])

    mistakes = {
        "you count each source once; every test row counts": lambda train, test: (
            torch.isin(test.unique(), train).float().mean()
        ),
        "that is the share of the training rows whose source is in the test rows": lambda train, test: (
            leaks(test, train)
        ),
        "that is a number of rows; divide by the number of test rows": lambda train, test: (
            torch.isin(test, train).sum().float()
        ),
        "you divide by the number of training rows; divide by that of the test rows": lambda train, test: (
            torch.isin(test, train).sum() / len(train)
        ),
        "that is the share of the test rows that are clean": lambda train, test: 1 - leaks(train, test),
        "you count a test row once for each copy in the training rows; it counts once": lambda train, test: (
            (test.unsqueeze(1) == train).sum() / len(test)
        ),
        "that is the share of all pairs of rows; a test row counts if any training row has its source": lambda a, b: (
            (b.unsqueeze(1) == a).float().mean()
        ),
        "you divide by all rows; divide by the number of test rows": lambda train, test: (
            torch.isin(test, train).sum() / (len(train) + len(test))
        ),
    }
    cases = {
        "some rows that leak": telling(lambda: rows(draw.whole(2, 6), draw.whole(3, 7), 9), leaks, mistakes.values()),
        "no row that leaks": rows(0, draw.whole(4, 6), 5),
        "rows that all leak": rows(draw.whole(4, 6), 0, 5),
    }
    return check(learner, cases, leaks, mistakes, tolerance=1e-5)


# 6. calibration error


def gaps(confidence: Tensor, right: Tensor, bins: int, place: Tensor | None = None) -> tuple[Tensor, Tensor]:
    "Of each bin: its share of the texts, and mean confidence - share of right ones; nan in an empty one."
    place = (confidence * bins).ceil().long() - 1 if place is None else place
    inside = [place == k for k in range(bins)]
    means = [confidence[i].mean() - right[i].float().mean() for i in inside]
    return torch.stack([i.float().mean() for i in inside]), torch.stack(means)


def calibration_error(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
    "ECE; bin k holds what is above k / bins and at most (k + 1) / bins."
    shares, means = gaps(confidence, right, bins)
    return (shares * means.abs()).nansum()


@exercise
def check_calibration_error(learner: Function) -> Verdict:
    draw = Draw()

    def texts(bins: int, places: list[int]) -> tuple[Tensor, Tensor, int]:
        "One of whose confidences is somewhere inside of each of these bins."
        confidence = torch.tensor([(k + draw.number(0.05, 0.95)) / bins for k in places])
        return confidence, draw.wholes(0, 1, len(places)).bool(), bins

    def on_edges() -> tuple[Tensor, Tensor, int]:
        confidence, right, bins = texts(4, draw.wholes(1, 3, 8).tolist())
        return torch.cat([torch.tensor([0.5, 0.75, 0.75, 1.0]), confidence]), draw.wholes(0, 1, 12).bool(), bins

    def from_the_left(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
        shares, means = gaps(confidence, right, bins, (confidence * bins).long().clamp(max=bins - 1))
        return (shares * means.abs()).nansum()

    def without_one(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
        shares, means = gaps(confidence, right, bins, (confidence * bins).long())
        return (shares * means.abs()).nansum()

    def middles(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
        return calibration_error(((confidence * bins).ceil() - 0.5) / bins, right, bins)

    def alike(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
        return gaps(confidence, right, bins)[1].abs().nanmean()

    mistakes = {
        "your bins count alike; each counts by its share of the texts": alike,
        "you add the gaps and do not weigh them; each bin counts by its share of the texts": lambda c, r, b: (
            gaps(c, r, b)[1].abs().nansum()
        ),
        "your gaps cancel each other; take each bin's without its sign": lambda c, r, b: c.mean() - r.float().mean(),
        "your gaps cancel each other; take each bin's without its sign, then the mean": lambda c, r, b: (
            r.float().mean() - c.mean()
        ),
        "your gaps are those of single texts; take the means of each bin first": lambda c, r, b: (
            (c - r.float()).abs().mean()
        ),
        "that is the largest gap; take the mean": lambda c, r, b: gaps(c, r, b)[1].abs().nan_to_num(0.0).max(),
        "you compare with the middle of the bin; take the mean confidence of its texts": middles,
    }
    edges = {
        "your bins take in their left edge; they take in the right one": from_the_left,
        "your bins take in their left edge, and lose a confidence of 1; they take in the right one": without_one,
    }
    empty = {
        "your answer is nan where a bin is empty; such a bin counts nothing": lambda c, r, b: (
            (gaps(c, r, b)[0] * gaps(c, r, b)[1].abs()).sum()
        )
    }
    cases = {
        "five bins": telling(
            lambda: texts(5, [*draw.order(5).tolist(), *draw.wholes(0, 4, 15).tolist()]),
            calibration_error,
            mistakes.values(),
        ),
        "empty bins": texts(10, [9, 9, 6, 4, *draw.order(3).tolist()] * 2),
        "confidences on the edges": telling(
            on_edges, calibration_error, [*mistakes.values(), *edges.values()]
        ),
    }
    return check(learner, cases, calibration_error, mistakes | edges | empty, tolerance=1e-5)


__all__ = [
    "check_deletion",
    "check_swaps",
    "check_mixed",
    "check_mixup_loss",
    "check_leaks",
    "check_calibration_error",
]
