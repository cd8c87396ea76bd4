"""The frozen layers that a model starts with: which they are, and how to start behind them."""

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from xxhash import xxh3_128

from finetune_lessons.lab.models.modes import mode, modes_kept
from finetune_lessons.lab.training.front import Front, tensor_of
from finetune_lessons.lab.training.replacing import always, reach_the_end, replaced

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FLAGS = ("use_cache", "return_dict")
PLAIN = {bool, int, float, str}


class Trunk:
    """The frozen layers at the start of a model, with what stands before them, and the front of the layer behind them.

    `layers` is empty where there are none.
    """

    def __init__(self, model: nn.Module):
        self.entry, self.body, stack = _first_stack(model)
        self.signature = inspect.signature(self.body.forward)
        self.inputs = [name for name in INPUTS if name in inspect.signature(self.entry.forward).parameters]
        trained = next((i for i, layer in enumerate(stack) if _is_trained(layer)), len(stack))
        self.layers = stack[:trained]
        above = {module for layer in stack[trained:] for module in layer.modules()}
        self.parts = [module for module in self.body.modules() if module not in above]
        if self.layers and any(map(_owns_trained, self.parts)) and self._is_reached_by_gradients():
            self.layers = []
        self.front = self._front(stack[trained] if self.layers and trained < len(stack) else None)
        self.parts += self.front.modules
        self.frozen = [module for module in self.parts if not _is_trained(module)]
        self.key = self._fingerprint()

    def output(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the last frozen layer puts out, and beside it what the front's modules do: (texts, tokens, widths).

        Raises ValueError for layers that hand on more than one tensor, or another number of tokens.
        """
        output, *inside = self._outputs_of([self.layers[-1], *self.front.kept], inputs)
        if not isinstance(output, Tensor) or output.shape[:2] != inputs["input_ids"].shape:
            what = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"a layer of {type(self.body).__name__} puts out {what}, not one tensor (texts, tokens, width) "
                "with a place for each token: its activations cannot be kept, leave cache out"
            )
        return torch.cat([output, *map(tensor_of, inside)], -1)

    def plain_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor] | None:
        "The tokens, masks and types of a call of the body; None if it passes, or asks for, anything else."
        named = self.signature.bind(*args, **kwargs).arguments
        named |= named.pop("kwargs", {})
        given = {name: value for name, value in named.items() if value is not None and value is not False}
        others = given.keys() - {*INPUTS, *FLAGS}
        if others or "input_ids" not in given or self._is_watched():
            return None
        return {name: given[name] for name in INPUTS if name in given}

    def _is_watched(self) -> bool:
        "Whether somebody looks at what the frozen layers do."
        config = getattr(self.body, "config", None)
        if any(getattr(config, flag, False) for flag in ("output_hidden_states", "output_attentions")):
            return True
        return any(map(_has_hooks, [*self.layers, *self.front.modules]))

    def _front(self, layer: nn.Module | None) -> Front:
        if layer is None:
            return Front(None, self._outputs)
        with torch.no_grad():
            hidden = self._first_input()  # in place of what the last frozen layer puts out
        try:
            with replaced(dict.fromkeys(self.layers, always(hidden))):
                return Front(layer, self._outputs)
        except (TypeError, ValueError):  # layers that hand on more than one tensor, as `output` says
            return Front(None, self._outputs)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        "What is frozen in evaluation mode."
        with modes_kept(self.frozen):
            for module in self.frozen:
                vars(module)["training"] = False
            yield

    @contextmanager
    def giving(self, hidden: Tensor) -> Iterator[None]:
        "Inside, the frozen layers and the front put out what `output` gave, and what only leads there is not computed."
        inside: list[Tensor] = []
        if self.front.kept:
            widths = [hidden.shape[-1] - sum(self.front.widths), *self.front.widths]
            hidden, *inside = (x.to(dtype) for x, dtype in zip(hidden.split(widths, -1), self._dtypes, strict=True))
        source, dtype = self._source
        skipped = [source] if source and dtype == hidden.dtype and not _has_hooks(source) else []
        with replaced(dict.fromkeys([*skipped, *self.layers], always(hidden))), self.front.giving(inside):
            yield

    def _is_reached_by_gradients(self) -> bool:
        with torch.enable_grad():
            return self._first_input().requires_grad

    @cached_property
    def _dtypes(self) -> list[torch.dtype]:
        "Of what is kept, each: side by side they may be in a wider one."
        outputs = self._outputs_of([self.layers[-1], *self.front.kept], self._two_tokens)
        return [tensor_of(output).dtype for output in outputs]

    @cached_property
    def _two_tokens(self) -> dict[str, Tensor]:
        device = next(self.body.parameters()).device
        return dict.fromkeys(self.inputs, torch.ones(1, 2, dtype=torch.long, device=device))

    @cached_property
    def _source(self) -> tuple[nn.Module | None, torch.dtype]:
        "The module that makes the first layer's input, such as the embeddings, unless somebody else reads it too."
        made: list[tuple[nn.Module, Any]] = []

        def note(module: nn.Module, _: Any, output: Any) -> None:
            made.append((module, output))

        hooks = [child.register_forward_hook(note) for child in self.body.children()]
        try:
            with torch.no_grad():
                given = self._first_input()
        finally:
            for hook in hooks:
                hook.remove()
        source = next((module for module, output in made if output is given), None)
        return (None if source is None or self._is_read_elsewhere(source, given) else source), given.dtype

    def _is_read_elsewhere(self, source: nn.Module, output: Tensor) -> bool:
        "Whether what the model puts out depends on it where the frozen layers do not."
        hidden, nothing = torch.zeros_like(output), output * math.nan
        return reach_the_end(dict.fromkeys(self.layers, always(hidden)) | {source: always(nothing)}, self._outputs)

    def _outputs(self) -> list[Tensor]:
        "What the model puts out for two tokens."
        inputs = {name: value for name, value in self._two_tokens.items() if name in self.signature.parameters}
        with mode(self.body, training=False):
            outputs = self.body(**inputs)
        return [x for x in (outputs if isinstance(outputs, tuple) else outputs.to_tuple()) if isinstance(x, Tensor)]

    def _outputs_of(self, modules: Sequence[nn.Module], inputs: Mapping[str, Tensor]) -> list[Any]:
        "What these put out, in the order of their calls; nothing behind the last is computed."
        found: list[Any] = []

        def note(_: nn.Module, __: Any, output: Any) -> None:
            found.append(output)
            if len(found) == len(modules):
                raise _Stopped

        with torch.no_grad():
            self._until_stopped([module.register_forward_hook(note) for module in modules], inputs)
        return found

    def _first_input(self) -> Tensor:
        "What the first layer is given for two tokens."
        found: list[Tensor] = []

        def note(_: nn.Module, given: tuple[Any, ...]) -> None:
            found.append(given[0])
            raise _Stopped

        self._until_stopped([self.layers[0].register_forward_pre_hook(note)], self._two_tokens)
        return found[0]

    def _until_stopped(self, hooks: list[RemovableHandle], inputs: Mapping[str, Tensor]) -> None:
        try:
            with mode(self.entry, training=False):
                self.entry(**inputs)
        except _Stopped:
            return
        finally:
            for hook in hooks:
                hook.remove()
        raise ValueError(f"{type(self.body).__name__} did not call its first layers")

    def _fingerprint(self) -> str:
        "Of all that can change what the layers put out."
        digest = xxh3_128()
        digest.update(repr([(type(part).__name__, settings(part)) for part in self.parts]).encode())
        digest.update(repr([precision(), _config(self.body), len(self.layers), self.front.widths]).encode())
        for tensor in (t for part in self.parts for t in (*part.parameters(False), *part.buffers(False))):
            if not tensor.requires_grad:
                digest.update(repr((tensor.shape, tensor.dtype)).encode())
                digest.update(tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()


class _Stopped(Exception):
    pass


def _first_stack(model: nn.Module) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
    "The outermost and the innermost module that take `input_ids` and lead to the first layers, and those layers."
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = {path: module for path, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no transformer layers whose activations could be kept")
    stack = next(iter(layers)).rpartition(".")[0]
    paths = [stack[:i] for i, letter in enumerate(f"{stack}.") if letter == "."]
    owners = [model, *map(model.get_submodule, paths)]
    takers = [module for module in owners if "input_ids" in inspect.signature(module.forward).parameters]
    return takers[0], takers[-1], [layer for path, layer in layers.items() if path.rpartition(".")[0] == stack]


def _has_hooks(module: nn.Module) -> bool:
    return any(inner._forward_hooks or inner._forward_pre_hooks for inner in module.modules())


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _owns_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def precision() -> str:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "fp32"


def settings(module: nn.Module) -> list[tuple[str, Any]]:
    "A module's plain attributes, such as a switch or an epsilon."
    return [(name, value) for name, value in vars(module).items() if type(value) in PLAIN and name != "training"]


def _config(module: nn.Module) -> Any:
    config: Any = getattr(module, "config", None)
    return json.dumps(config.to_dict(), default=str, sort_keys=True) if hasattr(config, "to_dict") else None


def state(model: nn.Module) -> tuple[Any, ...]:
    "What differs as soon as the model's frozen part, or what is frozen, has changed; cheap enough for every step."
    modules = list(model.modules())
    owned = (tensor for module in modules for tensor in (*module._parameters.values(), *module._buffers.values()))
    tensors = [tensor for tensor in owned if tensor is not None]
    versions = [(id(t), t.data_ptr(), -1 if t.requires_grad else t._version) for t in tensors]
    last = [t.detach().reshape(-1)[-1].double() for t in tensors if t.numel() and not t.requires_grad]
    numbers = torch.stack(last).tolist() if last else []  # what is written through .data has no version
    return precision(), versions, numbers, [(id(module), settings(module)) for module in modules]
