"""A model without its numbers, to try out what another library makes of it."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from finetune_lessons.lab.models.linears import is_quantised, shape_of


def hollow(model: nn.Module) -> nn.Module:
    "A copy on the CPU that is zero everywhere and takes no memory for it; quantised layers are `nn.Linear` in it."
    quantised = [module for module in model.modules() if is_quantised(module)]
    inside = {p for module in quantised for p in module.parameters()}
    memo: dict[int, object] = {id(module): _hollow_linear(module) for module in quantised}
    memo |= {id(p): nn.Parameter(_zero(p), p.requires_grad) for p in model.parameters() if p not in inside}
    memo |= {id(buffer): _zero(buffer) for buffer in model.buffers()}
    return deepcopy(model, memo)


def _hollow_linear(layer: nn.Module) -> nn.Linear:
    d_out, d_in = shape_of(layer)
    new = nn.Linear(d_in, d_out, bias=layer.bias is not None, device="meta")
    for name, p in list(new.named_parameters()):
        setattr(new, name, nn.Parameter(_zero(p)))
    return new.train(layer.training)


def _zero(tensor: Tensor) -> Tensor:
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)  # one number for all places
