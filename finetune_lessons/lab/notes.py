"""The notes beside the parameters of functions, in the docstrings, where `help()` and Shift-Tab show them."""

import linecache
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

NOTED = re.compile(r"\s+(\*{0,2}\w+).*?  # (.*)")
CONTINUED = re.compile(r"\s+# +(.*)")


def show_notes(names: dict[str, Any]) -> None:
    "Add to the docstrings of a module, whose `globals()` these are, what stands beside the parameters."
    for value in list(names.values()):
        if getattr(value, "__module__", None) == names["__name__"]:
            add_notes(value)


def add_notes(value: Any) -> None:
    "To the docstring of a function, or of a class's methods; what has no notes stays as it is."
    for function in _functions(value):
        if notes := _notes(function):
            from inspect import cleandoc

            lines = [f"    {name}: {note}" for name, note in notes.items()]
            function.__doc__ = "\n".join([cleandoc(function.__doc__ or ""), "", "Arguments:", *lines]).strip()


def _functions(value: Any) -> Iterator[Callable[..., Any]]:
    if isinstance(value, type):
        for inner in vars(value).values():
            yield from _functions(getattr(inner, "__func__", inner) if not isinstance(inner, type) else None)
    elif hasattr(_innermost(value), "__code__"):
        yield value


def _innermost(function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _notes(function: Any) -> dict[str, str]:
    "By parameter. A signature whose parameters have lines of their own ends with a bracket that has one too."
    code = _innermost(function).__code__
    return notes_in(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :])


def notes_in(source: Iterable[str]) -> dict[str, str]:
    "Of the function that begins with these lines."
    lines = iter(source)
    opening = next((line for line in lines if line.lstrip().startswith(("def ", "async def "))), "")
    found: dict[str, str] = {}
    for line in lines if opening.rstrip().endswith("(") else ():
        if line.lstrip().startswith(")"):
            break
        if noted := NOTED.match(line):
            found[noted[1]] = noted[2]
        elif found and (more := CONTINUED.match(line)):
            found[list(found)[-1]] += f" {more[1]}"
    return found
