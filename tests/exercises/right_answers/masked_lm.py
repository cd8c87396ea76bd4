"""Lesson 33."""

import math

import torch

from finetune_lessons.exercises import masked_lm as checks


def one_by_one(ids, hidden, lots, others, mask):
    answer = []
    for token, is_hidden, lot, other in zip(ids.tolist(), hidden.tolist(), lots.tolist(), others.tolist(), strict=True):
        fate = "stays" if not is_hidden or lot >= 0.9 else "masked" if lot < 0.8 else "another"
        answer.append({"stays": token, "masked": mask, "another": other}[fate])
    return answer


def with_a_dict(lots, words, share):
    of_word = {}
    for lot, word in zip(lots.tolist(), words.tolist(), strict=True):
        of_word.setdefault(word, lot < share)
    return torch.tensor([word >= 0 and of_word[word] for word in words.tolist()])


def by_labels(logits, ids, hidden):
    labels = torch.where(hidden, ids, -100)
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100)


def geometric_mean(logits, ids):
    p = [logits[i, i].softmax(-1)[token].item() for i, token in enumerate(ids)]
    return math.prod(p) ** (-1 / len(p))


RIGHT = [
    (checks.check_fates, one_by_one),
    (checks.check_whole_words, with_a_dict),
    (checks.check_gap_loss, by_labels),
    (checks.check_no_gap, lambda tokens, share: math.exp(tokens * math.log1p(-share))),
    (checks.check_pseudo_perplexity, geometric_mean),
    (checks.check_piece_count, lambda tokens, length: len(range(0, tokens, length - 2))),
]
