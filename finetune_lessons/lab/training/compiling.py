"""A model through `torch.compile`, where this machine can compile."""

from typing import Any

import torch


def compiled(
    model: torch.nn.Module,
    device: torch.device,
    cached: bool,  # whether its first layers come from a cache
) -> Any:
    """A model that computes the same in fewer kernels; its weights, and their names, are those of the model.

    Compiles one sum first, and raises ValueError where that fails: inductor needs a C++ compiler and Python's headers
    on a CPU, triton on a GPU. Raises ValueError for a cache too.
    """
    if cached:
        raise ValueError("cache= leaves out the first layers, which compile=True would compile: take one of them")
    try:
        torch.compile(_sum)(torch.ones(8, device=device))
    except Exception as error:  # each backend has errors of its own
        why = str(error).strip().partition("\n")[0]
        raise ValueError(
            "compile=True needs a C++ compiler and Python's headers, and on a GPU triton, but torch.compile fails "
            f"here ({why}): install them, or leave compile out"
        ) from error
    return torch.compile(model, dynamic=True)  # batches differ in their number of tokens


def _sum(numbers: torch.Tensor) -> torch.Tensor:
    return numbers + 1
