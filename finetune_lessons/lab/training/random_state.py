"""The random numbers of a run, kept apart from everybody else's."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_one_at_a_time = threading.RLock()  # all threads of the process share the generators


class RandomState:
    """The state of torch's, numpy's and Python's generators, owned by one run.

    `with state.swapped_in():` runs the block on this state and gives the process its own back afterwards.
    What the block drew counts only if it called `keep`: without that, the next block draws the same numbers.
    """

    def __init__(self, seed: int, device: torch.device):
        self.device = device
        with self._process_state_kept():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            self.keep()

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        with self._process_state_kept():
            _restore(self.state, self.device)
            yield

    def keep(self) -> None:
        "Inside `swapped_in`: the next block goes on from here."
        self.state = _capture(self.device)

    @contextmanager
    def _process_state_kept(self) -> Iterator[None]:
        with _one_at_a_time:
            outer = _capture(self.device)
            try:
                yield
            finally:
                _restore(outer, self.device)


def _capture(device: torch.device) -> dict[str, Any]:
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def _restore(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])


def to_json(state: dict[str, Any]) -> dict[str, Any]:
    "A captured state as numbers that JSON can hold."
    name, keys, *rest = state["numpy"]
    tensors: dict[str, Any] = {key: state[key].tolist() for key in ("torch", "device") if key in state}
    return {"python": state["python"], "numpy": [name, keys.tolist(), *rest], **tensors}


def from_json(state: dict[str, Any]) -> dict[str, Any]:
    "The inverse of `to_json`."
    version, internal, gauss = state["python"]
    name, keys, *rest = state["numpy"]
    tensors: dict[str, Any] = {
        key: torch.tensor(state[key], dtype=torch.uint8) for key in ("torch", "device") if key in state
    }
    return {
        "python": (version, tuple(internal), gauss),
        "numpy": (name, np.array(keys, dtype=np.uint32), *rest),
        **tensors,
    }
