"""Checks of lesson 23, prefix tuning."""

import math

import torch
from torch import Tensor

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(23)


def _heads(
    draw: Draw, tokens: int, n: int, width: int, size: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    "Queries, keys and values of one head, and a prefix of n."
    rows = (tokens, tokens, tokens, n, n)
    return tuple(draw(r, width, size=size) for r in rows)  # type: ignore[return-value]


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


@exercise
def check_prefix_attention(
    learner: Function,  # learner(q, k, v (tokens, width), p_k, p_v (virtual tokens, width)) -> (tokens, width)
) -> Verdict:
    "Is it the attention of one head whose queries also see the prefix?"
    draw = Draw()

    def solution(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor) -> Tensor:
        return _attention(q, torch.cat([p_k, k]), torch.cat([p_v, v]))

    def two_softmaxes(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor) -> Tensor:
        return _attention(q, k, v) + _attention(q, p_k, p_v)

    def unscaled(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor) -> Tensor:
        return solution(q * math.sqrt(q.shape[-1]), k, v, p_k, p_v)

    def crossed(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor) -> Tensor:
        return _attention(q, torch.cat([p_k, k]), torch.cat([v, p_v]))

    def over_queries(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor) -> Tensor:
        scores = q @ torch.cat([p_k, k]).mT / math.sqrt(q.shape[-1])
        return scores.softmax(0) @ torch.cat([p_v, v])

    cases = {
        "one virtual token": _heads(draw, 4, 1, 8),
        "as many virtual tokens as tokens": _heads(draw, 3, 3, 4),
        "twenty virtual tokens": _heads(draw, 5, 20, 16),
    }
    mistakes: dict[str, Function] = {
        "your attention does not see the prefix": lambda q, k, v, p_k, p_v: _attention(q, k, v),
        "your attention sees nothing but the prefix": lambda q, k, v, p_k, p_v: _attention(q, p_k, p_v),
        "your prefix and your text each have a softmax of their own; one softmax runs over both": two_softmaxes,
        "your scores are not divided by the square root of the width": unscaled,
        "your keys have the prefix in front and your values have it behind: each key must meet its value": crossed,
        "your softmax runs over the queries; it runs over what a query sees": over_queries,
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_prefix_mask(
    learner: Function,  # learner(mask (queries, keys), n) -> (queries, n + keys); True: is seen
) -> Verdict:
    "Is it the mask with n columns in front, which every query sees?"
    draw = Draw()

    def columns(mask: Tensor, n: int, seen: bool) -> Tensor:
        return torch.full((len(mask), n), seen)

    def solution(mask: Tensor, n: int) -> Tensor:
        return torch.cat([columns(mask, n, True), mask], dim=1)

    def behind(mask: Tensor, n: int) -> Tensor:
        return torch.cat([mask, columns(mask, n, True)], dim=1)

    def hidden(mask: Tensor, n: int) -> Tensor:
        return torch.cat([columns(mask, n, False), mask], dim=1)

    def causal_anew(mask: Tensor, n: int) -> Tensor:
        return torch.ones(len(mask), n + mask.shape[1], dtype=torch.bool).tril()

    triangle = torch.ones(4, 4, dtype=torch.bool).tril()
    padded = triangle.clone()
    padded[:, 0] = False
    cases = {
        "a causal mask": (triangle, 3),
        "a causal mask over padding": (padded, 2),
        "one query that sees five keys": (torch.ones(1, 5, dtype=torch.bool), 2),
        "a mask of any kind": (draw.wholes(0, 1, 5, 6).bool(), draw.whole(1, 9)),
    }
    mistakes: dict[str, Function] = {
        "your new columns stand behind the text's; the prefix stands in front": behind,
        "your new columns are False: no query sees the prefix": hidden,
        "your mask is a new triangle over everything: the first query sees one virtual token only": causal_anew,
        "your mask lets every query see everything, also what comes later": lambda mask, n: solution(mask | True, n),
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_prefix_parameters(
    learner: Function,  # learner(layers, heads, key_heads, width, n) -> how many numbers a prefix has
) -> Verdict:
    "Is it the number of parameters of a prefix of n: keys and values, for each key head of each layer?"
    draw = Draw()

    def solution(layers: int, heads: int, key_heads: int, width: int, n: int) -> int:
        return 2 * layers * n * key_heads * width // heads

    def keys_only(layers: int, heads: int, key_heads: int, width: int, n: int) -> int:
        return layers * n * key_heads * width // heads

    cases = {
        "minilm": (6, 12, 12, 384, 20),
        "smollm2 with three key heads for nine query heads": (30, 9, 3, 576, 20),
        "one virtual token": (2, 4, 2, 32, 1),
        "any model": (draw.whole(6, 90), 12, 4, 12 * draw.whole(20, 90), draw.whole(2, 90)),
    }
    mistakes: dict[str, Function] = {
        "your prefix has keys, or values, but not both": keys_only,
        "your prefix is in one layer only": lambda L, h, k, d, n: 2 * n * k * d // h,
        "your prefix has a key for every query head; heads that share a key share the prefix": (
            lambda L, h, k, d, n: 2 * L * n * d
        ),
        "your heads each have the whole width; a head has its share of it": lambda L, h, k, d, n: 2 * L * n * k * d,
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_prefix_share(
    learner: Function,  # learner(q, k (tokens, width), p_k (virtual tokens, width)) -> (tokens,), from 0 to 1
) -> Verdict:
    "Is it lambda, the share of each query's attention that goes to the prefix, even for huge scores?"
    draw = Draw()

    def weights(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
        return (q @ torch.cat([p_k, k]).mT / math.sqrt(q.shape[-1])).softmax(-1)

    def solution(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
        return weights(q, k, p_k)[:, : len(p_k)].sum(-1)

    def odds(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
        return solution(q, k, p_k) / (1 - solution(q, k, p_k))

    def naive(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
        z, z_p = ((q @ x.mT / math.sqrt(q.shape[-1])).exp().sum(-1) for x in (k, p_k))
        return z_p / (z_p + z)

    q, k, _, p_k, _ = _heads(draw, 5, 3, 8)
    cases = {
        "three virtual tokens": (q, k, p_k),
        "one virtual token": (q, k, p_k[:1]),
        "scores in the hundreds": (1000 * q, k, torch.cat([q[:1], p_k[1:]])),  # one of the prefix, for sure
    }
    mistakes: dict[str, Function] = {
        "your share is that of the text; the prefix has the rest": lambda q, k, p_k: 1 - solution(q, k, p_k),
        "your share is an odds, prefix against text; divide by both together": odds,
        "your share is a mean over the virtual tokens; their shares add up": (
            lambda q, k, p_k: weights(q, k, p_k)[:, : len(p_k)].mean(-1)
        ),
        "your scores are not divided by the square root of the width": (
            lambda q, k, p_k: solution(q * math.sqrt(q.shape[-1]), k, p_k)
        ),
        "your exponentials overflow: a softmax, or logsumexp, does not": naive,
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_flat_table(
    learner: Function,  # learner(table (n, 2 * layers * width), layers, heads, layer) -> (2, heads, n, width / heads)
) -> Verdict:
    "Are these the keys and values of one layer, out of peft's flat table?"
    draw = Draw()

    def layer_columns(table: Tensor, layers: int, layer: int) -> Tensor:
        return table.view(len(table), layers, 2, -1)[:, layer]

    def solution(table: Tensor, layers: int, heads: int, layer: int) -> Tensor:
        return layer_columns(table, layers, layer).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)

    def halves(table: Tensor, layers: int, heads: int, layer: int) -> Tensor:
        all_keys_first = table.view(len(table), 2, layers, -1)[:, :, layer]
        return all_keys_first.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)

    def not_moved(table: Tensor, layers: int, heads: int, layer: int) -> Tensor:
        both = layer_columns(table, layers, layer)
        return torch.stack([x.reshape(heads, len(table), -1) for x in both.unbind(1)])

    def across(table: Tensor, layers: int, heads: int, layer: int) -> Tensor:
        return layer_columns(table, layers, layer).unflatten(-1, (-1, heads)).permute(1, 3, 0, 2)

    tables = draw(3, 2 * 2 * 8), draw(5, 2 * 3 * 8)
    cases = {
        "the first layer": (tables[0], 2, 2, 0),
        "the last layer": (tables[1], 3, 4, 2),
        "the layer between": (tables[1], 3, 2, 1),
    }
    mistakes: dict[str, Function] = {
        "your keys and values have changed places": lambda *a: solution(*a).flip(0),
        "your table has the keys of all layers first; here keys and values alternate, layer by layer": halves,
        "your reshape mixes tokens and heads: split the width first, then move the heads in front": not_moved,
        "your heads take every so many-th number; a head's numbers stand side by side": across,
        "you take the first layer, whatever the layer is": lambda t, n, h, layer: solution(t, n, h, 0),
    }
    return check(learner, cases, solution, mistakes, 1e-6)


@exercise
def check_combination(
    learner: Function,  # learner(out_prefix, s_prefix, out_text, s_text); out (tokens, width), s (tokens,): logsumexp
) -> Verdict:
    "Are two attentions, each over its own keys, put together to the attention over all keys?"
    draw = Draw()

    def solution(out_prefix: Tensor, s_prefix: Tensor, out_text: Tensor, s_text: Tensor) -> Tensor:
        return mix(torch.sigmoid(s_prefix - s_text), out_prefix, out_text)

    def mix(share: Tensor, out_prefix: Tensor, out_text: Tensor) -> Tensor:
        return share[:, None] * out_prefix + (1 - share[:, None]) * out_text

    def naive(out_prefix: Tensor, s_prefix: Tensor, out_text: Tensor, s_text: Tensor) -> Tensor:
        return mix(s_prefix.exp() / (s_prefix.exp() + s_text.exp()), out_prefix, out_text)

    def without_exp(out_prefix: Tensor, s_prefix: Tensor, out_text: Tensor, s_text: Tensor) -> Tensor:
        return mix(s_prefix / (s_prefix + s_text), out_prefix, out_text)

    def parts(n: int, offset: float) -> tuple[Tensor, ...]:
        q, k, v, p_k, p_v = _heads(draw, 5, n, 8)
        out = []
        for keys, values in ((p_k, p_v), (k, v)):
            scores = offset + q @ keys.mT / math.sqrt(8)
            out += [scores.softmax(-1) @ values, scores.logsumexp(-1)]
        return tuple(out)

    cases = {"three virtual tokens": parts(3, 0), "twenty": parts(20, 0), "scores in the hundreds": parts(3, 500)}
    mistakes: dict[str, Function] = {
        "you add the two; each counts by its share, and the shares sum to one": lambda a, s, b, t: a + b,
        "you take the mean of the two, whatever their sums are": lambda a, s, b, t: (a + b) / 2,
        "you gave each part the share of the other": lambda a, s, b, t: solution(b, s, a, t),
        "you compare the logarithms; compare what they are logarithms of": without_exp,
        "your exponentials overflow: only the difference of the two logarithms matters": naive,
    }
    return check(learner, cases, solution, mistakes)


__all__ = [
    "check_prefix_attention",
    "check_prefix_mask",
    "check_prefix_parameters",
    "check_prefix_share",
    "check_flat_table",
    "check_combination",
]
