"""What tells one pretrained model from another of the same shape, and whether it is still what it was."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

NEWEST = 16  # words, the last of the vocabulary: those that were added to it


def fingerprint(
    model: nn.Module,
    body: Iterable[Tensor],  # its pretrained weights
    words: Tensor,  # one of them, (vocabulary, width)
    newest: Mapping[str, Tensor],  # embeddings whose last rows must be the same, by the names of their modules
) -> dict[str, Any]:
    "The class, the size, a few weights of the body, the number of words, and a weight of each of the newest."
    rest = [p for p in body if p.ndim > 1 and p is not words]
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in rest),
        "weights": [_first(p) for p in rest[:: max(1, len(rest) // 8)]],
        "words": len(words),
        "newest": {name: [_first(row) for row in rows[-NEWEST:]] for name, rows in newest.items()},
    }


def check_same(
    given: Mapping[str, Any],  # fingerprint of the model that the file is read into
    saved: Mapping[str, Any],  # of the one that the file was made for
    folder: str | Path,
) -> None:
    "Raises ValueError that says what differs. bf16 is the same."
    if isinstance(saved, Mapping) and "weights" in saved and "newest" not in saved:
        raise ValueError(f"{folder} was written by an earlier version, which said less of the model: save it anew")
    try:
        same = all(given[key] == saved[key] for key in ("class", "parameters"))
        same = same and _close(given["weights"], saved["weights"])
        as_many = given["words"] == saved["words"]
        others = [name for name, rows in saved["newest"].items() if as_many and not _close(given["newest"][name], rows)]
    except (AttributeError, KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(f"{folder} was made for another model: {saved}; given: {given}")
    if not as_many:
        raise ValueError(
            f"{folder} was made for a model of {saved['words']} words, this one has {given['words']}: if tokens were "
            f"added to it, model.resize_token_embeddings({saved['words']}) first"
        )
    if others:
        raise ValueError(
            f"{folder} was made for a model whose newest words are others: tokens were added to it, or words trained, "
            f"outside the method. With modules_to_save={others} the method's file holds them"
        )


def check_frozen(
    model: nn.Module,
    pretrained: Iterable[nn.Parameter],
    name: str,  # of the method that is to be saved
) -> None:
    "Raises ValueError if pretrained parameters are trained too: they would not be in the method's file."
    trained = {p for p in pretrained if p.requires_grad}
    if lost := [path.replace(".base.", ".") for path, p in model.named_parameters() if p in trained]:
        module = lost[0].split(".")[-2]
        raise ValueError(
            f"{lost[0]}, one of {len(lost)}, is trained too, but the file of {name!r} holds only what was added: "
            f"freeze(model, {module!r}), or add the method with modules_to_save=[{module!r}]"
        )


def _first(values: Tensor) -> float:
    return round(values.flatten()[0].item(), 6)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return bool(np.allclose(a, b, rtol=0.02, atol=1e-4))
