"""Linear layers, whoever made them: their shapes, and their weights as numbers where they are kept in fewer bits."""

import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from finetune_lessons.lab.models.modes import mode

_FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def shape_of(layer: nn.Module) -> tuple[int, int]:
    "Outputs and inputs of a linear layer. Raises ValueError for what is none, or keeps its weight in an unknown way."
    if problem := _problem(layer):
        raise ValueError(problem)
    known: Any = layer
    return (known.nf, known.nx) if _is_conv1d(layer) else (known.out_features, known.in_features)


def is_linear(layer: nn.Module) -> bool:
    "Whether it is a linear layer that is known here, and that its parent calls."
    return not _problem(layer)


def is_quantised(layer: nn.Module) -> bool:
    "Whether it is a linear layer that keeps its weight in fewer bits."
    return is_linear(layer) and (_bits(layer) > 0 or _unpacks(layer.weight))


def type_of(layer: nn.Module) -> torch.dtype:
    "The floating point type of a linear layer's weight, or of what it was made of; fp32 where nothing tells."
    known: Any = layer
    if _bits(layer) == 4:
        return known.weight.quant_state.original_dtype if _is_packed(layer) else known.weight.quant_state.dtype
    if _bits(layer) == 8:
        return torch.float32 if known.bias is None else known.bias.dtype
    return known.weight.dtype


def dense_weight(layer: nn.Module) -> Tensor:
    "The weight of a linear layer in floating point, (outputs, inputs), without a gradient."
    shape_of(layer)
    known: Any = layer
    weight = known.weight.detach()
    if _bits(layer) == 4:
        return _from_4_bits(layer)
    if _bits(layer) == 8:
        scale = known.weight.SCB if known.weight.SCB is not None else known.state.SCB  # before and after a first call
        return (weight.float() * (scale.float() / 127)[:, None]).to(type_of(layer))
    if _unpacks(weight):
        return weight.dequantize()
    return weight.T if _is_conv1d(layer) else weight


def dense_layer(
    layer: nn.Module,
    weight: Tensor,  # (outputs, inputs), in floating point
) -> nn.Module:
    "A copy of a linear layer with another weight: of the same class, or nn.Linear if its own class keeps fewer bits."
    known: Any = layer
    d_out, d_in = shape_of(layer)
    new: Any
    if _of_bitsandbytes(layer) or _unpacks(known.weight):
        new = nn.Linear(d_in, d_out, bias=known.bias is not None, device="meta").train(layer.training)
        if known.bias is not None:
            new.bias = nn.Parameter(known.bias.detach().to(weight.dtype, copy=True), known.bias.requires_grad)
    else:
        new = deepcopy(layer, {id(known.weight): None})  # the weight itself is not copied
    values = (weight.T if _is_conv1d(layer) else weight).contiguous()
    new.weight = nn.Parameter(values, known.weight.requires_grad)
    return new


def densified(modules: list[nn.Module]) -> list[nn.Module]:
    "Copies of these modules, made together, which can be trained whole: quantised layers are dense in them."
    layers = {layer for module in modules for layer in module.modules() if is_quantised(layer)}
    return deepcopy(modules, {id(layer): dense_layer(layer, dense_weight(layer)) for layer in layers})


def keep_gradients(model: nn.Module) -> None:
    """Let layers of bitsandbytes in 4 bits pass gradients on after an evaluation too.

    On some CPUs the first evaluation puts their numbers in an order that is faster, and that nothing trains through.
    """
    for layer in model.modules():
        if _bits(layer) == 4:
            layer.support_avx512bf16_for_cpu = False  # type: ignore
            if _is_packed(layer):
                layer.state_dict()  # puts them back


