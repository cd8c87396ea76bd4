"""Cross-entropy over a large vocabulary, some tokens at a time: never all logits in memory."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from finetune_lessons.lab.models.inputs import unwrapped
from finetune_lessons.lab.training.tasks import IGNORE_INDEX


def chunked_cross_entropy(
    hidden: Tensor,  # (..., width): what the head turns into logits
    head: nn.Module,  # hidden -> (..., vocabulary)
    targets: Tensor,  # (...), token numbers; -100 where there is none
    chunk: int,  # tokens whose logits are in memory at a time
) -> Tensor:
    """The mean cross-entropy of `head(hidden)`, a scalar; NaN where there is no target.

    The backward pass computes each chunk's logits again, so that its gradient is that of the whole: one more product
    of the head for the memory of all logits and their gradients. Raises ValueError for a target beyond the vocabulary.
    """
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise ValueError(f"chunk is a number of tokens, at least 1; given: {chunk!r}")
    pieces = zip(hidden.flatten(0, -2).split(chunk), targets.flatten().split(chunk), strict=True)
    losses = [checkpoint(_summed_surprise, head, rows, named, use_reentrant=False) for rows, named in pieces]
    return torch.stack(losses).sum() / (targets != IGNORE_INDEX).sum()


def _summed_surprise(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = head(hidden).float()
    try:
        return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    except IndexError as error:  # on a CPU; a GPU stops the process
        raise ValueError(f"a label is none of the {logits.shape[-1]} words of the vocabulary: {error}") from error


def before_the_head(
    model: Any,  # a causal language model of transformers, with whatever methods in it
    inputs: Mapping[str, Tensor],
) -> tuple[Tensor, nn.Module]:
    """What the model hands to its output embedding, (texts, tokens, width), and that module: its logits are
    `head(hidden)`, and are not computed.

    Raises ValueError for a model that does more to its logits, such as capping them, or that is compiled.
    """
    if unwrapped(model) is not model:
        raise ValueError(f"chunk= looks inside the model, and {type(model).__name__} hides it: do without one of them")
    head = model.get_output_embeddings()
    seen = _Seen()
    logits = _with_another(model, head, seen)(**inputs, use_cache=False).logits
    if seen.hidden is None or logits is not seen.stand_in:
        raise ValueError(
            f"chunk= is for models whose output embedding gives the logits as they are; {type(model).__name__} does "
            "more with them, such as capping or scaling: leave chunk out"
        )
    return seen.hidden, head


class _Seen(nn.Module):
    "Stands where the head was and keeps what it is given."

    hidden: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden
        self.stand_in = hidden.new_zeros(*hidden.shape[:-1], 1, dtype=torch.float32)
        return self.stand_in


def _with_another(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    "The model with `new` in the place of `old`, sharing all else; other threads see the model as it was."
    path = next((name for name, module in model.named_modules() if module is old), None)
    if path is None:
        raise ValueError(f"chunk= needs the output embedding, and {type(model).__name__} has none of its own")
    changed = outer = _shallow(model)
    *parents, name = path.split(".")
    for parent in parents:
        outer._modules[parent] = outer = _shallow(outer._modules[parent])
    outer._modules[name] = new
    return changed


def _shallow(module: Any) -> nn.Module:
    shallow = copy.copy(module)
    shallow.__dict__["_modules"] = dict(module._modules)
    return shallow
