"""Dropout, and attention over short texts, as fast as the arithmetic around them on a CPU."""

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 2**16  # that a random number of 16 bits can have
# Up to so many keys the products written out beat torch's fused kernel, whose backward pass in bf16 takes long.
SHORT = 128
# Scores at a time: more leave the processor's cache, and their memory is mapped anew each time.
PIECE = 2**21
_torch_dropout, _torch_attention = F.dropout, F.scaled_dot_product_attention
_thread: int | None = None  # that is inside


@contextmanager
def fast_cpu_functions() -> Iterator[None]:
    """Inside, and in this thread, `F.dropout` and `F.scaled_dot_product_attention` are those of this module.

    Attention over short texts is two products and a softmax. Dropout draws 16 random bits for each number; torch draws
    a double, one after the other, which takes a fifth to a third of a training step. The probability is rounded to
    1/65,536, and what is kept is divided by the share that is kept indeed. The bits are those of torch's generator, so
    seeding and gradient checkpointing work as ever: do the backward pass inside too. One thread at a time may be in.
    """
    global _thread
    before = _thread, F.dropout, F.scaled_dot_product_attention
    _thread, F.dropout, F.scaled_dot_product_attention = threading.get_ident(), _dropout, _attention
    try:
        yield
    finally:
        _thread, F.dropout, F.scaled_dot_product_attention = before


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or inplace or not 0 < p < 1 or not _is_ours(input):
        return _torch_dropout(input, p, training, inplace)
    keep, share = _keep(input, p)
    return input * keep.to(input.dtype).mul_(1 / share)


def _attention(
    query: Tensor,  # (texts, heads, queries, width)
    key: Tensor,  # (texts, heads, keys, width)
    value: Tensor,  # (texts, heads, keys, width of the values)
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    fused = query.ndim != 4 or (dropout_p == 0 and key.shape[-2] > SHORT)
    if fused or not 0 <= dropout_p < 1 or not _is_ours(query):
        options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        return _torch_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    query = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    texts = max(1, PIECE // max(1, math.prod(query.shape[1:3]) * key.shape[2]))
    masks: Iterable[Tensor | None] = repeat(attn_mask)
    if attn_mask is not None and attn_mask.ndim == 4 and len(attn_mask) == len(query):
        masks = attn_mask.split(texts)
    parts = zip(query.split(texts), key.split(texts), value.split(texts), masks, strict=False)
    return torch.cat([_attend(q, k, v, mask, dropout_p) for q, k, v, mask in parts])


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, p: float) -> Tensor:
    scores, blind = query @ key.transpose(-2, -1), torch.tensor(False)
    if mask is not None:
        allowed = mask if mask.dtype == torch.bool else mask > -math.inf
        bias = torch.zeros_like(allowed, dtype=scores.dtype) if mask is allowed else mask
        scores = scores + bias.masked_fill(~allowed, torch.finfo(bias.dtype).min / 2)  # halved: the sum stays finite
        blind = ~allowed.any(-1, keepdim=True)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    output = _dropout(weights, p) @ value
    return output.masked_fill(blind, 0) if blind.any() else output  # as torch's: nothing is what it sees


def _is_ours(tensor: Tensor) -> bool:
    return _thread == threading.get_ident() and tensor.device.type == "cpu" and tensor.is_floating_point()


def _keep(like: Tensor, p: float) -> tuple[Tensor, float]:
    "Where to keep, in the shape of `like`, and the share that is kept on average."
    kept = min(max(round((1 - p) * LEVELS), 1), LEVELS - 1)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: like.numel()].view(like.shape)
    return numbers < kept - LEVELS // 2, kept / LEVELS


__all__ = ["fast_cpu_functions"]
