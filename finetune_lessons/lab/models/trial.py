"""Whether what was added to a model takes part in it: two passes over a few made-up inputs tell."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from finetune_lessons.lab.models.modes import buffers_kept, mode
from finetune_lessons.lab.models.probing import dummy_inputs

Parts = Mapping[str, tuple[nn.Module, list[nn.Parameter]]]  # what was added, by path, and its own parameters
TRIES = 8  # of a pass in training, where layers may be left out at random


def trial_inputs(model: Any) -> list[Mapping[str, Tensor]]:
    "What to try the model with, for each of its tasks; nothing where it does not say what it reads."
    own = getattr(model, "dummy_inputs", None) if not hasattr(model, "config") else None
    tasks = model.num_labels if isinstance(getattr(model, "num_labels", None), Mapping) else (None,)
    try:
        inputs = [own] if own is not None else [dummy_inputs(model, task) for task in tasks]
        with torch.no_grad(), torch.random.fork_rng(), mode(model, False):
            for some in inputs:
                model(**some)
    except Exception:  # another kind of input, or a part that is not on any device
        return []
    return inputs


def check_takes_part(model: Any, parts: Parts, inputs: Sequence[Mapping[str, Tensor]]) -> None:
    """Raises ValueError that names a part which is not called, or has a trained parameter without a gradient.

    Experts are called when a token is sent to them, which these inputs need not do.
    """
    certain = {path: part for path, part in parts.items() if "experts" not in path.split(".")}
    with torch.random.fork_rng(), buffers_kept(model, unless=lambda: False):
        with torch.no_grad(), mode(model, False), _calls(certain) as called:
            for some in inputs:
                model(**some)
        _check_called(model, certain, called, "evaluation")
        with torch.enable_grad(), mode(model, True), _calls(certain) as called:
            lacking = set(certain)
            for some in [*inputs] * TRIES:
                lacking = lacking & _without_gradient(model, certain, some) if lacking else lacking
        _check_called(model, certain, called, "training")
    if lacking:
        raise ValueError(
            f"{min(lacking)}, one of {len(lacking)} parts, gets no gradient in {type(model).__name__}: "
            "leave it out, target_modules= or exclude= say what is taken"
        )


@contextmanager
def _calls(parts: Parts) -> Iterator[set[nn.Module]]:
    "What is called inside."
    called: set[nn.Module] = set()
    handles = [part.register_forward_pre_hook(lambda part, _: called.add(part)) for part, _ in parts.values()]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _check_called(model: nn.Module, parts: Parts, called: set[nn.Module], when: str) -> None:
    answered = {p for part, own in parts.values() if part in called for p in own}
    idle = [path for path, (part, own) in parts.items() if part not in called and not answered.issuperset(own or [0])]
    if idle:
        raise ValueError(
            f"{idle[0]}, one of {len(idle)} parts, is never called in {when}: {type(model).__name__} goes around it. "
            "Leave it out, target_modules= or exclude= say what is taken"
        )


def _without_gradient(model: Any, parts: Parts, inputs: Mapping[str, Tensor]) -> set[str]:
    trained = list({p for _, own in parts.values() for p in own if p.requires_grad})
    output = model(**inputs)
    outputs = _floating(tree_leaves(dict(output) if isinstance(output, Mapping) else output))
    found = torch.autograd.grad(sum(outputs, torch.zeros(())), trained, allow_unused=True) if outputs else ()
    reached = {p for p, gradient in zip(trained, found, strict=False) if gradient is not None}
    return {path for path, (_, own) in parts.items() if any(p.requires_grad and p not in reached for p in own)}


def _floating(leaves: Iterable[Any]) -> list[Tensor]:
    return [x.float().sum().cpu() for x in leaves if isinstance(x, Tensor) and x.requires_grad]
