"""In which precision a run computes, and frozen weights that are cast to it once."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch

from finetune_lessons.lab.models.linears import is_linear, shape_of
from finetune_lessons.lab.training import processor
from finetune_lessons.lab.training.cpu_functions import fast_cpu_functions
from finetune_lessons.lab.training.processes import Processes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Computing:
    "How the forward and backward passes of a run are computed: `with computing(learner):`."

    def __init__(
        self,
        choice: "Choice",
        device: torch.device,
    ):
        (self.precision, self.reason), self.device = choice, device
        if device.type == "cpu":
            processor.use_no_more_threads_than_fit()
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


class Choice(NamedTuple):
    precision: str  # "fp32", "bf16" or "fp16"
    reason: str  # for people


def choose_precision(
    asked: str,  # "auto", or what it is to be
    device: torch.device,
    model: torch.nn.Module,
    processes: Processes,
) -> Choice:
    "The same in all processes."
    choice = fastest_precision(device, model) if asked == "auto" else Choice(asked, "as asked for")
    return processes.gathered(choice)[0]


def fastest_precision(
    device: torch.device,
    model: torch.nn.Module | None = None,  # its most frequent kind of product is what is measured
) -> Choice:
    """bf16 on GPUs that have it, fp16 on those that only have that; on a processor with bf16 what a measurement says is
    faster, for some take longer over it than over fp32.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Choice("bf16", "the GPU has it") if has_bf16 else Choice("fp16", "the GPU has no bf16")
    if device.type != "cpu" or not processor.has_bf16():
        return Choice("fp32", f"{processor.name() if device.type == 'cpu' else device.type} has no bf16")
    gain = processor.gain_of_bf16(widest_product(model))
    precision = "bf16" if gain >= processor.WORTH else "fp32"
    return Choice(precision, f"{processor.name()} multiplies {gain:.2g} times as fast in bf16 as in fp32, measured")


def widest_product(model: torch.nn.Module | None) -> tuple[int, int]:
    "Outputs and inputs of the linear layers that most of the parameters are in."
    sizes: Counter[tuple[int, int]] = Counter()
    for layer in model.modules() if model else ():
        if is_linear(layer):
            sizes[shape_of(layer)] += math.prod(shape_of(layer))
    return sizes.most_common(1)[0][0] if sizes else (processor.WIDEST, processor.WIDEST)
