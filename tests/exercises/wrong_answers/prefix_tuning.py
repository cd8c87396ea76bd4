"""Lesson 23."""

import math

import torch
import torch.nn.functional as F

from finetune_lessons.exercises import prefix_tuning as checks


def sees(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def weights(q, k, p, axis=1, scale=True):
    scores = torch.cat([q @ p.T, q @ k.T], 1)
    return (scores / math.sqrt(q.shape[1]) if scale else scores).softmax(axis)


def share(q, k, p, scale=True):
    return weights(q, k, p, scale=scale)[:, : len(p)].sum(1)


def by_exponentials(q, k, p):
    prefix, text = ((q @ x.T / math.sqrt(q.shape[1])).exp().sum(1) for x in (p, k))
    return prefix / (prefix + text)


def columns(table, layers, layer, part):
    return table.chunk(2 * layers, 1)[2 * layer + part]


def split(table, layers, heads, layer):
    parts = [columns(table, layers, layer, i) for i in (0, 1)]
    return torch.stack([x.view(len(table), heads, -1).transpose(0, 1) for x in parts])


def keys_first(table, layers, heads, layer):
    parts = [half.chunk(layers, 1)[layer] for half in table.chunk(2, 1)]
    return torch.stack([x.reshape(len(table), heads, -1).transpose(0, 1) for x in parts])


def mixed(table, layers, heads, layer):
    return torch.stack([columns(table, layers, layer, i).reshape(heads, len(table), -1) for i in (0, 1)])


def every_so_many(table, layers, heads, layer):
    parts = [columns(table, layers, layer, i).reshape(len(table), -1, heads) for i in (0, 1)]
    return torch.stack([x.permute(2, 0, 1) for x in parts])


def combined(a, s, b, t):
    w = torch.stack([s, t]).softmax(0)
    return w[0][:, None] * a + w[1][:, None] * b


def weighed(a, s, b, t):
    return (a * s[:, None] + b * t[:, None]) / (s + t)[:, None]


WRONG = [
    (checks.check_prefix_attention, lambda q, k, v, a, b: sees(q, k, v), "does not see the prefix"),
    (checks.check_prefix_attention, lambda q, k, v, a, b: sees(q, a, b), "nothing but the prefix"),
    (checks.check_prefix_attention, lambda q, k, v, a, b: sees(q, k, v) + sees(q, a, b), "a softmax of their own"),
    (checks.check_prefix_attention, lambda q, k, v, a, b: weights(q, k, a, scale=False) @ torch.cat([b, v]), "square"),
    (checks.check_prefix_attention, lambda q, k, v, a, b: weights(q, k, a) @ torch.cat([v, b]), "must meet its value"),
    (checks.check_prefix_attention, lambda q, k, v, a, b: weights(q, k, a, 0) @ torch.cat([b, v]), "over the queries"),
    (checks.check_prefix_mask, lambda m, n: F.pad(m, (0, n), value=True), "stand behind"),
    (checks.check_prefix_mask, lambda m, n: F.pad(m, (n, 0)), "are False"),
    (checks.check_prefix_mask, lambda m, n: torch.ones(m.shape[0], m.shape[1] + n).tril().bool(), "a new triangle"),
    (checks.check_prefix_mask, lambda m, n: torch.ones(m.shape[0], m.shape[1] + n).bool(), "also what comes later"),
    (checks.check_prefix_parameters, lambda L, h, k, d, n: L * n * k * (d // h), "but not both"),
    (checks.check_prefix_parameters, lambda L, h, k, d, n: 2 * n * k * (d // h), "one layer only"),
    (checks.check_prefix_parameters, lambda L, h, k, d, n: 2 * L * n * d, "every query head"),
    (checks.check_prefix_parameters, lambda L, h, k, d, n: 2 * L * n * k * d, "the whole width"),
    (checks.check_prefix_share, lambda q, k, p: 1 - share(q, k, p), "that of the text"),
    (checks.check_prefix_share, lambda q, k, p: share(q, k, p) / (1 - share(q, k, p)), "an odds"),
    (checks.check_prefix_share, lambda q, k, p: share(q, k, p) / len(p), "a mean over"),
    (checks.check_prefix_share, lambda q, k, p: share(q, k, p, scale=False), "square root of the width"),
    (checks.check_prefix_share, by_exponentials, "overflow"),
    (checks.check_flat_table, lambda *given: split(*given)[[1, 0]], "changed places"),
    (checks.check_flat_table, keys_first, "keys of all layers first"),
    (checks.check_flat_table, mixed, "mixes tokens and heads"),
    (checks.check_flat_table, every_so_many, "side by side"),
    (checks.check_flat_table, lambda t, n, heads, layer: split(t, n, heads, 0), "whatever the layer is"),
    (checks.check_combination, lambda a, s, b, t: a + b, "you add the two"),
    (checks.check_combination, lambda a, s, b, t: torch.stack([a, b]).mean(0), "the mean of the two"),
    (checks.check_combination, lambda a, s, b, t: combined(b, s, a, t), "the share of the other"),
    (checks.check_combination, weighed, "compare the logarithms"),
    (checks.check_combination, lambda a, s, b, t: weighed(a, s.exp(), b, t.exp()), "overflow"),
]
