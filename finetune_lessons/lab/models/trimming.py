"""A model that knows the words of some texts alone: most of a multilingual one is words that nobody asks it for."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune_lessons.lab.models.inputs import as_texts, check_given, device_of, unwrapped
from finetune_lessons.lab.models.new_modules import MADE_ANEW
from finetune_lessons.lab.models.pieces import needed, state_of, with_pieces
from finetune_lessons.lab.models.saving import beside_its_configuration

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPARE = 1024  # rows of the embeddings that a tokenizer may leave unused: they are rounded up for the hardware's sake


def trim_vocabulary(
    model: "PreTrainedModel",  # is left as it is
    tokenizer: "PreTrainedTokenizerBase",  # a fast one; is left as it is
    texts: Iterable[str],  # all that is to be read as before, with whatever prefix the model is given
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A smaller model with its tokenizer, which read these texts as before, with the same logits.

    They keep the pieces of words that the texts are made of, the special tokens and the single characters of those
    pieces, and print how many parameters are left. Other texts are read too, in other pieces than before; a character
    that these texts lack becomes the unknown token, whose share in them is printed.
    Raises ValueError for a tokenizer that is not the model's, for a model with a method in it, and for texts that could
    not be read as before.
    """
    check_given(model, tokenizer)
    model = unwrapped(model)
    texts, state = as_texts(texts, "texts"), state_of(tokenizer)
    if not texts:
        raise ValueError("texts are all that the smaller model is to read as before; given: none")
    _check_belong(model, tokenizer)
    numbers = _read(tokenizer, texts)
    kept = sorted(needed(state, set(chain(*numbers))) | _named(model))
    place = {number: i for i, number in enumerate(kept)}
    small = with_pieces(tokenizer, state, place)
    _check_same(texts, [[place[number] for number in row] for row in numbers], _read(small, texts))
    fewer = _with_rows(model, place)
    _say(model, fewer, tokenizer, numbers)
    return fewer, small


def _read(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]


def _rows(model: Any) -> Tensor:
    return model.get_input_embeddings().weight


def _check_belong(model: Any, tokenizer: Any) -> None:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"trim_vocabulary takes a model of transformers; given: {type(model).__name__}")
    if differing := beside_its_configuration(model):
        raise ValueError(
            f"{type(model).__name__} is not what its configuration makes (see {differing[0]}): trim the vocabulary "
            "first, and add methods to what is left"
        )
    rows, words = len(_rows(model)), len(tokenizer)
    if not words <= rows <= words + SPARE:
        raise ValueError(
            f"the tokenizer has {words:,} pieces and the model embeds {rows:,}: it is not this model's. "
            "Take both from one load_encoder or load_causal_lm"
        )


def _check_same(texts: list[str], expected: list[list[int]], found: list[list[int]]) -> None:
    for text, before, after in zip(texts, expected, found, strict=True):
        if before != after:
            raise ValueError(
                f"with fewer pieces the tokenizer cuts {text[:80]!r} otherwise than before, so the vocabulary of "
                "these texts cannot be trimmed: leave this text out, or use the whole model"
            )


def _named(model: Any) -> set[int]:
    "The numbers of the tokens that the model's configurations name."
    configs = [model.config, model.config.get_text_config(), getattr(model, "generation_config", None)]
    values = [value for config in configs for value in _token_ids(config).values()]
    flat = chain(*(value if isinstance(value, list) else [value] for value in values))
    return {number for number in flat if 0 <= number < len(_rows(model))}


def _token_ids(config: Any) -> dict[str, Any]:
    found = {} if config is None else vars(config)
    return {key: value for key, value in found.items() if key.endswith("_token_id") and isinstance(value, int | list)}


def _rename(config: Any, place: Mapping[int, int]) -> None:
    for key, value in _token_ids(config).items():
        setattr(config, key, [place.get(n, n) for n in value] if isinstance(value, list) else place.get(value, value))


def _with_rows(model: Any, place: Mapping[int, int]) -> Any:
    "The same model with these of its words, in their new places."
    config = deepcopy(model.config)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        _rename(part, place)
    config.get_text_config().vocab_size = len(place)
    with torch.random.fork_rng():
        small = type(model)(config)
    shapes = {key: tensor.shape for key, tensor in small.state_dict().items()}
    kept = torch.tensor(list(place), device=device_of(model))
    weights = {key: _cut(key, tensor, shapes[key], kept) for key, tensor in model.state_dict().items()}
    small.load_state_dict(weights, assign=True)
    _as_it_was(small, model)
    if getattr(model, "generation_config", None) is not None:
        small.generation_config = deepcopy(model.generation_config)
        _rename(small.generation_config, place)
    return small


def _cut(key: str, tensor: Tensor, shape: torch.Size, kept: Tensor) -> Tensor:
    for dim in [dim for dim in range(tensor.ndim) if tensor.shape[dim] != shape[dim]]:
        if shape[dim] != len(kept):
            raise ValueError(f"{key} depends on the vocabulary in a way that is not known: {tuple(tensor.shape)}")
        tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor.clone()


def _as_it_was(small: Any, model: Any) -> None:
    "Ties, mode, device, what is frozen and what is new."
    names: dict[Any, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        path, _, own = name.rpartition(".")
        setattr(small.get_submodule(path), own, small.get_parameter(names.setdefault(parameter, name)))
    small.to(device_of(model)).train(model.training)
    for new, old in zip(small.parameters(), model.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    vars(small)[MADE_ANEW] = vars(model).get(MADE_ANEW, ())


def _say(model: Any, small: Any, tokenizer: Any, numbers: list[list[int]]) -> None:
    (words, size), (fewer, smaller) = ((len(_rows(m)), m.num_parameters() / 1e6) for m in (model, small))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in numbers) / sum(map(len, numbers))
    print(
        f"trim_vocabulary: kept {fewer:,} of {words:,} words and {smaller:.1f} of {size:.1f} million parameters; "
        f"{unknown:.2%} of the tokens of these texts are unknown, as before."
    )
