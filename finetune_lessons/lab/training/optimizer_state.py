"""What an optimizer remembers, as the tensors and numbers of a file."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

LIKE_THE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of its state, and the rest. A dict inside the state, as bitsandbytes has it, adds to the names.

    Raises ValueError for what neither safetensors nor JSON holds.
    """
    state = optimizer.state_dict()
    named = {f"optimizer.{i}{key}": value for i, entries in state["state"].items() for key, value in _flat(entries)}
    plain = (int, float, str, type(None))
    if odd := [v for v in named.values() if type(v) is not torch.Tensor and not isinstance(v, plain)]:
        raise ValueError(
            f"{type(optimizer).__name__} remembers {type(odd[0]).__name__}, which a saved run cannot hold: "
            "train without saving, or with an optimizer whose state is tensors and numbers, such as AdamW"
        )
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in named.items() if name not in tensors}
    shared = Counter(tensor.data_ptr() for tensor in tensors.values())  # such as the values that eight bits stand for
    tensors = {name: t.contiguous() if shared[t.data_ptr()] == 1 else t.clone() for name, t in tensors.items()}
    return tensors, {"class": type(optimizer).__name__, "groups": state["param_groups"], "numbers": numbers}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], saved: dict[str, Any]) -> None:
    "Raises ValueError for a state that is not one of this optimizer's, with these parameters."
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | saved["numbers"]).items():
        if name.startswith("optimizer."):
            _, index, *path, key = name.split(".")
            entries = state.setdefault(int(index), {})
            for outer in path:
                entries = entries.setdefault(outer, {})
            entries[key] = value
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["groups"]] != [group["params"] for group in groups]:
        raise ValueError("its optimizer has other parameter groups")
    if kind_of(saved["groups"]) != kind_of(groups):
        raise ValueError("its optimizer has other settings")
    places = [(group, p, g, i) for g, group in enumerate(optimizer.param_groups) for i, p in enumerate(group["params"])]
    for index, entries in state.items():
        _check_entries(optimizer, dict(enumerate(places))[index], {k.rpartition(".")[2]: v for k, v in _flat(entries)})
    optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})


def kind_of(value: Any) -> Any:
    "What a value that JSON can hold has in common with those that can stand for it."
    if isinstance(value, dict):
        return {key: kind_of(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [kind_of(inner) for inner in value]
    if isinstance(value, bool | None):
        return "switch"
    return math.isfinite(value) if isinstance(value, int | float) else type(value)


def _flat(entries: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def _check_entries(optimizer: torch.optim.Optimizer, place: tuple[Any, ...], entries: dict[str, Any]) -> None:
    "torch and bitsandbytes would read and write beyond tensors that are too short."
    group, parameter, *numbers = place
    new: dict[str, Any] = dict.fromkeys(LIKE_THE_PARAMETER, parameter) | {"step": 0}
    needed = {"step", "exp_avg", "exp_avg_sq"} if type(optimizer) is torch.optim.AdamW else set()
    if by_type := hasattr(optimizer, "init_state"):  # bitsandbytes
        optimizer.init_state(group, parameter, *numbers)
        new = dict(optimizer.state[parameter])
        needed = {key for key, value in new.items() if isinstance(value, torch.Tensor)}
    for key in [key for key in entries.keys() & new.keys() if entries[key] is not None]:
        given, expected = torch.as_tensor(entries[key]), torch.as_tensor(new[key])
        if given.shape != expected.shape or (by_type and given.dtype != expected.dtype):
            raise ValueError(f"the optimizer's {key} has another shape than its parameter")
    if lacking := needed - {key for key, value in entries.items() if isinstance(value, torch.Tensor)}:
        raise ValueError(f"the optimizer lacks {', '.join(sorted(lacking))}")
