"""Other numbers in a model's parameters, to stay or for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@torch.no_grad()
def fill(
    parameters: Mapping[str, nn.Parameter],
    weights: Mapping[str, Tensor],  # of some of them, by name
) -> None:
    for name, values in weights.items():
        parameters[name].copy_(values)


@contextmanager
def filled(
    parameters: Mapping[str, nn.Parameter],
    weights: Mapping[str, Tensor],  # of some of them, by name
) -> Iterator[None]:
    "Inside, the parameters have these weights, and afterwards their own again."
    before = {name: parameters[name].detach().clone() for name in weights}
    try:
        fill(parameters, weights)
        yield
    finally:
        fill(parameters, before)
