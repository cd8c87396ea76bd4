"""Texts that a language model continues, in batches."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from finetune_lessons.lab.models.inputs import as_texts, batches_by_length, check_given, device_of
from finetune_lessons.lab.models.inputs import most_tokens, unwrapped
from finetune_lessons.lab.models.modes import mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: "PreTrainedModel",  # a decoder or an encoder-decoder, with its language-model head
    tokenizer: "PreTrainedTokenizerBase",
    prompts: str | Iterable[str],
    max_new_tokens: int = 64,
    batch_size: int = 8,  # changes no text, unless they are sampled
    seed: int = 0,  # of what is sampled
    **settings: Any,  # of transformers' `model.generate`: do_sample=True, temperature=0.7 ...; greedy without
) -> str | list[str]:
    """What the model says after each prompt, up to its end of text: a text for a text, a list for a list.

    Raises ValueError for what is no text, for a prompt that leaves no room for the new tokens among the model's
    positions, and for a model that does not generate.
    """
    check_given(model, tokenizer)
    model = unwrapped(model)
    if not getattr(model, "can_generate", bool)():
        raise ValueError(f"{type(model).__name__} does not generate: take load_causal_lm or load_seq2seq")
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is a number of tokens, at least 1; given: {max_new_tokens!r}")
    if settings.get("num_return_sequences", 1) != 1:
        raise ValueError("generate gives one continuation a prompt; for several, repeat the prompt")
    listed = as_texts(prompts, "prompts")
    ids = [_ids(text, model, tokenizer) for text in listed]
    _check_room(ids, model, max_new_tokens)
    settings = {"do_sample": False, "max_length": None, **settings, "max_new_tokens": max_new_tokens}
    texts: dict[int, str] = {}
    with torch.no_grad(), mode(model, training=False), torch.random.fork_rng():
        torch.manual_seed(seed)
        for rows in batches_by_length([len(tokens) for tokens in ids], batch_size):
            new = _continued([ids[row] for row in rows], model, tokenizer, settings)
            texts |= {row: _text(ids[row], tokens, model, tokenizer) for row, tokens in zip(rows, new, strict=True)}
    return texts[0] if isinstance(prompts, str) else [texts[row] for row in range(len(listed))]


def _ids(text: str, model: Any, tokenizer: Any) -> list[int]:
    "The prompt's tokens: with one start at most, and with no end that a decoder would have to go on after."
    ids, start, end = tokenizer(text, verbose=False)["input_ids"], tokenizer.bos_token_id, tokenizer.eos_token_id
    if start is not None and ids[:2] == [start, start]:  # one from a chat template, one from the tokenizer
        ids = ids[1:]
    if not model.config.is_encoder_decoder and ids and ids[-1] == end and not text.endswith(tokenizer.eos_token):
        ids = ids[:-1]
    if not ids and start is None:
        raise ValueError("a prompt is empty, and the tokenizer has no token that starts a text: write something")
    return ids or [start]


def _check_room(ids: list[list[int]], model: Any, max_new_tokens: int) -> None:
    positions = most_tokens(model)
    read_apart = model.config.is_encoder_decoder
    for i, tokens in enumerate(ids):
        needed = max(len(tokens), max_new_tokens) if read_apart else len(tokens) + max_new_tokens
        if needed > positions:
            raise ValueError(
                f"prompt {i} has {len(tokens)} tokens and {max_new_tokens} new ones are asked for, but the model takes "
                f"{positions}: shorten the prompt, or lower max_new_tokens"
            )


def _continued(ids: list[list[int]], model: Any, tokenizer: Any, settings: dict[str, Any]) -> list[list[int]]:
    "The new tokens of each row, without its end of text and what stands behind."
    padding = tokenizer.pad_token_id or tokenizer.eos_token_id or 0  # masked, so any token will do
    left = not model.config.is_encoder_decoder  # a decoder goes on at the right
    inputs = {
        "input_ids": _padded(ids, padding, left).to(device_of(model)),
        "attention_mask": _padded([[1] * len(tokens) for tokens in ids], 0, left).to(device_of(model)),
    }
    settings = {"pad_token_id": padding, **settings}
    ends = settings.get("eos_token_id", model.generation_config.eos_token_id)
    ends = [ends] if isinstance(ends, int) else ends or []
    start = inputs["input_ids"].shape[1] if left else 1
    return [_until(ends, row[start:]) for row in model.generate(**inputs, **settings).tolist()]


def _padded(rows: list[list[int]], value: int, left: bool) -> torch.Tensor:
    width = max(map(len, rows))
    paddings = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, paddings, strict=True)])


def _until(ends: list[int], tokens: list[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]


def _text(prompt: list[int], new: list[int], model: Any, tokenizer: Any) -> str:
    "What stands behind the prompt; a decoder's new tokens are read along with it, which keeps the space between."
    if model.config.is_encoder_decoder:
        return tokenizer.decode(new, skip_special_tokens=True)
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, prompt + new))
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new, skip_special_tokens=True)
