"""In which precision a run computes, and frozen weights that are cast to it once."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from finetune_lessons.lab.training.cpu_functions import fast_cpu_functions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Computing:
    "How the forward and backward passes of a run are computed: `with computing(learner):`."

    def __init__(
        self,
        precision: str,  # "fp32", "bf16", "fp16", or "auto" for the fastest that the device has natively
        device: torch.device,
    ):
        self.precision = native_precision(device) if precision == "auto" else precision
        self.device = device
        self._frozen = FrozenWeights(DTYPES[self.precision])

    @contextmanager
    def __call__(self, model: torch.nn.Module) -> Iterator[None]:
        "Frozen weights in the computing precision, functions that suit the device; the backward pass belongs inside."
        half, on_cpu = self.precision != "fp32", self.device.type == "cpu"
        with self._frozen.cast(model) if half else nullcontext(), fast_cpu_functions() if on_cpu else nullcontext():
            yield

    def check(self, model: torch.nn.Module) -> None:
        "Raises ValueError for weights in one half precision that are to be computed in the other."
        halves = {name: dtype for name, dtype in DTYPES.items() if name not in ("fp32", self.precision)}
        kept = {p.dtype for p in model.parameters()}
        if other := [name for name, dtype in halves.items() if self.precision != "fp32" and dtype in kept]:
            raise ValueError(
                f"the model's weights are in {other[0]}, which cannot be computed in {self.precision}: "
                f"precision='fp32' computes in the weights' own, and dtype=torch.float32 loads them for any precision"
            )

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")


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
