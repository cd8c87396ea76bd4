"""The frozen modules at the start of the first trained layer: what they put out depends on the text alone."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from finetune_lessons.lab.training.replacing import always, reach_the_end, replaced

WORTH = 2  # parameters to be spared for each weight of a square layer as wide as what is kept instead


class Output(NamedTuple):
    "What a module put out: a tensor (texts, tokens, width), alone or first of a tuple that is empty behind it."

    tensor: Tensor
    nothings: int  # behind it; -1: no tuple

    def like(self, tensor: Tensor) -> Any:
        return tensor if self.nothings < 0 else (tensor, *[None] * self.nothings)


class Front:
    """Which modules of a layer are reached by nothing that is trained, and which of their outputs the rest reads.

    `kept` are those that are read, in the order of their calls; `skipped` are read by these alone. Both are empty where
    that would save too little, and where backward computes the layer once more.
    """

    def __init__(
        self,
        layer: nn.Module | None,  # the first with a trained parameter, behind frozen ones; None where there is none
        call: Callable[[], list[Tensor]],  # what the model puts out for one text of two tokens
    ):
        self.kept: dict[nn.Module, Output] = {}
        self.skipped: dict[nn.Module, Output] = {}
        if layer is None or getattr(layer, "gradient_checkpointing", False):
            return
        found = _without_gradient(layer, call)
        with _moved(p for p in layer.parameters() if p.requires_grad):
            moved = _without_gradient(layer, call)
        same = {m: out for m, out in found.items() if m in moved and torch.equal(out.tensor, moved[m].tensor)}
        read = {m: out for m, out in same.items() if _is_read(m, same, call)}
        widths = [out.tensor.shape[-1] for out in read.values()]
        spared = sum(parameter.numel() for module in same for parameter in module.parameters())
        if widths and spared >= WORTH * sum(widths) * max(widths):
            self.kept, self.skipped = read, {m: out for m, out in same.items() if m not in read}

    @property
    def modules(self) -> list[nn.Module]:
        return [inner for module in (*self.kept, *self.skipped) for inner in module.modules()]

    @property
    def widths(self) -> list[int]:
        return [output.tensor.shape[-1] for output in self.kept.values()]

    @contextmanager
    def giving(
        self,
        kept: Sequence[Tensor],  # for each kept module (texts, tokens, width)
    ) -> Iterator[None]:
        "Inside, the kept modules put these out, and the skipped ones zeros."
        given = {module: always(out.like(x)) for (module, out), x in zip(self.kept.items(), kept, strict=True)}
        for module, out in self.skipped.items():
            zeros = out.tensor.new_zeros(()).expand(*kept[0].shape[:2], out.tensor.shape[-1])
            given[module] = always(out.like(zeros))
        with replaced(given):
            yield


def tensor_of(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _put_out(output: Any) -> Output | None:
    "None for anything but a tensor (1, 2, width) without a gradient, alone or with nothing behind it."
    empty = isinstance(output, tuple) and output and all(more is None for more in output[1:])
    tensor, nothings = (output[0], len(output) - 1) if empty else (output, -1)
    fits = isinstance(tensor, Tensor) and tensor.ndim == 3 and tensor.shape[:2] == (1, 2) and not tensor.requires_grad
    return Output(tensor.detach(), nothings) if fits else None


def _without_gradient(layer: nn.Module, call: Callable[[], Any]) -> dict[nn.Module, Output]:
    "The outermost modules of the layer that are called once and whose output needs no gradient, and the outputs."
    calls: list[tuple[nn.Module, Any]] = []
    inside = [module for module in layer.modules() if module is not layer]
    hooks = [module.register_forward_hook(lambda m, _, output: calls.append((m, output))) for module in inside]
    try:
        with torch.enable_grad():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    modules = [module for module, _ in calls]
    once = {module: _put_out(output) for module, output in calls if modules.count(module) == 1}
    found = {module: output for module, output in once.items() if output}
    within = {inner for module in found for inner in module.modules() if inner is not module}
    return {module: output for module, output in found.items() if module not in within}


@contextmanager
def _moved(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    "Inside they have other values; nothing tells afterwards."
    own = [(parameter, parameter.data) for parameter in parameters]
    try:
        for parameter, data in own:
            parameter.data = data * 1.5 + 0.25
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def _is_read(module: nn.Module, constant: dict[nn.Module, Output], call: Callable[[], list[Tensor]]) -> bool:
    "Whether the model's output depends on the module's where all other constant ones are given."
    given = {m: always(out.like(out.tensor * (math.nan if m is module else 1))) for m, out in constant.items()}
    return reach_the_end(given, call)
