"""Prefixes as the library peft keeps them: a flat table in a cache, and n positions more for the text behind it."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_lessons.lab.models.files import base_of, replacing
from finetune_lessons.lab.models.peft_files import HEADS, TASKS, adapter_files, peft_library, write_adapter

TABLE, BODY = "prompt_embeddings", "base_model."
_WITH_HEADS = ("SEQ_CLS", "TOKEN_CLS")  # the tasks for which peft trains a head along with a prefix
_BY_DISTANCE = {"BloomAttention", "MptAttention"}  # positions are a bias between two tokens, and not an input


@dataclass(frozen=True)
class Turn:
    "What a number of positions does to a key: pairs of its numbers are turned, each by its angle."

    first: Tensor  # where the numbers of the pairs stand in a key
    second: Tensor
    angles: Tensor

    def __call__(self, keys: Tensor, sign: int = 1) -> Tensor:  # (..., width); sign -1: back
        keys, cos, sin = keys.double().clone(), self.angles.cos(), sign * self.angles.sin()
        a, b = keys[..., self.first], keys[..., self.second]
        keys[..., self.first], keys[..., self.second] = a * cos - b * sin, a * sin + b * cos
        return keys


NO_TURN = Turn(torch.arange(0), torch.arange(0), torch.zeros(0))


def measured_turn(
    before: Tensor,  # (..., width): keys at position 0
    after: Tensor,  # the same keys at another position
) -> Turn | None:
    "The turn from one to the other, in either of the ways to pair numbers that models know; None if it is none."
    before, after, width = before.double().cpu(), after.double().cpu(), before.shape[-1]
    halves = [torch.arange(turned).view(2, -1) for turned in range(0, width + 1, 2)]
    neighbours = [torch.arange(turned).view(-1, 2).T for turned in range(0, width + 1, 2)]
    turns = [_turn(before, after, *pairs) for pairs in halves + neighbours]
    best = min(turns, key=lambda turn: (turn(before) - after).abs().max().item())
    return best if (best(before) - after).abs().max() <= 1e-4 * before.abs().max() else None


def _turn(before: Tensor, after: Tensor, first: Tensor, second: Tensor) -> Turn:
    a, b, c, d = (keys[..., pair].flatten(0, -2) for keys in (before, after) for pair in (first, second))
    return Turn(first, second, torch.atan2((a * d - b * c).sum(0), (a * c + b * d).sum(0)))


def position_inputs(
    model: Any,
    n: int,
) -> list[dict[str, Tensor]]:
    "Some words, each alone, at position 0 and at position n; none where positions are nothing that keys know of."
    takes = inspect.signature(model.forward).parameters
    if "position_ids" not in takes:
        return []
    device = next(model.parameters()).device
    ids = torch.arange(min(16, model.config.get_text_config().vocab_size), device=device)[:, None]
    return [{"input_ids": ids, "position_ids": torch.full_like(ids, position)} for position in (0, n)]


def check_comparable(
    model: Any,
    attentions: Mapping[str, nn.Module],  # those with a prefix, by path
    heads: Iterable[str],  # what is trained whole
) -> None:
    "ValueError, in one sentence, for a model in which a prefix of peft's is not ours."
    name, config, modules = type(model).__name__, model.config.get_text_config(), list(attentions.values())
    layers, windows = config.num_hidden_layers, [getattr(module, "sliding_window", None) for module in modules]
    if not any(hasattr(module, "sliding_window") for module in modules):
        windows = [getattr(config, "sliding_window", None)]
    takes = inspect.signature(getattr(model, "base_model", model).forward).parameters
    if model.config.is_encoder_decoder or "past_key_values" not in takes:
        why = "a prefix of peft's is a cache that a decoder has filled, and this is no decoder"
    elif any(windows):
        why = f"its attention reaches {max(filter(None, windows))} tokens back, among which peft counts the prefix"
    elif len(modules) != layers:
        why = f"peft has a prefix in each of its {layers} layers, here {len(modules)} attentions have one"
    elif "position_ids" not in takes and not {type(module).__name__ for module in modules} <= _BY_DISTANCE:
        why = "peft moves the text by the length of the prefix, and this model takes no positions to compare"
    elif other := set(heads) - HEADS.get(_task(model) or "", set()):
        why = f"{min(other)} is trained whole, which peft's prefixes cannot have along. save_method keeps it"
    else:
        return
    raise ValueError(f"{name}: {why}")


def checked_turns(model: Any, turns: Mapping[str, Turn | None]) -> list[Turn]:
    "The turns; a ValueError where one was not found."
    if lost := [path for path, turn in turns.items() if turn is None]:
        raise ValueError(
            f"{type(model).__name__}: peft moves the text by the length of the prefix, and this cannot be undone where "
            f"positions are learnt, or weights are kept in few bits, as at {lost[0]}. save_method keeps the prefix"
        )
    return [turn for turn in turns.values() if turn is not None]


def _task(model: Any) -> str | None:
    endings = {ending: task for ending, task in TASKS.items() if task in _WITH_HEADS}
    task = next((task for ending, task in endings.items() if type(model).__name__.endswith(ending)), None)
    return task or ("CAUSAL_LM" if model.can_generate() else None)


def write_prefix(
    folder: str | Path,
    model: Any,
    tables: list[Tensor],  # of each layer (2, key heads, virtual tokens, width of a head)
    heads: Mapping[str, Tensor],  # what was trained whole, by name
) -> None:
    "Write what `PeftModel.from_pretrained` reads."
    _, key_heads, n, width = tables[0].shape
    config = peft_library().PrefixTuningConfig(
        task_type=_task(model),
        num_virtual_tokens=n,
        num_layers=len(tables),
        num_attention_heads=key_heads,
        token_dim=key_heads * width,
        encoder_hidden_size=key_heads * width,
        num_transformer_submodules=1,
        inference_mode=True,
        base_model_name_or_path=base_of(model),
    )
    flat = torch.stack(tables).permute(3, 0, 1, 2, 4).flatten(1).float()  # (n, layers * 2 * key heads * width)
    tensors = {TABLE: flat} | {BODY + name: x for name, x in heads.items()}
    with replacing(folder) as new:
        write_adapter(new, config, tensors)


def read_prefix(
    folder: str | Path,
) -> tuple[Tensor, dict[str, Tensor]]:
    "(layers, 2, key heads, virtual tokens, width of a head), and what was trained whole, by name."
    with adapter_files(folder, "a prefix that can be read") as (config, tensors):
        if not isinstance(config, peft_library().PrefixTuningConfig) or TABLE not in tensors:
            raise ValueError(f"it holds {getattr(config.peft_type, 'value', config.peft_type)}, no table of a prefix")
        if config.num_transformer_submodules != 1:
            raise ValueError("it is the prefix of an encoder-decoder")
        flat = tensors.pop(TABLE)
        by_layer = flat.unflatten(1, (config.num_layers or 0, 2, config.num_attention_heads or 0, -1))
    return by_layer.permute(1, 2, 3, 0, 4), {name.removeprefix(BODY): x for name, x in tensors.items()}


def check_shapes(given: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    "ValueError unless there are as many tables, of the same shapes."
    theirs, ours = ([tuple(table.shape) for table in tables] for tables in (given, expected))
    if theirs != ours:
        raise ValueError(f"it has {len(theirs)} tables {theirs[0]}, the model needs {len(ours)} of {ours[0]}")
