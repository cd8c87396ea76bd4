"""Options of the command from the signatures of functions: name, type, default and note have one home.

Signatures are read from the source, so that `--help` need not wait for torch.
"""

import ast
from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace, _ActionsContainer
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune_lessons.lab.notes import notes_in


@dataclass(frozen=True)
class Parameter:
    "Of a function; an option can hold it if its `kind` is one of `KINDS`."

    name: str
    kind: str  # its annotation, as it is written
    default: Any  # None where it has none, too
    note: str  # the comment beside it

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    def value(self, given: Any) -> Any:
        "What the function is called with, of what argparse made."
        if self.kind.startswith("Mapping"):
            return dict(given)
        one = isinstance(given, list) and len(given) == 1 and self.kind.startswith("str | ")
        return given[0] if one else given


def _pair(number: Callable[[str], Any]) -> Callable[[str], tuple[str, Any]]:
    def read(text: str) -> tuple[str, Any]:
        name, _, value = text.rpartition("=")
        with suppress(ValueError):
            if name:
                return name, number(value)
        raise ArgumentTypeError(f"expected NAME=NUMBER, given: {text!r}")

    return read


KINDS: dict[str, dict[str, Any]] = {
    "int": {"type": int, "metavar": "N"},
    "float": {"type": float, "metavar": "X"},
    "bool": {"action": BooleanOptionalAction},
    "str": {"metavar": "NAME"},
    "str | Path": {"metavar": "NAME"},
    "Iterable[str]": {"nargs": "+", "metavar": "NAME"},
    "str | Iterable[str]": {"nargs": "+", "metavar": "NAME"},
    "Iterable[int]": {"nargs": "+", "type": int, "metavar": "N"},
    "int | Iterable[int]": {"nargs": "+", "type": int, "metavar": "N"},
    "Mapping[str, int]": {"nargs": "+", "type": _pair(int), "metavar": "NAME=N"},
    "Mapping[str, float]": {"nargs": "+", "type": _pair(float), "metavar": "NAME=X"},
}


@cache
def parameters(
    module: str,  # its full name
    function: str,  # a function's name in it, or Class.method
) -> tuple[Parameter, ...]:
    "Those of the function that options can hold, in their order."
    source = Path(find_spec(module).origin).read_text(encoding="utf-8")  # type: ignore
    found = _defined(ast.parse(source), function.split("."))
    notes = notes_in(source.splitlines()[found.lineno - 1 :])
    named = [*found.args.args, *found.args.kwonlyargs]
    defaults = [*[None] * (len(found.args.args) - len(found.args.defaults)), *found.args.defaults]
    written = [(arg, ast.unparse(arg.annotation) if arg.annotation else "") for arg in named]
    return tuple(
        Parameter(arg.arg, kind.removesuffix(" | None"), ast.literal_eval(default), notes.get(arg.arg, ""))
        for (arg, kind), default in zip(written, [*defaults, *found.args.kw_defaults], strict=True)
        if default and kind.removesuffix(" | None") in KINDS
    )


def _defined(tree: ast.AST, path: Sequence[str]) -> ast.FunctionDef:
    (node,) = [node for node in ast.iter_child_nodes(tree) if getattr(node, "name", None) == path[0]]
    return _defined(node, path[1:]) if len(path) > 1 else node  # type: ignore[return-value]


def add_options(to: _ActionsContainer, of: Collection[Parameter]) -> None:
    "Each is None where it is not given, so that the function's own default holds."
    for parameter in of:
        said = parameter.default is None or parameter.kind == "bool"
        default = "" if said else f" (default: {parameter.default})"
        text = f"{parameter.note}{default}".replace("%", "%%").replace("None:", "left out:")
        to.add_argument(parameter.option, help=text, **KINDS[parameter.kind])


def given(options: Namespace, of: Collection[Parameter]) -> dict[str, Any]:
    "The arguments of a call: those that the command line has."
    values = {parameter: getattr(options, parameter.name) for parameter in of}
    return {parameter.name: parameter.value(value) for parameter, value in values.items() if value is not None}


def in_force(options: Namespace, of: Collection[Parameter]) -> dict[str, Any]:
    "All arguments of that call, defaults too."
    return {parameter.name: parameter.default for parameter in of} | given(options, of)
