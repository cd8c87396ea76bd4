"""Caches that hold n tokens in front of the text, and tell nobody but the model.

What is in a cache is remembered by the cache: it survives copies, beams, threads and a second turn.
"""

from collections.abc import Iterable, Mapping
from typing import Any

NAMES = ("past_key_values", "cache_params", "state", "mems")  # of arguments and outputs


class Prompted:
    "A cache as those see it who know of the text alone: n tokens shorter."

    virtual_tokens = 0
    is_compileable = False  # else `generate` makes masks of the cache's whole length, which the n tokens are not in

    def get_seq_length(self, *args: Any, **kwargs: Any) -> Any:
        length = super().get_seq_length(*args, **kwargs)  # type: ignore[misc]
        return max(length - self.virtual_tokens, 0)

    def __reduce__(self) -> tuple:
        return _restored, (type(self).__mro__[2], self.__dict__)


class PromptedStates(list):
    "The same for a cache that is a list of tensors."

    virtual_tokens = 0


_KINDS: dict[type, Any] = {}


def _prompted(kind: type) -> Any:
    return _KINDS.setdefault(kind, type(kind.__name__, (Prompted, kind), {}))


def _restored(kind: type, attributes: dict[str, Any]) -> Any:
    cache: Any = object.__new__(_prompted(kind))
    cache.__dict__ = attributes
    return cache


def marked(cache: Any, n: int) -> Any:
    "The cache, which holds n tokens in front of its text from now on."
    if isinstance(cache, (list, tuple)):
        cache = PromptedStates(cache)
    elif not isinstance(cache, Prompted):
        cache.__class__ = _prompted(type(cache))
    cache.virtual_tokens = n
    return cache


def seen_by_model(cache: Any) -> Any:
    "The same cache with all its tokens: what is read into the one is in the other."
    if not isinstance(cache, Prompted):
        return cache
    whole: Any = object.__new__(type(cache).__mro__[2])
    whole.__dict__ = cache.__dict__
    return whole


def holds_prompt(inputs: Mapping[str, Any], n: int) -> bool:
    """Whether the n tokens are in a cache among the inputs already.

    Raises ValueError for one that holds a text without them, or with others.
    """
    for cache in _caches(inputs):
        inside = getattr(cache, "virtual_tokens", 0)
        if is_filled(cache) and inside != n:
            raise ValueError(
                f"the cache holds a text after {inside} virtual tokens, but the model puts {n} in front: "
                "begin with a new cache"
            )
        if is_filled(cache):
            return True
    return False


def length(inputs: Mapping[str, Any]) -> int | None:
    "How many tokens are in the cache, as far as it counts them; None if there is none."
    for cache in _caches(inputs):
        try:
            return int(cache.get_seq_length())
        except (AttributeError, ValueError):  # recurrent layers count nothing
            continue
    return None


def prepared(inputs: Mapping[str, Any], n: int, window: int | None) -> dict[str, Any]:
    "The inputs with caches in which the n tokens have a place, as the model is to see them."
    caches = {name: inputs[name] for name in NAMES if inputs.get(name) is not None}
    for cache in caches.values():
        if not getattr(cache, "virtual_tokens", 0):
            _make_room(cache, n, window)
    return {**inputs, **{name: seen_by_model(marked(cache, n)) for name, cache in caches.items()}}


def remembered(output: Any, n: int) -> None:
    "From now on the caches that the model gave back hold the n tokens, and show the text alone."
    for name in NAMES:
        if output.get(name) is not None:
            output[name] = marked(output[name], n)


def is_filled(cache: Any) -> bool:
    layers = _layers(cache)
    return layers is None or any(_holds_tokens(layer) for layer in layers)


def _caches(inputs: Mapping[str, Any]) -> Iterable[Any]:
    return [inputs[name] for name in NAMES if inputs.get(name) is not None]


def _layers(cache: Any) -> list[Any] | None:
    return getattr(getattr(cache, "self_attention_cache", cache), "layers", None)


def _holds_tokens(layer: Any) -> bool:
    if any(getattr(layer, "has_previous_state", {}).values()):
        return True
    return hasattr(layer, "get_seq_length") and int(layer.get_seq_length()) > 0


def _make_room(cache: Any, n: int, window: int | None) -> None:
    for layer in _layers(cache) or ():
        if not hasattr(layer, "max_cache_len"):
            continue
        if layer.is_initialized:
            raise ValueError("a static cache has its length already, which lacks the soft prompt: give a new one")
        most = window if layer.is_sliding and window else layer.max_cache_len + n
        layer.max_cache_len = max(layer.max_cache_len, min(layer.max_cache_len + n, most))
