"""A model in training or in evaluation mode for a while."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch


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


@contextmanager
def buffers_kept(
    module: torch.nn.Module, unless: Callable[[], bool]
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    "What the block does to buffers, such as running means, is undone unless it came through; each, and as it was."
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield buffers
    finally:
        if not unless():
            for buffer, before in buffers:
                buffer.copy_(before)
