"""Values as Python: what a reader can type to get them again."""

import ast
import enum
import keyword
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from finetune_lessons.lab.panel.choices import same


class Written(NamedTuple):
    text: str
    imports: tuple[str, ...] = ()  # lines that the text needs before it
    comments: tuple[str, ...] = ()  # on names in the text that stand for what cannot be written


def written(value: Any, names: Mapping[str, Any]) -> Written | None:
    """The value as an expression, with what that imports; None where there is none.

    `names` are those of the module or notebook in which the value is used.
    """
    if _is_literal(value):
        return Written(repr(value))
    if isinstance(value, float):
        return Written(f"float({str(value)!r})")
    if type(value) in (list, tuple):
        return _sequence(value, names)
    return _of_array_library(value) or _by_name(value, names)


def written_or_named(name: str, value: Any, names: Mapping[str, Any]) -> Written:
    "The value as an expression, or else the name, with a comment on what it stands for."
    comment = f"# {name}, of type {type(value).__name__}, has no text as code: give it this name first"
    return written(value, names) or Written(name, comments=(comment,))


def import_line(module: str | None, *names: str) -> tuple[str, ...]:
    "The line that imports the names; none for names of a notebook, where they are."
    return () if module in (None, "__main__", "builtins") else (f"from {module} import {', '.join(names)}",)


def is_module(names: Mapping[str, Any]) -> bool:
    "Whether these are the names of a module that can be imported from."
    module = sys.modules.get(names.get("__name__", ""))
    return module is not None and vars(module) is names


def call(function: Written, arguments: list[Written], named: Mapping[str, Written]) -> Written:
    plain = {name: value for name, value in named.items() if name.isidentifier() and not keyword.iskeyword(name)}
    odd = ", ".join(f"{name!r}: {value.text}" for name, value in named.items() if name not in plain)
    texts = [value.text for value in arguments] + [f"{name}={value.text}" for name, value in plain.items()]
    texts += [f"**{{{odd}}}"] if odd else []
    return together(f"{function.text}({', '.join(texts)})", [function, *arguments, *named.values()])


def together(text: str, parts: Iterable[Written], imports: tuple[str, ...] = ()) -> Written:
    "A text made of these parts."
    parts = list(parts)
    lines = [line for part in parts for line in part.imports]
    return Written(text, (*lines, *imports), tuple(comment for part in parts for comment in part.comments))


def _is_literal(value: Any) -> bool:
    try:
        read = ast.literal_eval(repr(value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return type(read) is type(value) and same(read, value)


def _sequence(values: list | tuple, names: Mapping[str, Any]) -> Written | None:
    parts = [written(value, names) for value in values]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    text = ", ".join(part.text for part in found)
    text = f"[{text}]" if isinstance(values, list) else f"({text}{',' * (len(found) == 1)})"
    return together(text, found)


def _of_array_library(value: Any) -> Written | None:
    "A number of numpy, a number format or a device of torch."
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in ("dtype", "device"):
        text = repr(value)
        return Written(text if text.startswith("torch.") else f"torch.{text}", ("import torch",))
    if kind.__module__ == "numpy" and hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        number = written(value.item(), {})
        return number and Written(f"np.{kind.__name__}({number.text})", ("import numpy as np",))
    return None


def _by_name(value: Any, names: Mapping[str, Any]) -> Written | None:
    "A function or class by the module it comes from, anything else by a global name that stands for it."
    if isinstance(value, enum.Enum):
        kind = _by_name(type(value), names)
        return kind and Written(f"{kind.text}.{value.name}", kind.imports)
    module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualified, str) and _found(module, qualified) is value:
        return Written(qualified, import_line(module, qualified.split(".")[0]))
    for name, other in names.items():
        if other is value and not name.startswith("_"):
            return Written(name, import_line(names["__name__"], name) if is_module(names) else ())
    return None


def _found(module: str, qualified: str) -> Any:
    found: Any = sys.modules.get(module)
    for name in qualified.split("."):
        found = getattr(found, name, None)
    return found