def distance(layer: nn.Module, dense: nn.Module) -> float:
    "How far a dense layer's outputs are from those of the layer that it is made of, as a share, on random inputs."
    weight = dense_weight(dense)
    x = torch.randn(16, shape_of(dense)[1], generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad(), mode(layer, False), mode(dense, False):
        expected, found = layer(x).float(), dense(x).float()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def warn_of_rounding(apart: Sequence[float]) -> None:
    "Warn that layers which were quantised are dense now; for each, what `distance` says."
    if apart:
        warnings.warn(
            f"{len(apart)} layers that were kept in 8 or 4 bits are dense now, and on random inputs their outputs are "
            f"{sum(apart) / len(apart):.2%} away from before on average, {max(apart):.2%} at most",
            stacklevel=3,
        )


def unreached(model: nn.Module) -> dict[nn.Module, str]:
    "The linear layers of torch's own modules that are never called, because this parent reads their weights."
    found: dict[nn.Module, str] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module.out_proj] = "nn.MultiheadAttention"
        if isinstance(module, nn.TransformerEncoderLayer):  # called in training only
            found |= dict.fromkeys((module.linear1, module.linear2), "nn.TransformerEncoderLayer, in evaluation,")
    return found


def written(tensor: Tensor) -> Iterator[Any]:
    "What becomes another when the numbers of a tensor do, unless they are written through its `.data`."
    parts = _parts(tensor)
    for part in parts:
        yield from written(part)
    if not parts:
        yield tensor.data_ptr(), tensor.dtype, tensor.device
    yield 0 if tensor.is_inference() else tensor._version


def _problem(layer: nn.Module) -> str:
    "Why it cannot be taken as a linear layer, empty if it can."
    kind, known = type(layer).__name__, layer  # type: Any, Any
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return "nn.MultiheadAttention reads the weight of its out_proj and never calls it: nothing goes around that"
    if isinstance(layer, nn.LazyLinear):
        return f"{kind} has no weight yet: call the model once before"
    if _is_conv1d(layer):
        return ""
    if not isinstance(layer, nn.Linear):
        return (
            f"{kind} of {type(layer).__module__} is no linear layer that is known here; known are nn.Linear (also with "
            "a weight of torchao), Conv1D of transformers, and Linear4bit and Linear8bitLt of bitsandbytes: name "
            "others, with target_modules=[...]"
        )
    shape, weight = (known.out_features, known.in_features), known.weight
    if _bits(layer) or (weight.dtype in _FLOATING and tuple(weight.shape) == shape):
        return ""
    return f"{kind} keeps a weight of {shape} as {weight.dtype} of {tuple(weight.shape)}, in a way not known here"


def _is_conv1d(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def _of_bitsandbytes(layer: nn.Module) -> set[str]:
    "The names of the classes of bitsandbytes that it belongs to; asks without importing it."
    return {kind.__name__ for kind in type(layer).__mro__ if kind.__module__.partition(".")[0] == "bitsandbytes"}


def _bits(layer: Any) -> int:
    "4 or 8 for a layer that bitsandbytes has quantised, else 0."
    kinds = _of_bitsandbytes(layer)
    if "Linear4bit" in kinds and getattr(layer.weight, "quant_state", None) is not None:
        return 4
    return 8 if "Linear8bitLt" in kinds and layer.weight.dtype == torch.int8 else 0


def _is_packed(layer: Any) -> bool:
    "Whether its 4 bits stand in the order of a CPU's kernel."
    return getattr(layer.weight.quant_state, "packing_format_for_cpu", False)


def _from_4_bits(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    if _is_packed(layer):
        layer = deepcopy(layer)
        layer.state_dict()  # puts its own numbers back in order
    return dequantize_4bit(layer.weight.detach(), layer.weight.quant_state)


def _parts(tensor: Any) -> list[Tensor]:
    "The tensors that one of another library is made of; none for torch's own."
    names, _ = tensor.__tensor_flatten__() if hasattr(tensor, "__tensor_flatten__") else ((), None)
    return [part for name in names if (part := getattr(tensor, name)) is not None]


def _unpacks(weight: Any) -> bool:
    "Whether it is a tensor of another library that says itself what its numbers are."
    return bool(_parts(weight)) and type(weight).dequantize is not Tensor.dequantize
