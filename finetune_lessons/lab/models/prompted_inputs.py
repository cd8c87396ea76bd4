"""What goes into a model where n tokens are put before a text."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AS_TUPLE = "a tuple"  # for return_dict: true, so that the outputs have names; they lose them at the end

# inputs with a value for each token: what stands for one that is put in front
VALUES = {"global_attention_mask": 0, "langs": 0, "p_mask": 1, "special_tokens_mask": 1}
POSITIONS = ("start_positions", "end_positions", "cls_index")  # inputs that are places in the text
NO_TOKENS = {"decoder_input_ids", "decoder_attention_mask", "inputs_embeds", "labels", "next_sentence_label"}


def named_inputs(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    "All inputs by name, and a request for outputs by name."
    names = list(inspect.signature(module.forward).parameters) if args else []
    inputs = {**dict(zip(names, args, strict=False)), **kwargs}
    as_dict = inputs.get("return_dict")
    if not (module.config.return_dict if as_dict is None else as_dict):
        inputs["return_dict"] = AS_TUPLE
    return inputs


def plain_mask(module: Any, inputs: Mapping[str, Any]) -> Tensor | None:
    """Which tokens are real, (texts, tokens).

    Raises ValueError for a mask of who sees whom, unless it is what `generate` makes for a static cache.
    """
    mask, ids = inputs.get("attention_mask"), inputs["input_ids"]
    if mask is None or isinstance(mask, Tensor) and mask.ndim <= ids.ndim:
        return mask
    masks = mask if isinstance(mask, Mapping) else {"": mask}
    first = next((x for x in masks.values() if x is not None), None)
    if first is None:
        return None
    real = (first if first.dtype == torch.bool else first == 0)[:, 0].diagonal(dim1=-2, dim2=-1).long()
    again = _who_sees_whom(module, inputs, real)
    again = again if isinstance(again, Mapping) else {"": again}
    if first.shape[-2] == ids.shape[-1] and all(_same(x, again.get(name)) for name, x in masks.items()):
        return real
    raise ValueError("with a soft prompt an attention_mask is (texts, tokens), and says which are no padding")


def _who_sees_whom(module: Any, inputs: Mapping[str, Any], real: Tensor) -> Any:
    from transformers.masking_utils import create_masks_for_generate

    return getattr(module, "create_masks_for_generate", create_masks_for_generate)(
        config=module.config,
        inputs_embeds=torch.empty(*inputs["input_ids"].shape, 0, dtype=module.dtype, device=real.device),
        attention_mask=real,
        past_key_values=inputs.get("past_key_values"),
        position_ids=inputs.get("position_ids"),
    )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b is None or a is not None and b is not None and torch.equal(a, b)


def check_whole(inputs: Mapping[str, Any], started: bool) -> None:
    "Raises ValueError where n tokens in front of these inputs would not be in front of the text."
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if started or mask is None or mask.shape == ids.shape:
        return
    raise ValueError(
        f"attention_mask has {mask.shape[-1]} tokens and input_ids {ids.shape[-1]}, and the others are in no cache "
        "that a soft prompt knows of: give the whole text each time (use_cache=False)"
    )


def longer(
    inputs: Mapping[str, Any],
    front: Mapping[str, Tensor],  # by the name of the input: what goes before it, (n,)
    started: bool = False,  # whether the n tokens are in a cache
) -> dict[str, Any]:
    """The inputs with n tokens more, before the text and behind the padding on its left.

    Raises ValueError for an input of which it is unknown what goes before it.
    """
    ids, mask, n = inputs["input_ids"], inputs.get("attention_mask"), len(front["input_ids"])
    order = None if mask is None else _order(mask, n)
    grown = dict(inputs)
    for name, x in inputs.items():
        if not isinstance(x, Tensor):
            continue
        if name == "attention_mask":
            grown[name] = _before(x, front[name], order)
        elif name == "position_ids":
            grown[name] = x + n if started else _before(x + n, front[name], order)
        elif name == "logits_to_keep":
            grown[name] = torch.where(x < 0, x, x + n)
        elif name in POSITIONS:
            grown[name] = x.clamp(min=0) + n
        elif not started and _has_tokens(name, x, ids, front):
            grown[name] = _before(x, front.get(name, torch.full((n,), VALUES.get(name, 0))), order)
    return grown


def _has_tokens(name: str, x: Tensor, ids: Tensor, front: Mapping[str, Tensor]) -> bool:
    if name in front or name in VALUES:
        return x.shape == ids.shape and not (name == "labels" and x.is_floating_point())
    if x.shape[: ids.ndim] == ids.shape and name not in NO_TOKENS:
        raise ValueError(f"{name} has a value for each token, but it is unknown what a virtual token has: leave it out")
    return False


def longer_mask(mask: Tensor, n: int) -> tuple[Tensor, Tensor]:
    "The mask of a text with n tokens before it, and which of all tokens are not these n."
    order, ones = _order(mask, n), torch.ones(n)
    return _before(mask, ones, order), _before(torch.ones_like(mask), 0 * ones, order).bool()


def _order(mask: Tensor, n: int) -> Tensor | None:
    "Which of n + T tokens comes at each place; None: the n come first in all texts."
    if mask[..., 0].all():
        return None
    rank = F.pad(2 * (mask.cumsum(-1) > 0).int(), (n, 0), value=1)
    return rank.argsort(dim=-1, stable=True)


def _before(x: Tensor, values: Tensor, order: Tensor | None) -> Tensor:
    x = torch.cat([values.to(x).expand(*x.shape[:-1], -1), x], dim=-1)
    if order is None:
        return x
    shape = torch.broadcast_shapes(x.shape, order.shape)
    return x.expand(shape).gather(-1, order.expand(shape))
