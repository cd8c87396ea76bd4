"""Sequences of unlike length in one tensor, and which of its tokens are real."""

from typing import Any

import torch
from torch import Tensor


def padded(
    sequences: list[list[int]],
    value: int,  # that fills the gaps
    side: str,  # where they are: "left" or "right"
) -> Tensor:
    "(sequences, longest)"
    width = max(map(len, sequences))
    paddings = [[value] * (width - len(sequence)) for sequence in sequences]
    pairs = zip(sequences, paddings, strict=True)
    return torch.tensor([padding + ids if side == "left" else ids + padding for ids, padding in pairs])


def real_tokens(
    ids: list[int],
    tokenizer: Any,
) -> list[int]:
    "The attention mask of tokens that came without one: 0 on padding in front and behind, unless it also ends texts."
    pad = tokenizer.pad_token_id
    if pad == tokenizer.eos_token_id or not ids or pad not in (ids[0], ids[-1]):
        return [1] * len(ids)
    real = [i for i, token in enumerate(ids) if token != pad]
    first, last = (real[0], real[-1]) if real else (0, len(ids) - 1)
    return [int(first <= i <= last) for i in range(len(ids))]
