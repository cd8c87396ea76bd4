"""Pretrained models with their tokenizers: packaged ones by name, any other by hub id or folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_lessons.lab.data.assets import ASSETS, asset_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGED_MODELS = ("minilm", "smollm2")


def load_encoder(
    name: str = "minilm",  # packaged name, hub id, or folder; decoders work too, they classify by their last token
    num_labels: int = 2,  # outputs of the new head; 1 for a regression
    seed: int = 0,  # of the head's initial weights
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A pretrained model with a fresh classification head, and its tokenizer.

    The weights are fp32 and on the CPU; a `Run` moves them. Raises ValueError for an unknown name.
    """
    if num_labels < 1:
        raise ValueError(f"num_labels is the number of classes, at least 1 (a regression); given: {num_labels}")
    return _load("AutoModelForSequenceClassification", name, seed, num_labels=num_labels)


def load_causal_lm(
    name: str = "smollm2",  # packaged name, hub id, or folder
    seed: int = 0,  # of weights that the checkpoint lacks, if any
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    "A pretrained decoder with its language-model head, and its tokenizer. See `load_encoder`."
    return _load("AutoModelForCausalLM", name, seed)


def load_seq2seq(
    name: str,  # hub id or folder, such as "google-t5/t5-small"
    seed: int = 0,  # of weights that the checkpoint lacks, if any
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    "A pretrained encoder-decoder with its language-model head, and its tokenizer. See `load_encoder`."
    return _load("AutoModelForSeq2SeqLM", name, seed)


def _load(auto_class: str, name: str, seed: int, **config: Any) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import transformers
    from safetensors import SafetensorError

    source = asset_path(name) if name in PACKAGED_MODELS else name
    try:
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = getattr(transformers, auto_class).from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **config
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(_why_not_loaded(name, auto_class, error)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _why_not_loaded(name: str, auto_class: str, error: Exception) -> str:
    if name in ASSETS and name not in PACKAGED_MODELS:
        return f"{name!r} is a data set; packaged models: {', '.join(PACKAGED_MODELS)}"
    kind = "folder" if Path(name).is_dir() else "model on the hub (is there a network?) or folder here"
    first_line = str(error).strip().partition("\n")[0]
    return (
        f"could not load {name!r} as {auto_class} with weights in safetensors from a {kind}; "
        f"packaged models, which need no network: {', '.join(PACKAGED_MODELS)}. transformers says: {first_line}"
    )


@contextmanager
def quiet() -> Iterator[None]:
    "transformers' notices and bars off inside, as they were outside."
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
