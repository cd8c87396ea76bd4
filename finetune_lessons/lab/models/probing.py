"""Small inputs that a model of any kind can read: what a call does inside is seen by making one."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from finetune_lessons.lab.models.inputs import unwrapped

_TEXTS, _TOKENS, _SIDE = 2, 8, 64  # batch normalisation needs two examples; the side of a picture where any will do
_TARGET = ("decoder_input_ids", "decoder_attention_mask")
_TEXT = ("input_ids", "attention_mask", "global_attention_mask", *_TARGET)


def dummy_inputs(
    model: Any,  # of transformers, or with its `config` and `forward`
    task: str | None = None,  # of a model with several heads; None: its first
) -> dict[str, Any]:
    """Two examples of what the model reads, by the names of its arguments: word ids, pixels, sound; all of a pair.

    They are on the model's device, numbers in its floating type. Raises ValueError where none are known here.
    """
    model = unwrapped(model)
    takes = inspect.signature(model.forward).parameters
    name, pair = _main_input(model, takes), _is_pair(model)
    inputs: dict[str, Any] = {key: make(model) for key, make in _SENSES.items() if key == name or pair and key in takes}
    if name == "input_ids" or pair or model.config.is_encoder_decoder:
        ids = _ids(model)
        masks = {mask: torch.ones_like(ids) for mask in ("attention_mask", "decoder_attention_mask")}
        first = torch.zeros_like(ids).index_fill_(-1, torch.tensor([0]), 1)  # Longformer's: from where all is seen
        known = {"input_ids": ids, "decoder_input_ids": ids, **masks, "global_attention_mask": first}
        names = _TEXT if name == "input_ids" or pair else _TARGET
        inputs |= {key: known[key] for key in names if key in takes}
    if isinstance(getattr(model, "num_labels", None), Mapping):
        inputs["task"] = task or next(iter(model.num_labels))
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    return {key: _like(value, parameter) for key, value in inputs.items()}


def _main_input(model: Any, takes: Mapping[str, Any]) -> str:
    said = getattr(model, "main_input_name", "input_ids")
    known = [name for name in (said, "input_ids", *_SENSES) if name in takes and name in ("input_ids", *_SENSES)]
    if not known or said in takes and said != known[0]:
        raise ValueError(f"{type(model).__name__} reads {said}, and what that looks like is not known here")
    return known[0]


def _is_pair(model: Any) -> bool:
    "Whether it compares texts with pictures or sounds, as CLIP."
    config, generates = model.config, getattr(model, "can_generate", lambda: False)()
    other = hasattr(config, "vision_config") or hasattr(config, "audio_config")
    return hasattr(config, "text_config") and other and not generates


def _like(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)


def _ids(model: Any) -> Tensor:
    "Words of the vocabulary that have no meaning of their own to the model, and the end of the text."
    config = model.config.get_text_config()
    special = {value for key, value in vars(config).items() if key.endswith("token_id") and isinstance(value, int)}
    size = min(config.vocab_size, len(special) + _TOKENS + 1)
    words = [i for i in range(1, size) if i not in special] or [0]
    row = [words[i % len(words)] for i in range(_TOKENS)]
    end = getattr(config, "eos_token_id", None)
    row[-1] = end if isinstance(end, int) and 0 <= end < config.vocab_size else row[-1]
    ids = torch.tensor([row] * _TEXTS)
    return ids.unsqueeze(1) if type(model).__name__.endswith("MultipleChoice") else ids


def _part(config: Any, *names: str) -> Any:
    "That part of a configuration of several which says how what is seen or heard looks."
    return next((getattr(config, name) for name in names if hasattr(config, name)), config)


def _pixels(model: Any) -> Tensor:
    config = _part(model.config, "vision_config", "encoder")
    side = getattr(config, "image_size", None) or getattr(config, "crop_size", None) or _SIDE
    height, width = (side, side) if isinstance(side, int) else tuple(side)
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    shape = (frames, config.num_channels if hasattr(config, "num_channels") else 3, height, width)
    return torch.rand(_TEXTS, *(shape if frames else shape[1:]), generator=_generator())


def _features(model: Any) -> Tensor:
    config = _part(model.config, "audio_config", "encoder")
    if hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):  # Whisper
        return torch.rand(_TEXTS, config.num_mel_bins, 2 * config.max_source_positions, generator=_generator())
    widths = ["input_feat_per_channel", "feature_projection_input_dim"]
    widths += ["num_mel_bins"] * (not hasattr(config, "spec_size"))  # CLAP's is turned into a picture
    width = next((getattr(config, name) for name in widths if hasattr(config, name)), None)
    if width is None:
        raise ValueError(f"{type(model).__name__} reads input_features, and what that looks like is not known here")
    return torch.rand(_TEXTS, 4 * _frames(config), width, generator=_generator())


def _sound(model: Any) -> Tensor:
    config = _part(model.config, "audio_config", "encoder")
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):  # a spectrogram
        return torch.rand(_TEXTS, config.max_length, config.num_mel_bins, generator=_generator())
    strides, kernels = (getattr(config, f"conv_{name}", (320,)) for name in ("stride", "kernel"))
    return torch.rand(_TEXTS, math.prod(strides) * _frames(config) + sum(kernels), generator=_generator())


def _frames(config: Any) -> int:
    "More than are masked at once in training."
    return 2 * max(_TOKENS, getattr(config, "mask_time_length", 0))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


_SENSES = {
    "pixel_values": _pixels, "pixel_values_videos": _pixels, "input_features": _features, "input_values": _sound,
}  # fmt: skip
