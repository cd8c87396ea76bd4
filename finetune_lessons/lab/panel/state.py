"""A panel's settings as a short text to hand on: `lr=0.001&seed=3&lock=seed`."""

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, quote, urlencode

RESERVED = ("hide", "lock")  # in a state string


def write_state(texts: Mapping[str, str], hide: Sequence[str], lock: Sequence[str]) -> str:
    "The texts of the values by knob, the names to hide, and the names to lock, as one text."
    lists = zip(RESERVED, (hide, lock), strict=True)
    pairs = {**texts, **{key: ",".join(names) for key, names in lists if names}}
    return urlencode(pairs, quote_via=quote, safe=",", errors="surrogatepass")


def read_state(state: str) -> tuple[dict[str, str], list[str], list[str]]:
    "The texts of the values by knob, the names to hide, and the names to lock."
    try:
        found = parse_qsl(state, keep_blank_values=True, strict_parsing=bool(state), errors="surrogatepass")
    except ValueError:
        raise ValueError(f"not a panel's state: {state!r}; expected something like 'lr=0.001&seed=3'") from None
    pairs = dict(found)
    if len(pairs) < len(found):
        raise ValueError(f"not a panel's state: {state!r} gives a knob two values")
    hide, lock = (list(filter(None, pairs.pop(key, "").split(","))) for key in RESERVED)
    return pairs, hide, lock
