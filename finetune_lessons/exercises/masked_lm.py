"""Checks of lesson 33, masked language modelling."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(33)
MASK = 103  # as in BERT's vocabulary


# 1. who stays, who goes


def fates(ids: Tensor, hidden: Tensor, lots: Tensor, others: Tensor, mask: int) -> Tensor:
    "(tokens,): a hidden token becomes the mask where its lot is below 0.8, another one up to 0.9, and stays beyond."
    masked = ids.masked_fill(hidden & (lots < 0.8), mask)
    return others.where(hidden & (lots >= 0.8) & (lots < 0.9), masked)


@exercise
def check_fates(learner: Function) -> Verdict:
    draw = Draw()

    def text(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        hidden = draw.wholes(0, 1, tokens).bool()
        lots = torch.tensor([draw.number(0, 0.999) + 5e-5 for _ in range(tokens)])  # never equal to a bound
        hidden[:6], lots[:6] = torch.tensor([1, 1, 1, 0, 0, 0]).bool(), torch.tensor([0.4, 0.85, 0.95] * 2)
        return draw.wholes(1000, 9000, tokens), hidden, lots, draw.wholes(10000, 20000, tokens), MASK

    ids, _, lots, others, mask = text(12)
    cases = {"a long text": text(60), "a short one": text(8), "nothing hidden": (ids, lots > 2, lots, others, mask)}
    mistakes = {
        "you mask every hidden token; a tenth becomes another, a tenth stays": lambda ids, hidden, lots, others, mask: (
            ids.masked_fill(hidden, mask)
        ),
        "you change tokens that are not hidden": lambda ids, hidden, lots, others, mask: fates(
            ids, torch.ones_like(hidden), lots, others, mask
        ),
        "no hidden token stays as it is: from 0.9 on it should": lambda ids, hidden, lots, others, mask: fates(
            ids, hidden, lots.clamp(max=0.85), others, mask
        ),
        "your tokens from 0.8 to 0.9 stay; those from 0.9 on become others": lambda ids, hidden, lots, others, mask: (
            fates(ids, hidden, torch.where(lots < 0.8, lots, torch.where(lots < 0.9, 1.0, 0.85)), others, mask)
        ),
    }
    return check(learner, cases, fates, mistakes, unchanged={"ids": 0})


# 2. whole words


def whole_words(lots: Tensor, words: Tensor, share: float) -> Tensor:
    "(tokens,): whether each is hidden: its word's first token has a lot below the share."
    first = (words.unsqueeze(1) == words).long().argmax(1)
    return (lots[first] < share) & (words >= 0)


@exercise
def check_whole_words(learner: Function) -> Verdict:
    draw = Draw()

    def text(words: int) -> tuple[Tensor, Tensor, float]:
        sizes = draw.wholes(1, 3, words)
        inside = torch.arange(words).repeat_interleave(sizes)
        numbers = torch.cat([torch.tensor([-1]), inside, torch.tensor([-1])])
        share, tokens = draw.number(0.3, 0.5), len(numbers)
        lots = torch.tensor([draw.number(0, 0.999) + 5e-5 for _ in range(tokens)])  # never equal to a bound
        lots[0] = lots[-1] = share / 2  # the special tokens' lots would hide them
        return lots, numbers, share

    cases = {"a long text": text(60), "another": text(30), "a short one": text(6)}

    def any_lot(lots: Tensor, words: Tensor, share: float) -> Tensor:
        low = (lots < share) & (words >= 0)
        return ((words.unsqueeze(1) == words) & low).any(1)

    def last(lots: Tensor, words: Tensor, share: float) -> Tensor:
        return whole_words(lots.flip(0), words.flip(0), share).flip(0)

    mistakes = {
        "you hide each token by its own lot, so words are torn": lambda lots, words, share: (
            (lots < share) & (words >= 0)
        ),
        "you hide a word if any of its tokens has a low lot: long words are hidden too often": any_lot,
        "you hide special tokens, whose word is -1": lambda lots, words, share: whole_words(lots, words + 1, share),
        "your word goes by the lot of its last token, not of its first": last,
        "you hide the words that should stay": lambda lots, words, share: (
            ~whole_words(lots, words, share) & (words >= 0)
        ),
    }
    return check(learner, cases, whole_words, mistakes)


# 3. the loss


def gap_loss(logits: Tensor, ids: Tensor, hidden: Tensor) -> Tensor:
    "The mean cross-entropy over the hidden tokens."
    return cross_entropy(logits[hidden], ids[hidden])


@exercise
def check_gap_loss(learner: Function) -> Verdict:
    draw = Draw()

    def batch(texts: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.rand(texts, tokens, generator=torch.Generator().manual_seed(draw.whole(0, 10**6))) < 0.3
        hidden[:, 0], hidden[0, 1:3], hidden[:, -1] = True, True, False
        return draw(texts, tokens, 11), draw.wholes(0, 10, texts, tokens), hidden

    cases = {"two texts": batch(2, 9), "five texts": batch(5, 12), "one text": batch(1, 7)}

    def each(logits: Tensor, ids: Tensor, hidden: Tensor) -> Tensor:
        return cross_entropy(logits.transpose(1, 2), ids, reduction="none") * hidden

    mistakes = {
        "your mean is over all tokens; only the hidden ones are asked": lambda logits, ids, hidden: cross_entropy(
            logits.flatten(0, 1), ids.flatten()
        ),
        "you sum over the hidden tokens and divide by all tokens": lambda logits, ids, hidden: each(
            logits, ids, hidden
        ).mean(),
        "you average within each text first; every hidden token counts alike": lambda logits, ids, hidden: (
            each(logits, ids, hidden).sum(1) / hidden.sum(1)
        ).mean(),
        "your answer is a sum": lambda logits, ids, hidden: each(logits, ids, hidden).sum(),
        "you ask for the next token; a gap is named where it is": lambda logits, ids, hidden: cross_entropy(
            logits[:, :-1][hidden[:, 1:]], ids[:, 1:][hidden[:, 1:]]
        ),
        "you ask the tokens that are not hidden": lambda logits, ids, hidden: gap_loss(logits, ids, ~hidden),
    }
    return check(learner, cases, gap_loss, mistakes, tolerance=1e-5)


# 4. texts without a gap


def no_gap(tokens: int, share: float) -> float:
    "How probable it is that none of so many tokens is hidden, each by itself with this probability."
    return (1 - share) ** tokens


@exercise
def check_no_gap(learner: Function) -> Verdict:
    draw = Draw()
    cases = {
        "18 tokens": (18, 0.15),
        "8 tokens": (8, 0.15),
        "another share": (draw.whole(3, 12), draw.number(0.2, 0.4)),
        "one token": (1, draw.number(0.1, 0.3)),
    }
    mistakes = {
        "that is the probability of at least one gap": lambda n, p: 1 - no_gap(n, p),
        "that is the probability that all are hidden": lambda n, p: p**n,
        "probabilities multiply; you subtract one for each token": lambda n, p: 1 - n * p,
        "that is how many gaps to expect": lambda n, p: n * p,
    }
    return check(learner, cases, no_gap, mistakes)


# 5. pseudo-perplexity


def from_copies(logits: Tensor, ids: Tensor) -> Tensor:
    "exp of the mean surprise; copy i of the text, (tokens, tokens, vocabulary), has token i hidden."
    n = torch.arange(len(ids))
    return (-logits.log_softmax(-1)[n, n, ids]).mean().exp()


@exercise
def check_pseudo_perplexity(learner: Function) -> Verdict:
    draw = Draw()

    def text(n: int, words: int = 9) -> tuple[Tensor, Tensor]:
        ids = draw.wholes(0, words - 1, n)
        sure = 4 * torch.nn.functional.one_hot(ids, words) * (1 - torch.eye(n).unsqueeze(2))  # a seen token is known
        return draw(n, n, words, size=1.0) + sure, ids

    cases = {"five tokens": text(5), "eight tokens": text(8), "two tokens": text(2)}

    def seen(logits: Tensor, ids: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1).gather(2, ids.expand(len(ids), -1).unsqueeze(2))
        return (-log_p).mean().exp()

    def at_gaps(logits: Tensor, ids: Tensor) -> Tensor:
        n = torch.arange(len(ids))
        return logits[n, n]

    mistakes = {
        "you ask for every token in every copy; those that are not hidden are seen": seen,
        "that is the mean surprise; its exponential is missing": lambda logits, ids: from_copies(logits, ids).log(),
        "you sum the surprises; perplexity takes their mean": lambda logits, ids: (
            from_copies(logits, ids).log() * len(ids)
        ).exp(),
        "that is its inverse: the sign is missing": lambda logits, ids: 1 / from_copies(logits, ids),
        "you divide one by the mean probability; the mean is over logarithms": lambda logits, ids: (
            1 / at_gaps(logits, ids).softmax(-1).gather(1, ids.unsqueeze(1)).mean()
        ),
        "your logits are no log-probabilities yet: log_softmax is missing": lambda logits, ids: (
            (-at_gaps(logits, ids).gather(1, ids.unsqueeze(1))).mean().exp()
        ),
    }
    return check(learner, cases, from_copies, mistakes, tolerance=1e-3)


# 6. pieces


def piece_count(tokens: int, length: int) -> int:
    "Into how many pieces of at most `length` places a text of so many tokens goes; two places of each are special."
    return -(-tokens // (length - 2))


@exercise
def check_piece_count(learner: Function) -> Verdict:
    draw = Draw()
    length = draw.whole(20, 30)
    cases = {
        "a text that fits": (draw.whole(5, 15), 128),
        "a long one": (length * draw.whole(30, 36), length),
        "one that fills its pieces": ((length - 2) * 7, length),
        "a library": (draw.whole(10**6, 10**7), draw.whole(100, 10**4)),
    }
    mistakes = {
        "you forget the special tokens, two in each piece": lambda n, length: -(-n // length),
        "you drop the last piece, which is shorter": lambda n, length: n // (length - 2),
        "you count a piece too many where the last one is full": lambda n, length: n // (length - 2) + 1,
        "you take off the special tokens once, not in each piece": lambda n, length: -(-(n + 2) // length),
    }
    return check(learner, cases, piece_count, mistakes)


__all__ = [
    "check_fates",
    "check_whole_words",
    "check_gap_loss",
    "check_no_gap",
    "check_pseudo_perplexity",
    "check_piece_count",
]
