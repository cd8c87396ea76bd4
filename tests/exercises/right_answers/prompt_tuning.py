"""Lesson 24."""

import numpy as np
import torch
import torch.nn.functional as F

from finetune_lessons.exercises import prompt_tuning as checks


def text_by_text(prompt, embeddings, mask):
    out = []
    for words, real in zip(embeddings, mask, strict=True):
        seen = torch.cat([torch.ones(len(prompt)), real.float()])
        out.append(torch.cat([torch.cat([prompt, words]), seen[:, None]], dim=1))
    return out


def counts(n, width, layers, r):
    return (n * width, layers * 2 * n * width, np.int64(layers * 2 * 2 * r * width))


def class_logits(logits, mask, word_ids):
    return [[row[int(real.sum()) - 1, w] for w in word_ids] for row, real in zip(logits, mask, strict=True)]


def nearest(vectors, table):
    return F.cosine_similarity(vectors[:, None], table[None], dim=-1).argmax(1).numpy()


def labels(ids, mask, n):
    return [[-100] * n + [i if m else -100 for i, m in zip(*row, strict=True)] for row in zip(ids, mask, strict=True)]


RIGHT = [
    (checks.check_prepend, text_by_text),
    (checks.check_parameter_counts, counts),
    (checks.check_class_logits, class_logits),
    (checks.check_nearest, nearest),
    (checks.check_prompt_labels, labels),
]
