"""A model that reads n tokens before every text, and its surroundings, which know of the text alone."""

import inspect
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune_lessons.lab.models import prompted_caches as caches
from finetune_lessons.lab.models.inputs import most_tokens
from finetune_lessons.lab.models.prompted_inputs import check_whole, longer_mask, named_inputs, plain_mask
from finetune_lessons.lab.models.prompted_outputs import Reading, as_asked, without_front_of_encoder

READ_BY_GREATEST = ("clip", "metaclip_2", "groupvit", "owlv", "x_clip", "altclip", "aimv2")
ELSEWHERE = "add_lora and add_adapters go into its layers"


@dataclass(frozen=True)
class Surroundings:
    "What n tokens before a text have to fit in, and what is said of them outside: nothing."

    n: int
    most_tokens: float = math.inf  # with the n
    window: int | None = None  # tokens that attention looks back at, where it is limited

    @classmethod
    def of(cls, host: Any, n: int) -> "Surroundings":
        config = host.config.get_text_config(decoder=True)
        window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
        return cls(n, most_tokens(host) + n, window)

    def before(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any], enabled: bool) -> tuple[dict, bool]:
        """The inputs by name, and whether the n tokens are in a cache among them.

        Raises ValueError where there is no place for them, or where they would not be in front.
        """
        inputs = named_inputs(module, args, kwargs)
        started = caches.holds_prompt(inputs, self.n if enabled else 0)
        if not enabled:
            return inputs, started
        if (ids := inputs.get("input_ids")) is None:
            given = ", ".join(name for name, x in inputs.items() if x is not None)
            raise ValueError(f"a soft prompt goes before input_ids; given: {given}. Give the texts as tokens")
        inputs["attention_mask"] = plain_mask(module, inputs)
        check_whole(inputs, started)
        if (length := (caches.length(inputs) or 0) + ids.shape[-1] + self.n) > self.most_tokens:
            raise ValueError(f"{length} tokens with the soft prompt; the model takes {self.most_tokens}")
        return inputs, started

    def inside(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        "The inputs with caches as the model is to see them."
        return caches.prepared(inputs, self.n, self.window)

    def after(self, module: nn.Module, kwargs: Mapping[str, Any], output: Any, own: Tensor, apart: bool) -> Any:
        """The outputs of the text alone, its own of the tokens read; of an encoder beside a decoder, the last states
        with all that the decoder sees.
        """
        mask, cached = kwargs.get("attention_mask"), caches.length(kwargs)
        padded = isinstance(mask, Tensor) and mask.ndim == own.ndim and not bool(mask[..., 0].all())
        own = own.flatten(0, -2)  # of several choices
        caches.remembered(output, self.n)
        reading = Reading(self.n, own, bool(own.all()), cached, padded)
        return reading.without_front(module, output, kwargs, kept=("last_hidden_state",) if apart else ())

    def looking(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        "The inputs of what looks at an encoder's states; these may be of n tokens more than their mask."
        inputs = named_inputs(module, args, kwargs)
        mask, states = inputs.get("encoder_attention_mask"), inputs.get("encoder_hidden_states")
        if mask is not None and states is not None and states.shape[1] == mask.shape[-1] + self.n:
            inputs["encoder_attention_mask"], _ = longer_mask(mask, self.n)
        return inputs

    def after_looking(self, kwargs: Mapping[str, Any], output: Any) -> Any:
        "The outputs of a model with a decoder, as if its encoder had read the text alone."
        states = output.get("encoder_last_hidden_state")
        mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
        mask = torch.ones_like(ids) if mask is None and ids is not None else mask
        if states is not None and mask is not None and states.shape[1] == mask.shape[-1] + self.n:
            without_front_of_encoder(output, longer_mask(mask, self.n)[1])
        return as_asked(output, kwargs)


def text_model(model: nn.Module) -> Any:
    "The model of transformers in it that reads texts. Raises ValueError where there is none."
    from transformers import PreTrainedModel

    host = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if host is None:
        raise ValueError(f"a soft prompt goes into a model of transformers; given: {type(model).__name__}")
    if host.main_input_name != "input_ids" or "input_ids" not in inspect.signature(host.forward).parameters:
        raise ValueError(
            f"{type(host).__name__} reads {host.main_input_name}, and a soft prompt goes before input_ids: {ELSEWHERE}"
        )
    if str(host.config.model_type).startswith(READ_BY_GREATEST):
        raise ValueError(
            f"{type(host).__name__} takes the greatest number for the end of a text, and a virtual token has a greater "
            f"one: {ELSEWHERE}"
        )
    return host


def reader_of(host: Any) -> Any:
    "The part that the texts go into: the encoder, where there is one beside a decoder."
    apart = host.config.is_encoder_decoder and "decoder_input_ids" in inspect.signature(host.forward).parameters
    return host.get_encoder() if apart else host


def embedding_of(host: Any) -> Any:
    "What gives each token of a text its vector. Raises ValueError where it is no embedding."
    reader = host.get_encoder()  # T5's has one of its own, with the same weight; that of others has none
    words = getattr(reader, "get_input_embeddings", host.get_input_embeddings)()
    if not hasattr(words, "num_embeddings") or not isinstance(words(_first_words(words, 1)), Tensor):
        raise ValueError(f"{type(host).__name__} has no embedding that gives each token a vector: {ELSEWHERE}")
    return words


def _first_words(words: Any, most: int) -> Tensor:
    return torch.arange(min(words.num_embeddings, most), device=words.weight.device)[None]


def whole_number(n: Any) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"num_virtual_tokens must be at least 1; given: {n!r}")
    return operator.index(n)


@torch.no_grad()
def embedded(words: Any) -> tuple[float, int, torch.dtype]:
    "Of the vectors that an embedding puts out: their standard deviation, their width, and a type for more of them."
    ids = _first_words(words, 1000)
    known, table = words(ids), words.weight
    if table.is_floating_point() and table.shape[-1] == known.shape[-1]:
        scale = known.float().std() / table[ids].float().std()  # 1 for most: some multiply
        deviation = table.std() * scale
    else:  # packed
        deviation = known.float().std()
    return deviation.item(), known.shape[-1], torch.promote_types(known.dtype, torch.float32)
