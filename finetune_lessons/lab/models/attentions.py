"""Ways into the attention of a model from around its module: what the queries see is changed by those on duty there.

Nothing that calls share is written in a call, so any number of threads may use one model.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune_lessons.lab.models.layers import layer_stacks

WRAPPED = "wrapped attention"  # the name that AttentionInterface has for our function
SERVES = "Use add_lora or add_adapters, or leave it out with exclude="
_duty = threading.local()  # .stack: the wrappers that this thread is inside, each with the attention that it is around


class Changes(Protocol):
    extra_keys: int  # that it puts in front

    def keys_and_values(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...


@contextmanager
def on_duty(wrapper: Any, attention: nn.Module) -> Iterator[None]:
    "Inside, this thread's calls of the attention go through the wrapper."
    before = getattr(_duty, "stack", ())
    _duty.stack = (*before, (wrapper, attention))
    try:
        yield
    finally:
        _duty.stack = before


def those_on_duty(attention: nn.Module) -> list[Any]:
    "The wrappers around this attention that this thread is inside, outermost first."
    return [wrapper for wrapper, around in getattr(_duty, "stack", ()) if around is attention]


class ConfigView:
    "A configuration as one attention module sees it: where wrappers are on duty, attention has another name."

    def __init__(self, config: Any, attention: nn.Module):
        vars(self).update(real=config, attention=attention, wrappers=0)

    @property
    def _attn_implementation(self) -> str:
        name: str = self.real._attn_implementation
        return WRAPPED if those_on_duty(self.attention) else name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "real" not in vars(self):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)


def enter(attention: Any) -> None:
    "One wrapper more is around this attention."
    config = getattr(attention, "config", None)
    if hasattr(config, "_attn_implementation") and type(attention).__name__ not in _OWN_WAYS:
        if not isinstance(config, ConfigView):
            attention.config = ConfigView(config, attention)
        vars(attention.config)["wrappers"] += 1


def leave(attention: Any) -> None:
    "One wrapper less is around this attention; after the last its configuration is the model's again."
    view = getattr(attention, "config", None)
    if isinstance(view, ConfigView):
        vars(view)["wrappers"] -= 1
        if not view.wrappers:
            attention.config = view.real


def call(
    inner: nn.Module,  # what the innermost wrapper is around
    attention: Any,  # the pretrained module inside
    *args: Any,
    **kwargs: Any,
) -> Any:
    "The attention's output, over what those on duty make of its keys and values."
    own_way = _OWN_WAYS.get(type(attention).__name__)
    return own_way(inner, attention, *args, **kwargs) if own_way else inner(*args, **kwargs)


def changed(attention: nn.Module, query: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    "Keys and values as those on duty change them."
    for wrapper in reversed(those_on_duty(attention)):
        key, value = wrapper.keys_and_values(query, key, value)
    return key, value


def blocks_with_columns(
    mask: Any,  # a BlockMask, of flex_attention
    n: int,
) -> Any:
    "The mask with n columns in front, which every query sees."
    from torch.nn.attention.flex_attention import create_block_mask

    def shifted(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen: Tensor = mask.mask_mod(batch, head, query, (key - n).clamp(min=0))
        return (key < n) | seen

    batch, heads, queries, keys = mask.shape
    return create_block_mask(shifted, batch, heads, queries, keys + n, mask.kv_num_blocks.device, mask.BLOCK_SIZE)


# Attention that asks no interface, and keeps its keys and values in a cache: they are changed as they come out of it.


class _Cache:
    "The cache of one call, or none, whose keys and values come out changed."

    def __init__(self, cache: Any, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        self.cache, self.change = cache, change

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        kept = (key, value) if self.cache is None else self.cache.update(key, value, *args, **kwargs)
        return self.change(*kept)

    def get_seq_length(self, *args: Any) -> int:
        return 0 if self.cache is None else self.cache.get_seq_length(*args)


def _through_the_cache(inner: nn.Module, attention: Any, *args: Any, **kwargs: Any) -> Any:
    argument = "past_key_values" if type(attention).__name__ == "MptAttention" else "layer_past"
    cache = _Cache(kwargs.get(argument), lambda key, value: changed(attention, None, key, value))
    if n := sum(wrapper.extra_keys for wrapper in those_on_duty(attention)):
        kwargs |= _with_columns(attention, n, kwargs)
    return inner(*args, **{**kwargs, argument: cache})


def _with_columns(attention: Any, n: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    "Mask and biases of the call with n columns in front, seen by all and as near as a text in front would be."
    mask, alibi = kwargs["attention_mask"], kwargs.get("alibi")
    if mask is None:
        raise ValueError(f"{type(attention).__name__} was given no mask, before which a prefix could be put")
    if type(attention).__name__ == "MptAttention":  # True: hidden; its bias counts from the last key
        return {"attention_mask": F.pad(mask, (n, 0), value=False)}
    columns = F.pad(mask, (n, 0), value=mask.dtype == torch.bool)
    if alibi is None:
        return {"attention_mask": columns}
    near = _alibi_in_front(attention, n, alibi)  # (heads, 1, n)
    if mask.shape[1] == len(near):  # Falcon's mask holds the bias of each head too
        columns[..., :n] = near / math.sqrt(attention.head_dim)
    rows = near.repeat(alibi.shape[:-1].numel() // len(near), 1, 1).view(*alibi.shape[:-1], n)
    return {"attention_mask": columns, "alibi": torch.cat([rows, alibi], dim=-1)}


def _alibi_in_front(attention: Any, n: int, alibi: Tensor) -> Tensor:
    "(heads, 1, n): the bias of n keys that stand before the first, whose own is 0."
    build = sys.modules[type(attention).__module__].build_alibi_tensor  # type: ignore[attr-defined]
    ones = torch.ones(1, n + 1, dtype=torch.long, device=alibi.device)
    bias: Tensor = build(ones, attention.num_heads, alibi.dtype)
    return -bias[..., 1:].flip(-1)


# Attention that does neither, written out


def _mpnet(
    inner: nn.Module,
    attention: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    projected = (layer(hidden_states) for layer in (attention.q, attention.k, attention.v))
    query, key, value = (x.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2) for x in projected)
    tokens = key.shape[2]
    key, value = changed(attention, query, key, value)
    scores = query @ key.transpose(-1, -2) / math.sqrt(attention.attention_head_size)
    for bias in (position_bias, attention_mask):
        scores = scores if bias is None else scores + F.pad(bias, (key.shape[2] - tokens, 0))
    weights = attention.dropout(scores.softmax(-1))
    output = attention.o((weights @ value).transpose(1, 2).flatten(2))
    return (output, weights) if output_attentions else (output,)


_OWN_WAYS: dict[str, Callable[..., Any]] = {
    "BloomAttention": _through_the_cache,
    "CodeGenAttention": _through_the_cache,
    "FalconAttention": _through_the_cache,
    "GPTJAttention": _through_the_cache,
    "MptAttention": _through_the_cache,
    "MPNetSelfAttention": _mpnet,
}


_HYBRID = ("layers_block_type", "layer_types", "block_types", "attn_layer_indices", "attn_layer_period")


def check_every_layer(
    model: Any,
    paths: Iterable[str],  # of its attentions
) -> None:
    "ValueError where a layer has no attention though others have, and the configuration does not say that this is so."
    try:
        stacks = layer_stacks(model)
    except ValueError:  # another kind of layers
        return
    for stack, depth in stacks.items():
        inside = {path.removeprefix(f"{stack}.").split(".")[0] for path in paths if path.startswith(f"{stack}.")}
        bare = [i for i in range(depth) if str(i) not in inside]
        if inside and bare and not any(getattr(model.config, name, None) for name in _HYBRID):
            raise ValueError(
                f"{stack}.{bare[0]} of {type(model).__name__} has no attention that is known here, as others have: "
                f"say which layers are to get a prefix, with layers=. {SERVES}"
            )
