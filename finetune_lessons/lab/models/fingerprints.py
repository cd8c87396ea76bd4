"""What tells one pretrained model from another of the same shape, and whether it is still what it was."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

NEWEST = 16  # words, the last of the vocabulary: those that were added to it


def fingerprint(
    body: nn.Module,  # the model without its head
    pretrained: Mapping[str, Tensor],  # its weights, by name
    words: Tensor | None,  # one of them, (vocabulary, width), if it reads words
    newest: Mapping[str, Tensor],  # embeddings whose last rows must be the same, by the names of their modules
) -> dict[str, Any]:
    """The class, the size, a few weights of the body, the number of words, and a weight of each of the newest.

    A pooler, which stands below some heads only, does not count. Of a quantised weight only that it is there.
    """
    rest = [p for name, p in pretrained.items() if p is not words and "pooler" not in name]
    matrices, vectors = ([p for p in rest if (p.ndim > 1) == many] for many in (True, False))
    return {
        "class": type(body).__name__,
        "matrices": len(matrices),
        "parameters": sum(p.numel() for p in vectors),
        "weights": [_first(p) for some in (matrices, vectors) for p in some[:: max(1, len(some) // 8)]],
        "words": 0 if words is None else len(words),
        "newest": {name: [_first(row) for row in rows[-NEWEST:]] for name, rows in newest.items()},
    }


def word_modules(model: Any) -> list[nn.Module]:
    "The embedding of the words that the model reads, and the layer that puts words out, as far as it has them."
    found = []
    for end in ("get_input_embeddings", "get_output_embeddings"):
        try:
            found.append(getattr(model, end)())
        except (AttributeError, NotImplementedError):  # it reads pictures or sounds, or is a module of one's own
            continue
    return [module for module in found if getattr(module, "weight", None) is not None and module.weight.ndim == 2]


def check_same(
    given: Mapping[str, Any],  # fingerprint of the model that the file is read into
    saved: Mapping[str, Any],  # of the one that the file was made for
    folder: str | Path,
) -> None:
    "Raises ValueError that says what differs. bf16 is the same, and so is a quantised copy."
    try:
        same = all(given[key] == saved[key] for key in ("class", "matrices", "parameters"))
        same = same and _close(given["weights"], saved["weights"])
        as_many = given["words"] == saved["words"]
        both = [(name, given["newest"].get(name, rows), rows) for name, rows in saved["newest"].items() if as_many]
        others = [name for name, ours, theirs in both if not _close(ours, theirs)]
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


def _first(values: Tensor) -> float | None:
    plain = values.is_floating_point() and type(values.data) is Tensor and values.device.type != "meta"
    return round(values.flatten()[0].item(), 6) if plain else None


def _close(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    known = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    ours, theirs = zip(*known, strict=True) if known else ((), ())
    return bool(np.allclose(ours, theirs, rtol=0.02, atol=1e-4))
