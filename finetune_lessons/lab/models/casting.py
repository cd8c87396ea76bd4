"""Modules that are kept in one type and computed in another."""

from collections.abc import Iterable
from copy import copy

import torch
from torch import nn


def floating_type(module: nn.Module) -> torch.dtype | None:
    "Of its first floating-point parameter; None if it has none, as a quantised layer has none."
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def computed_in(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    "The module, computing in this type: gradients reach its own parameters, and nothing in it changes."
    if dtype is None or all(p.dtype == dtype for p in module.parameters()):
        return module
    twin = copy(module)
    parameters = {name: p if p is None else p.to(dtype) for name, p in module._parameters.items()}
    children = {name: m if m is None else computed_in(m, dtype) for name, m in module._modules.items()}
    vars(twin).update(_parameters=parameters, _modules=children)
    return twin


def settle(parameters: Iterable[nn.Parameter], beside: nn.Module, elsewhere: torch.device) -> None:
    "Put what was added beside a module onto its device, in its type, or fp32 where that is smaller."
    dtype = torch.promote_types(floating_type(beside) or torch.float32, torch.float32)
    device = _device_of(beside, elsewhere)
    for p in parameters:
        p.data = p.data.to(device, dtype)


def _device_of(module: nn.Module, elsewhere: torch.device) -> torch.device:
    devices = [p.device for p in module.parameters()]
    if devices and devices[0].type != "meta":
        return devices[0]
    hook = vars(module).get("_hf_hook")  # accelerate's, of a module that lies on a disk until it is called
    return torch.device(getattr(hook, "execution_device", None) or elsewhere)
