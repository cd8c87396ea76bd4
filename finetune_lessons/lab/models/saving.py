"""A trained model as a folder that any program of transformers loads."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_lessons.lab.models.files import replacing
from finetune_lessons.lab.models.inputs import plain_name, unwrapped
from finetune_lessons.lab.models.loading import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ON_TOP = "adapter_config.json"  # transformers adds what it finds by it to the model of the same folder


def save_model(
    model: "PreTrainedModel",  # on any device; compiled, or distributed, too
    tokenizer: "PreTrainedTokenizerBase",
    folder: str | Path,  # is made; a model that it holds is replaced, whole or not at all
) -> None:
    """Write the model, its classes' names and its tokenizer for `load_encoder(folder)` or `pipeline(..., folder)`.

    Raises ValueError for a model that its configuration alone does not make again, such as one that holds a method.
    """
    model = unwrapped(model)
    _check_plain(model)
    if (Path(folder) / ON_TOP).exists():
        raise ValueError(f"{folder} holds {ON_TOP}, which would be loaded on top of this model: choose another folder")
    weights = {plain_name(key): tensor for key, tensor in model.state_dict().items()}
    with quiet(), replacing(folder) as new:
        model.save_pretrained(new, state_dict=weights)
        tokenizer.save_pretrained(new)


def _check_plain(model: Any) -> None:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"save_model writes models of transformers; given: {type(model).__name__}. Save the one inside it, and "
            "what is your own apart: safetensors.torch.save_file"
        )
    if differing := beside_its_configuration(model):
        raise ValueError(
            f"{type(model).__name__} is not what its configuration makes ({differing[0]} is one of {len(differing)} "
            "differences). If a method is in it, merge that first, eject(model, merge=True), or write it by save_method"
        )


def beside_its_configuration(model: "PreTrainedModel") -> list[str]:
    "The names of the weights by which it differs from what its configuration alone makes."
    with torch.device("meta"):
        made = type(model)(deepcopy(model.config)).state_dict()
    shapes = {plain_name(key): tensor.shape for key, tensor in model.state_dict().items()}
    return [key for key in sorted(shapes | made) if key not in made or shapes.get(key) != made[key].shape]
