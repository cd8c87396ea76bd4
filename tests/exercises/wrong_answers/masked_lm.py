"""Lesson 33."""

import torch
from torch.nn.functional import cross_entropy

from finetune_lessons.exercises import masked_lm as checks


def fates(ids, hidden, lots, others, mask, bands=(0.8, 0.9)):
    answer = ids.clone()
    answer[hidden & (lots < bands[0])] = mask
    between = hidden & (lots >= bands[0]) & (lots < bands[1])
    answer[between] = others[between]
    return answer


def stay_first(ids, hidden, lots, others, mask):
    answer = fates(ids, hidden, lots, others, mask, bands=(0.8, 0.8))
    answer[hidden & (lots >= 0.9)] = others[hidden & (lots >= 0.9)]
    return answer


def by_word(lots, words, choose, special=False):
    answer = torch.zeros(len(words), dtype=torch.bool)
    for word in set(words.tolist()) - (set() if special else {-1}):
        answer[words == word] = bool(choose(lots[words == word]))
    return answer


def surprises(logits, ids):
    return torch.stack([-logits[i, i].log_softmax(-1)[token] for i, token in enumerate(ids)])


def per_text(logits, ids, hidden):
    rows = zip(logits, ids, hidden, strict=True)
    return torch.stack([cross_entropy(z[h], y[h]) for z, y, h in rows]).mean()


def shifted(logits, ids, hidden):
    labels = torch.where(hidden, ids, -100)[:, 1:]
    return cross_entropy(logits[:, :-1].transpose(1, 2), labels)


WRONG = [
    (checks.check_fates, lambda ids, h, lots, others, mask: torch.where(h, mask, ids), "every hidden token"),
    (
        checks.check_fates,
        lambda ids, h, lots, others, mask: fates(ids, lots >= 0, lots, others, mask),
        "that are not hidden",
    ),
    (checks.check_fates, lambda *given: fates(*given, bands=(0.8, 2.0)), "no hidden token stays"),
    (checks.check_fates, stay_first, "those from 0.9 on become others"),
    (checks.check_whole_words, lambda lots, words, share: (lots < share).logical_and(words > -1), "are torn"),
    (
        checks.check_whole_words,
        lambda lots, words, share: by_word(lots, words, lambda x: x.min() < share),
        "any of its tokens",
    ),
    (
        checks.check_whole_words,
        lambda lots, words, share: by_word(lots, words, lambda x: x[0] < share, special=True),
        "whose word is -1",
    ),
    (checks.check_whole_words, lambda lots, words, share: by_word(lots, words, lambda x: x[-1] < share), "last token"),
    (
        checks.check_whole_words,
        lambda lots, words, share: by_word(lots, words, lambda x: x[0] >= share),
        "that should stay",
    ),
    (checks.check_gap_loss, lambda z, y, h: cross_entropy(z.transpose(1, 2), y), "over all tokens"),
    (
        checks.check_gap_loss,
        lambda z, y, h: cross_entropy(z[h], y[h], reduction="sum") / y.numel(),
        "divide by all tokens",
    ),
    (checks.check_gap_loss, per_text, "within each text"),
    (checks.check_gap_loss, lambda z, y, h: cross_entropy(z[h], y[h], reduction="sum"), "is a sum"),
    (checks.check_gap_loss, shifted, "next token"),
    (checks.check_gap_loss, lambda z, y, h: cross_entropy(z[~h], y[~h]), "that are not hidden"),
    (checks.check_no_gap, lambda n, p: 1 - (1 - p) ** n, "at least one"),
    (checks.check_no_gap, lambda n, p: p**n, "all are hidden"),
    (checks.check_no_gap, lambda n, p: 1 - p * n, "subtract"),
    (checks.check_no_gap, lambda n, p: p * n, "how many gaps"),
    (
        checks.check_pseudo_perplexity,
        lambda z, y: cross_entropy(z.flatten(0, 1), y.repeat(len(y))).exp(),
        "in every copy",
    ),
    (checks.check_pseudo_perplexity, lambda z, y: surprises(z, y).mean(), "exponential is missing"),
    (checks.check_pseudo_perplexity, lambda z, y: surprises(z, y).sum().exp(), "you sum the surprises"),
    (checks.check_pseudo_perplexity, lambda z, y: (-surprises(z, y)).mean().exp(), "its inverse"),
    (checks.check_pseudo_perplexity, lambda z, y: 1 / (-surprises(z, y)).exp().mean(), "over logarithms"),
    (
        checks.check_pseudo_perplexity,
        lambda z, y: torch.stack([-z[i, i, token] for i, token in enumerate(y)]).mean().exp(),
        "log_softmax is missing",
    ),
    (checks.check_piece_count, lambda n, length: (n + length - 1) // length, "two in each piece"),
    (checks.check_piece_count, lambda n, length: n // (length - 2), "drop the last piece"),
    (checks.check_piece_count, lambda n, length: n // (length - 2) + 1, "a piece too many"),
    (checks.check_piece_count, lambda n, length: (n + 2 + length - 1) // length, "once, not in each"),
]
