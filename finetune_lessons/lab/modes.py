"""How a model computes: in training or evaluation mode, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def mode(model: torch.nn.Module, training: bool) -> Iterator[None]:
    "All of the model in training or in evaluation mode inside, and each module as it was outside."
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def native_precision(device: torch.device) -> str:
    "bf16 where the hardware computes in it, fp16 on GPUs that only have that, else fp32."
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell
        return "bf16" if any(has.get(f) for f in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"
    return "fp32"
