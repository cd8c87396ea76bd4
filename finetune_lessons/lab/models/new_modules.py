"""What of a model nobody has trained yet, and every method therefore has to."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MADE_ANEW = "_made_anew"  # the model's attribute


def new_modules(model: nn.Module) -> list[str]:
    """The paths of the modules to train whole, whatever else a method adds.

    They are what the checkpoint lacked, as far as `note_made_anew` was told; what a model of transformers has beside
    the bare model of its configuration, but for what makes it a language model; and what a module of one's own has
    beside the models of transformers in it.
    """
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        noted = list(getattr(model, MADE_ANEW, ()))
        beside = [path for name in _beside_the_body(model) for path in _called(model.get_submodule(name), name)]
        return noted + [path for path in beside if not any(f"{path}.".startswith(f"{known}.") for known in noted)]
    parts = _parts(model)
    models = [name for name, part in parts.items() if any(isinstance(m, PreTrainedModel) for m in part.modules())]
    inside = [f"{name}.{path}" for name in models for path in new_modules(parts[name])]
    own = [path for name, part in parts.items() if name not in models for path in _called(part, name)]
    return own + inside if models else []


def note_made_anew(model: "PreTrainedModel", weights: Iterable[str]) -> None:
    "Keep on the model, and on its copies, which of its modules have these weights, which no checkpoint filled."
    vars(model)[MADE_ANEW] = tuple(_owners(model, set(weights)))


def _owners(module: nn.Module, weights: set[str], path: str = "") -> Iterator[str]:
    "The outermost modules of which all is new, and those of which something is."
    own, all_names = ({f"{path}{name}" for name, _ in module.named_parameters(recurse=deep)} for deep in (False, True))
    if path and (weights >= all_names > set() or weights & own):
        yield path.removesuffix(".")
        return
    for name, child in module.named_children():
        yield from _owners(child, weights, f"{path}{name}.")


def _called(module: nn.Module, path: str) -> Iterator[str]:
    "A list or a dictionary is not called, what it holds is."
    if not isinstance(module, nn.ModuleList | nn.ModuleDict):
        yield path
        return
    for name, child in _parts(module).items():
        yield from _called(child, f"{path}.{name}")


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def _beside_the_body(model: Any) -> list[str]:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_MAPPING,
    )

    body, parts, words = model.base_model, _parts(model), model.get_output_embeddings()
    if type(model).__name__.endswith("WithProjection"):
        return []  # pretrained with the body
    if body is model:
        bare = _names_in(model, MODEL_MAPPING)
        parts = {name: part for name, part in parts.items() if name not in bare} if bare & set(parts) else {}
    spoken = set() if words is None else set(words.parameters())
    beside = [name for name, part in parts.items() if part is not body and not spoken & set(part.parameters())]
    if words is None or not beside:
        return beside
    mappings = MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    language = set().union(*(_names_in(model, mapping) for mapping in mappings))
    return [name for name in beside if name not in language] if language else []


def _names_in(model: Any, mapping: Any) -> set[str]:
    "What the models are made of that this mapping has for the configuration."
    import torch
    from transformers.initialization import no_init_weights

    found = mapping.get(type(model.config), ())
    kinds = found if isinstance(found, list | tuple) else (found,)
    if type(model) in kinds:
        return set(_parts(model))
    with torch.device("meta"), no_init_weights():
        return {name for kind in kinds for name in _parts(kind(deepcopy(model.config)))}
