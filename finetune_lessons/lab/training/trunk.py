"""The frozen layers that a model starts with: which they are, and how to start behind them."""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from xxhash import xxh3_128

from finetune_lessons.lab.models.modes import mode, modes_kept

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FLAGS = ("use_cache", "return_dict")
PLAIN = {bool, int, float, str}


class Trunk:
    "The frozen layers at the start of a model, with what stands before them. `layers` is empty where there are none."

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
        self.frozen = [module for module in self.parts if not _is_trained(module)]
        self.key = self._fingerprint()

    def output(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the last frozen layer puts out: (texts, tokens, width).

        Raises ValueError for layers that hand on more than that, or another number of tokens.
        """
        with torch.no_grad():
            output = self._at(self.layers[-1], lambda result, *_: result, inputs)
        if not isinstance(output, Tensor) or output.shape[:2] != inputs["input_ids"].shape:
            what = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"a layer of {type(self.body).__name__} puts out {what}, not one tensor (texts, tokens, width) "
                "with a place for each token: its activations cannot be kept, leave cache out"
            )
        return output

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
        return any(map(_has_hooks, self.layers))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        "What is frozen in evaluation mode."
        with modes_kept(self.frozen):
            for module in self.frozen:
                vars(module)["training"] = False
            yield

    @contextmanager
    def giving(self, hidden: Tensor) -> Iterator[None]:
        "Inside, the last frozen layer puts out `hidden`, and what only leads there is not computed."
        source, dtype = self._source
        skipped = [source] if source and dtype == hidden.dtype and not _has_hooks(source) else []
        with replaced([*skipped, *self.layers], lambda *_, **__: hidden):
            yield

    def _is_reached_by_gradients(self) -> bool:
        with torch.enable_grad():
            return self._at(self.layers[0], lambda _, x, *__: x.requires_grad, self._one_token, before=True)

    @cached_property
    def _one_token(self) -> dict[str, Tensor]:
        device = next(self.body.parameters()).device
        return dict.fromkeys(self.inputs, torch.ones(1, 1, dtype=torch.long, device=device))

    @cached_property
    def _source(self) -> tuple[nn.Module | None, torch.dtype]:
        "The module that makes the first layer's input, such as the embeddings, unless somebody else reads it too."
        made: list[tuple[nn.Module, Any]] = []

        def note(module: nn.Module, _: Any, output: Any) -> None:
            made.append((module, output))

        hooks = [child.register_forward_hook(note) for child in self.body.children()]
        try:
            with torch.no_grad():
                given = self._at(self.layers[0], lambda _, x, *__: x, self._one_token, before=True)
        finally:
            for hook in hooks:
                hook.remove()
        source = next((module for module, output in made if output is given), None)
        return (None if source is None or self._is_read_elsewhere(source, given) else source), given.dtype

    def _is_read_elsewhere(self, source: nn.Module, output: Tensor) -> bool:
        "Whether what the model puts out depends on it where the frozen layers do not."
        inputs = {name: value for name, value in self._one_token.items() if name in self.signature.parameters}
        hidden, nothing = torch.zeros_like(output), output * math.nan
        with torch.no_grad(), mode(self.body, training=False), replaced(self.layers, lambda *_, **__: hidden):
            with replaced([source], lambda *_, **__: nothing):
                outputs = self.body(**inputs)
        tensors = outputs if isinstance(outputs, tuple) else outputs.to_tuple()
        return not all(x.isfinite().all() for x in tensors if isinstance(x, Tensor))

    def _at(
        self, layer: nn.Module, look: Callable[..., Any], inputs: Mapping[str, Tensor], before: bool = False
    ) -> Any:
        "What `look(output, *inputs)` says of the layer, or `look(None, *inputs)` before it; no more is computed."

        def stop(_: Any, given: tuple[Any, ...], output: Any = None) -> None:
            raise _Stopped(look(output, *given))

        hook = layer.register_forward_pre_hook(stop) if before else layer.register_forward_hook(stop)
        try:
            with mode(self.entry, training=False):
                self.entry(**inputs)
        except _Stopped as stopped:
            return stopped.args[0]
        finally:
            hook.remove()
        raise ValueError(f"{type(self.body).__name__} did not call its first layers")

    def _fingerprint(self) -> str:
        "Of all that can change what the layers put out."
        digest = xxh3_128()
        digest.update(repr([(type(part).__name__, settings(part)) for part in self.parts]).encode())
        digest.update(repr([precision(), _config(self.body), len(self.layers)]).encode())
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


@contextmanager
def replaced(modules: Iterable[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    "The modules compute `forward` instead of their own."
    with ExitStack() as undo:
        for module in modules:
            before = vars(module).get("forward")
            vars(module)["forward"] = forward
            undo.callback(_restore, module, before)
        yield


def _restore(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward
