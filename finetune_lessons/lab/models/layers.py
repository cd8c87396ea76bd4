"""Which layers a model has, and what they are when some of them are left out."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

# what configurations call the number of layers, a list with an item for each, and what is a layer's own by its place
DEPTHS = {"num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_decoder_layers"}
DEPTHS |= {"encoder_layers", "decoder_layers"}
_PER_LAYER = {"layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "attention_layers"}
_PER_LAYER |= {"attention_window"}
_OF_PLACE = {"layer_idx", "layer_id", "layer_number"}  # where a layer keeps keys and values
_OF_PLACE |= {"has_relative_attention_bias"}  # T5's first layer, for all


def layer_stacks(model: nn.Module) -> dict[str, int]:
    "The paths of the lists of transformer layers, and how many are in each."
    from transformers.modeling_layers import GradientCheckpointingLayer

    lists = {path: m for path, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    found = {path: len(m) for path, m in lists.items() if any(isinstance(x, GradientCheckpointingLayer) for x in m)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no transformer layers")
    return found


def origin(name: str, there: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]) -> str:
    "The name that the student's tensor has in the model."
    for path, numbers in kept.items():
        if name.startswith(f"{path}."):
            number, _, rest = name.removeprefix(f"{path}.").partition(".")
            before = f"{path}.{numbers[int(number)]}.{rest}"
            shared = "relative_attention_bias" in rest  # T5 keeps that of all layers in its first
            return name if shared and before not in there else before
    return name


def shortened(config: Any, layers: Sequence[int]) -> Any:
    "The configuration of these layers."
    config = deepcopy(config)
    for name in DEPTHS & set(vars(config)):
        setattr(config, name, len(layers))
    for name in _PER_LAYER & set(vars(config)):
        if isinstance(values := getattr(config, name), list):
            setattr(config, name, [values[i] for i in layers])
    if hasattr(config, "attention_types"):  # GPT-Neo's, from which a file makes the list anew
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]
    return config


def check_layers(student: nn.Module, model: Any, kept: Mapping[str, Sequence[int]]) -> None:
    "That each layer of the student is what it is in the model."
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        whole = type(model)(deepcopy(model.config))
    if layer_stacks(student) != {path: len(numbers) for path, numbers in kept.items()}:
        raise ValueError(f"the configuration of {type(model).__name__} does not say in a way known here how deep it is")
    for path, numbers in kept.items():
        for place, number in enumerate(numbers):
            ours, theirs = (m.get_submodule(f"{path}.{i}") for m, i in ((student, place), (whole, number)))
            if what := _difference(ours, theirs):
                raise ValueError(
                    f"layer {number} of {type(model).__name__} would be another one as layer {place} of {len(numbers)} "
                    f"({what}): this architecture goes by the numbers of its layers. Keep those that stay in place"
                )


def _difference(ours: nn.Module, theirs: nn.Module) -> str:
    "The first thing that is not the same in two layers, empty if there is none."
    there = dict(theirs.named_modules())
    for name, module in ours.named_modules():
        other = there.get(name, module)
        if type(module) is not type(other):
            return f"{name}: {type(module).__name__} for {type(other).__name__}".removeprefix(": ")
        for key, value in vars(module).items():
            was = vars(other).get(key)
            if isinstance(value, int | float | str | tuple) and key not in _OF_PLACE and value != was:
                return f"{name}.{key}: {value} for {was}".removeprefix(".")
    return ""
