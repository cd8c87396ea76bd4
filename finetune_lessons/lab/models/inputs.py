"""Texts as a model in use reads them, whatever state it is in."""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch


def check_given(model: Any, tokenizer: Any) -> None:
    "Raises ValueError for a model that is no module, and for a tokenizer that is none."
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model is a torch.nn.Module, such as load_encoder gives; given: {_shown(model)}")
    if not hasattr(tokenizer, "pad_token_id"):
        raise ValueError(
            f"tokenizer is the one that belongs to the model, as load_encoder gives both; given: {_shown(tokenizer)}"
        )
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules())
    if not offloaded and (empty := [name for name, p in model.named_parameters() if p.is_meta]):
        raise ValueError(f"{empty[0]} is one of {len(empty)} weights on the device meta, without numbers: load them")


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | None) else type(value).__name__


def as_texts(texts: "str | Iterable[str]", what: str) -> list[str]:
    "A list of texts, of one or several. Raises ValueError, naming the argument, for anything else."
    if isinstance(texts, Mapping) or hasattr(texts, "column_names") or hasattr(texts, "columns"):
        given = type(texts).__name__
        raise ValueError(f"{what} are a text or a list of texts; given: {given}. Pass its column of texts")
    if not isinstance(texts, Iterable):
        raise ValueError(f"{what} are a text or a list of texts; given: {texts!r}")
    listed = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            raise ValueError(f"{what} are a text or a list of texts, but number {i} is {text!r}")
    return listed


def most_tokens(model: torch.nn.Module) -> float:
    "How many tokens the model takes at most, besides those of a prompt in it; infinity if it does not count them."
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None) or -1
    virtual = sum(vars(module).get("num_virtual_tokens", 0) for module in model.modules())
    return math.inf if positions < 1 else positions - first_position(model) - virtual


def first_position(model: torch.nn.Module) -> int:
    "The number of the place of a text's first token; RoBERTa counts from the padding token's number on."
    named = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    padding = getattr(next(named, None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def accepted(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    "Those inputs that the model has an argument for, on its device."
    names = inspect.signature(model.forward).parameters
    device = device_of(model)
    return {name: tensor.to(device) for name, tensor in inputs.items() if name in names}


def device_of(model: torch.nn.Module) -> torch.device:
    "Where its inputs go; where accelerate keeps the weights elsewhere until they are needed, it moves the inputs too."
    return next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))


def batches_by_length(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    "The numbers of the texts, longest first, so that a batch too large for the memory fails at once."
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is a number of texts, at least 1; given: {batch_size!r}")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def plain_name(name: str) -> str:
    "The name that a weight has in a model of which no part is compiled."
    return name.replace("_orig_mod.", "")


def unwrapped(model: Any) -> Any:
    "The model that `torch.compile`, `DistributedDataParallel` and their like were given."
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model, keep_torch_compile=False)
