"""How a model computes: in training or evaluation mode, and in which precision."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def mode(model: torch.nn.Module, training: bool) -> Iterator[None]:
    "All of the model in training or in evaluation mode inside, and each module as it was outside."
    with modes_kept(model.modules()):
        model.train(training)
        yield


@contextmanager
def modes_kept(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    "Each module is in the mode afterwards that it was in before."
    before = [(vars(module), module.training) for module in modules]
    try:
        yield
    finally:
        for attributes, was_training in before:
            attributes["training"] = was_training  # a tenth of the time of setting an attribute of a module


class FrozenWeights:
    """`with frozen.cast(model):` the frozen matrices of linear layers are in the computing precision, and in their own
    outside.

    Autocast would cast them to the same numbers in every step. One that changed meanwhile is cast anew; as autograd
    does, this goes by the tensor's version, which changes made through `.data` do not raise.
    """

    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype
        self._cast: dict[torch.nn.Parameter, tuple[tuple[int, int], torch.Tensor]] = {}

    @contextmanager
    def cast(self, model: torch.nn.Module) -> Iterator[None]:
        own = [(weight, weight.data) for weight in _frozen_matrices(model)]
        try:
            for weight, data in own:
                version = data.data_ptr(), weight._version
                if self._cast.get(weight, ((0, 0),))[0] != version:
                    self._cast[weight] = version, data.to(self._dtype)
                weight.data = self._cast[weight][1]
            yield
        finally:
            for weight, data in own:
                weight.data = data


def _frozen_matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    "In fp32, of linear layers, and of nothing else, such as an embedding."
    from transformers.pytorch_utils import Conv1D

    found: dict[torch.nn.Parameter, None] = {}
    elsewhere: set[torch.nn.Parameter | None] = set()
    for module in model.modules():
        if type(module) in (torch.nn.Linear, Conv1D):
            found[module._parameters["weight"]] = None  # type: ignore[index]
        else:
            elsewhere.update(module._parameters.values())
    return [w for w in found if not w.requires_grad and w.dtype == torch.float32 and w not in elsewhere]


def native_precision(device: torch.device) -> str:
    "bf16 where the hardware computes in it, fp16 on GPUs that only have that, else fp32."
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell
        return "bf16" if any(has.get(f) for f in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"
    return "fp32"
