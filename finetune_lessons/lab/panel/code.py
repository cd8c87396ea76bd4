"""The lines of Python that repeat what a panel is set to."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def code_for(make_run: Callable[..., Any], values: Mapping[str, Any], run: Any = None) -> str:
    """Lines that make and train the run with these values; `run` is one that was made before, if any.

    The body of `make_run`, with its arguments as assignments, where it is a plain function that ends in one
    `return`; else a call of it.
    """
    body = _body(make_run, values)
    if body is None:
        name = getattr(make_run, "__name__", "make_run")
        body = f"run = {name if name.isidentifier() else 'make_run'}({_arguments(values)})"
    training = "run.finish()" if _finishes(make_run, run) else "for step in run:\n    print(step)"
    return f"{body}\n{training}\n"


def _finishes(make_run: Callable[..., Any], run: Any) -> bool:
    return not inspect.isgeneratorfunction(make_run) if run is None else hasattr(run, "finish")


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _body(make_run: Callable[..., Any], values: Mapping[str, Any]) -> str | None:
    source = _source(make_run)
    arguments = _all_arguments(make_run, values)
    if source is None or arguments is None:
        return None
    function = ast.parse(source).body[0]
    if not isinstance(function, ast.FunctionDef) or function.decorator_list:
        return None
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not _is_straight(statements):
        return None
    lines = source.splitlines()
    first, last = statements[0], statements[-1]
    if any(lines[s.lineno - 1][: s.col_offset].strip() for s in (first, last)):
        return None  # several statements in one line
    indent, value = lines[last.lineno - 1].split("return", 1)
    lines[last.lineno - 1] = f"{indent}run = {value.lstrip()}"
    body = textwrap.dedent("\n".join(lines[first.lineno - 1 : last.end_lineno]))
    return "\n".join([*(f"{name} = {value!r}" for name, value in arguments.items()), body])


def _is_straight(statements: Sequence[ast.stmt]) -> bool:
    "One return, as the last statement, and nothing that means something else outside a function."
    inside = [node for statement in statements for node in ast.walk(statement)]
    elsewhere = (ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal, ast.FunctionDef, ast.AsyncFunctionDef)
    last = statements[-1]
    return (
        isinstance(last, ast.Return)
        and last.value is not None
        and [node for node in inside if isinstance(node, ast.Return)] == [last]
        and not any(isinstance(node, elsewhere) or _is_long_text(node) for node in inside)
    )


def _is_long_text(node: ast.AST) -> bool:
    "A text over several lines, which a change of indentation would change."
    return isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno != node.lineno


def _source(make_run: Callable[..., Any]) -> str | None:
    "The text of a function that uses only its arguments and global names."
    if not inspect.isfunction(make_run) or make_run.__closure__:
        return None
    try:
        return textwrap.dedent(inspect.getsource(make_run))
    except (OSError, TypeError):
        return None


def _all_arguments(make_run: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    "The values with the defaults of the other parameters; None if one of them cannot be written as a literal."
    bound = inspect.signature(make_run).bind(**values)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    if any(p.kind in variadic for p in inspect.signature(make_run).parameters.values()):
        return None
    return arguments if all(_is_literal(value) for value in arguments.values()) else None


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False
