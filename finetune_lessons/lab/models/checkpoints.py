"""Whether a checkpoint's weights are those of the model that they were loaded into."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

CLASSIFIER = "ForSequenceClassification"
PREFIXES = {r"_orig_mod\.": "", r"^module\.": ""}  # of what torch.compile and DistributedDataParallel wrapped


def is_classifier(config: "PreTrainedConfig") -> bool:
    "Whether it was saved with a head that classifies texts."
    return any(name.endswith(CLASSIFIER) for name in config.architectures or ())


def has_prefixes(info: dict[str, Any]) -> bool:
    "Whether the weights are of a model that was wrapped."
    return any(re.search(prefix, key) for prefix in PREFIXES for key in info["unexpected_keys"])


def head_modules(model: "PreTrainedModel | nn.Module") -> list[str]:
    "The names of what has parameters beside the body; none if the body is the model."
    body = getattr(model, "base_model", model)
    others = [] if body is model else [(name, child) for name, child in model.named_children() if child is not body]
    return [name for name, child in others if list(child.parameters())]


def body_weights(model: "PreTrainedModel") -> "dict[str, Tensor]":
    "All but those of the head."
    heads = head_modules(model)
    return {key: tensor for key, tensor in model.state_dict().items() if key.partition(".")[0] not in heads}


def unfilled(info: dict[str, Any]) -> set[str]:
    "The names of the weights that are random, because the checkpoint lacks them or has them in another shape."
    return {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def lacks_head(model: "PreTrainedModel", info: dict[str, Any]) -> bool:
    "Whether the checkpoint left something of the head random, below which a pooler may be."
    return any(key.partition(".")[0] in head_modules(model) for key in unfilled(info))


def check_filled(
    name: str,  # of the checkpoint, for the message
    model: "PreTrainedModel",
    info: dict[str, Any],  # what `from_pretrained(output_loading_info=True)` says
    new_head: bool,  # whether the head, and a pooler below it, may be new
) -> None:
    """Raises ValueError unless the checkpoint filled all of the model but for a new head, and the model has a place for
    all that the checkpoint holds but for the head of another task."""
    missing = {key for key in info["missing_keys"] if not (new_head and _of_head(model, key))}
    shapes = {key: shapes for key, *shapes in info["mismatched_keys"] if not (new_head and _of_head(model, key))}
    unused = {key for key in info["unexpected_keys"] if _of_body(model, key)}
    if inside := {key for key in info["unexpected_keys"] if _of_a_method(model, key, info["missing_keys"])}:
        raise ValueError(
            f"{name!r} was saved while a method was in the model ({_some(inside)}): where it was trained, merge it by "
            "eject(model, merge=True) and save again with save_model, or keep it by save_method, for load_method"
        )
    if shapes:
        key, (saved, expected) = min(shapes.items())
        raise ValueError(
            f"{name!r} does not fit its config.json: {key} has the shape {tuple(saved)}, expected {tuple(expected)}"
        )
    if missing and all(_of_head(model, key) for key in missing):
        classifies = type(model).__name__.endswith(CLASSIFIER)
        mend = "new_head=True makes a new one" if classifies else "load_encoder gives it one that classifies"
        raise ValueError(f"{name!r} lacks the head of {type(model).__name__} ({_some(missing)}): {mend}")
    if missing or unused or info["error_msgs"]:
        lists = {"the model lacks": missing, "the weights have besides": unused}
        found = "; ".join(f"{what} {_some(keys)}" for what, keys in lists.items() if keys)
        raise ValueError(
            f"{name!r} does not fit its config.json: {found or info['error_msgs'][0]}. "
            "Save it again, whole: save_model(model, tokenizer, folder)"
        )


def _of_head(model: "PreTrainedModel", key: str) -> bool:
    first, *_ = path = key.split(".")
    return first in head_modules(model) or "pooler" in path


def _of_a_method(model: "PreTrainedModel", key: str, missing: Iterable[str]) -> bool:
    "Whether it is the name of what was added to a layer; or that of the layer itself, as earlier versions wrote it."
    layers = {path for path, module in model.named_modules() if not module._modules and module._parameters}
    parts = key.split(".")
    return re.sub(r"\.base\b", "", key) in missing or any(".".join(parts[:i]) in layers for i in range(len(parts) - 1))


def _of_body(model: "PreTrainedModel", key: str) -> bool:
    first, *_ = path = key.removeprefix(f"{model.base_model_prefix}.").split(".")
    return first in dict(model.base_model.named_children()) and "pooler" not in path


def _some(keys: Iterable[str]) -> str:
    first, *more = sorted(keys)
    few = ", ".join([first, *more[:2]])
    return f"{few} and {len(more) - 2} more" if len(more) > 2 else few
