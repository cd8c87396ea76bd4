"""Modules by their names: paths, the last parts of paths, patterns, or numbers of layers."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

ALL_LINEAR = "all-linear"


def named(
    paths: Mapping[str, nn.Module],
    name: str,  # a path, its last parts, or a regular expression for all of it
) -> dict[str, nn.Module]:
    "The modules that the name means, by path; none if it means nothing."
    ending = {path: module for path, module in paths.items() if path and f".{path}".endswith(f".{name}")}
    return ending or {path: module for path, module in paths.items() if path and _pattern(name).fullmatch(path)}


def _pattern(name: str) -> re.Pattern[str]:
    try:
        return re.compile(name)
    except re.error as error:
        raise ValueError(f"{name!r} is neither the name of a module nor a regular expression: {error}") from error


def excluded(paths: Mapping[str, nn.Module], names: str | Iterable[str], model: nn.Module) -> set[str]:
    "The paths of what these names mean, and of all that is inside."
    outside: set[str] = set()
    for name in [names] if isinstance(names, str) else names:
        if not (found := named(paths, name)):
            raise ValueError(f"no module of {type(model).__name__} is called {name!r}: exclude leaves nothing out")
        outside |= {path for path in paths for top in found if f"{path}.".startswith(f"{top}.")}
    return outside


def in_layers(found: Mapping[str, nn.Module], layers: Iterable[int]) -> dict[str, nn.Module]:
    "Those in the layers of these numbers, the first number of a path; a ValueError for a layer that has none."
    numbers = {path: _layer(path) for path in found}
    wanted = list(layers)
    if empty := [layer for layer in wanted if layer not in numbers.values()]:
        there = sorted({number for number in numbers.values() if number is not None})
        raise ValueError(f"layers={wanted}: none of the modules is in layer {empty[0]}; they are in {there}")
    return {path: module for path, module in found.items() if numbers[path] in wanted}


def _layer(path: str) -> int | None:
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def plain(value: Any, what: str) -> Any:
    "The value as JSON keeps it, whatever kind of number or collection it came as."
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return plain(value.item(), what)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, what) for key, item in value.items()}
    if isinstance(value, Iterable):
        items = [plain(item, what) for item in value]
        return sorted(items) if isinstance(value, set | frozenset) else items
    raise ValueError(f"{what} is a number, a text, or a collection of them; given: {type(value).__name__}")
