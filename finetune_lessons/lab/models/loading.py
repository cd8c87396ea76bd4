"""Pretrained models with their tokenizers: packaged ones by name, any other by hub id or folder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_lessons.lab.data.assets import ASSETS, asset_path
from finetune_lessons.lab.models.causality import sees_ahead
from finetune_lessons.lab.models.checkpoints import (
    CLASSIFIER,
    PREFIXES,
    body_weights,
    check_filled,
    has_prefixes,
    is_classifier,
    lacks_head,
    unfilled,
)
from finetune_lessons.lab.models.new_modules import note_made_anew
from finetune_lessons.lab.models.padding import align_padding

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PACKAGED_MODELS = ("minilm", "smollm2", "e5")
DECIDED_HERE = (
    "LOAD REPORT",  # missing, unused and mismatched weights: `check_filled`
    "checkpoint seem corrupted",  # tied weights that are both missing: likewise
    "we will NOT tie them",  # the checkpoint has both, and both are loaded
    "must be `None` or an integer within the vocabulary",  # a padding token of -1: `align_padding`
    "as a standalone, add `is_decoder=True.`",  # an encoder asked for as a decoder: `sees_ahead`
    "Ignoring clean_up_tokenization_spaces",  # of what is decoded, whose spaces stay as they are
)  # of what transformers warns of while loading; anything else comes through


def load_encoder(
    name: str | Path = "minilm",  # packaged name, hub id, or folder; decoders too, they classify by their last token
    num_labels: int | None = None,  # outputs of the head, 1 for a regression; None: as many as were saved, or 2
    seed: int = 0,  # of a new head's initial weights
    new_head: bool = False,  # even where a head was saved
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A pretrained model with a classification head, and its tokenizer.

    What was saved as a classifier keeps its head and the names of its classes, anything else gets a new head. The
    weights are fp32 and on the CPU; a `Run` moves them. Raises ValueError for an unknown name, for a saved head with
    another number of outputs, and for weights that leave anything random but a new head.
    """
    if num_labels is not None and num_labels < 1:
        raise ValueError(f"num_labels is the number of classes, at least 1 (a regression); given: {num_labels}")
    name, auto_class = str(name), f"AutoModel{CLASSIFIER}"
    config = _config(name, auto_class)
    saved = is_classifier(config)
    if saved and not new_head and num_labels not in (None, config.num_labels):
        classes = ", ".join(map(str, (config.id2label or {}).values()))
        raise ValueError(
            f"{name!r} was saved with {config.num_labels} outputs ({classes}), given: num_labels={num_labels}. Leave "
            "num_labels out to go on with its head, or start a new one with new_head=True"
        )
    if not saved:
        config.id2label = None  # those of another task
    if not saved or num_labels not in (None, config.num_labels):
        config.num_labels, config.problem_type = num_labels or 2, None
    return _load(name, auto_class, config, seed, new_head or not saved)


def load_causal_lm(
    name: str | Path = "smollm2",  # packaged name, hub id, or folder
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A pretrained decoder with its language-model head, and its tokenizer. See `load_encoder`.

    Raises ValueError for a model that sees the tokens it is to predict, as an encoder does.
    """
    name, auto_class = str(name), "AutoModelForCausalLM"
    model, tokenizer = _load(name, auto_class, _config(name, auto_class))
    with _said_in_words(name, auto_class):
        ahead = sees_ahead(model)
    if ahead:
        raise ValueError(
            f"{name!r} is no causal language model: in {type(model).__name__} later tokens change what is said of "
            "earlier ones, as in an encoder. load_encoder gives it a head that classifies"
        )
    return model, tokenizer


def load_seq2seq(
    name: str | Path,  # hub id or folder, such as "google-t5/t5-small"
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    "A pretrained encoder-decoder with its language-model head, and its tokenizer. See `load_encoder`."
    name, auto_class = str(name), "AutoModelForSeq2SeqLM"
    return _load(name, auto_class, _config(name, auto_class))


def _source(name: str) -> Any:
    return asset_path(name) if name in PACKAGED_MODELS else name


def _config(name: str, auto_class: str) -> "PreTrainedConfig":
    from transformers import AutoConfig

    with _said_in_words(name, auto_class), quiet():
        config = AutoConfig.from_pretrained(_source(name), trust_remote_code=False)
        if not {"id2label", "num_labels"} & config.get_config_dict(_source(name))[0].keys():
            config.num_labels = 2  # which is never written, but for some, such as BART, is not what is read without it
        return config


def _load(
    name: str, auto_class: str, config: "PreTrainedConfig", seed: int = 0, new_head: bool = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import transformers

    from_pretrained = getattr(transformers, auto_class).from_pretrained
    with _said_in_words(name, auto_class), quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(_source(name), trust_remote_code=False)
        model, info = _filled(from_pretrained, _source(name), config, seed)
        if has_prefixes(info):
            model, info = _filled(from_pretrained, _source(name), config, seed, key_mapping=PREFIXES)
            vars(model).pop("_weight_conversions", None)  # they would bring the prefixes back when it is saved
    check_filled(name, model, info, new_head)
    new = unfilled(info)
    if new_head and (is_classifier(config) or not lacks_head(model, info)):
        with quiet():
            model, info = _filled(type(model).from_pretrained, None, config, seed, state_dict=body_weights(model))
            new |= unfilled(info)
    note_made_anew(model, new)
    align_padding(model, tokenizer)
    return model, tokenizer


def _filled(
    from_pretrained: Callable[..., Any], source: Any, config: "PreTrainedConfig", seed: int, **how: Any
) -> "tuple[PreTrainedModel, dict[str, Any]]":
    "The model, and what of it the checkpoint filled; the rest is random by the seed."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **how,
        )


@contextmanager
def _said_in_words(name: str, auto_class: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file can end in any
        raise ValueError(_why_not_loaded(name, auto_class, error)) from error


def _why_not_loaded(name: str, auto_class: str, error: Exception) -> str:
    if name in ASSETS and name not in PACKAGED_MODELS:
        return f"{name!r} is a data set; packaged models: {', '.join(PACKAGED_MODELS)}"
    kind = "folder" if Path(name).is_dir() else "model on the hub (is there a network?) or folder here"
    first_line = str(error).strip().partition("\n")[0]
    return (
        f"could not load {name!r} as {auto_class} with weights in safetensors from a {kind}; "
        f"packaged models, which need no hub: {', '.join(PACKAGED_MODELS)}. transformers says: {first_line}"
    )


@contextmanager
def quiet() -> Iterator[None]:
    "transformers' bars, and its warnings of what is decided here, off inside."
    from transformers.utils import logging as hf_logging

    def undecided(record: logging.LogRecord) -> bool:
        return not any(notice in record.getMessage() for notice in DECIDED_HERE)

    library = hf_logging.get_logger("transformers")
    handlers = [*library.handlers, *(logging.getLogger().handlers if library.propagate else [])]
    bars = hf_logging.is_progress_bar_enabled()
    for handler in handlers:
        handler.addFilter(undecided)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(undecided)
        if bars:
            hf_logging.enable_progress_bar()
