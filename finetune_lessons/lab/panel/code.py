"""The lines of Python that repeat what a panel is set to."""

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from finetune_lessons.lab.panel.literals import Written, call, import_line, is_module, together, written_or_named
from finetune_lessons.lab.panel.source import definition


def code_for(make_run: Callable[..., Any], values: Mapping[str, Any], run: Any = None) -> str:
    """Lines that make and train the run with these values; `run` is one that was made before, if any.

    The body of `make_run`, with its arguments as assignments, where it is a plain function or lambda that ends in
    one `return`; else a call of it. Imports come first for what is not from the notebook.
    """
    arguments: tuple = ()
    if isinstance(make_run, functools.partial):
        arguments, values, make_run = make_run.args, {**make_run.keywords, **values}, make_run.func
    ways = [_body(make_run, arguments, values)] if isinstance(make_run, FunctionType) else []
    ways.append(_call(make_run, arguments, values))
    possible = [way for way in ways if way is not None]
    made = next((way for way in possible if not way.comments), possible[0])
    training = "run.finish()" if hasattr(run, "finish") else "for step in run:\n    print(step)"
    return "\n".join([*made.comments, *dict.fromkeys(made.imports), made.text, training]) + "\n"


def _call(make_run: Callable[..., Any], arguments: Sequence[Any], values: Mapping[str, Any]) -> Written:
    names = _names_beside(make_run)
    function = written_or_named("make_run", make_run, names)
    given = [written_or_named(f"argument_{i}", value, names) for i, value in enumerate(arguments)]
    made = call(function, given, {name: written_or_named(name, value, names) for name, value in values.items()})
    return made._replace(text=f"run = {made.text}")


def _body(make_run: FunctionType, arguments: Sequence[Any], values: Mapping[str, Any]) -> Written | None:
    found, given = definition(make_run), _all_arguments(make_run, arguments, values)
    if found is None or given is None:
        return None
    node, lines = found
    text = f"run = {ast.unparse(node.body)}" if isinstance(node, ast.Lambda) else _statements(node, lines)
    if text is None or not _is_straight(node):
        return None
    parts = {name: written_or_named(name, value, make_run.__globals__) for name, value in given.items()}
    assigned = [f"{name} = {part.text}" for name, part in parts.items() if not part.comments]
    imports = _imports(node, make_run.__globals__, besides=parts)
    return together("\n".join([*assigned, text]), parts.values(), imports)


def _statements(function: ast.FunctionDef, lines: Sequence[str]) -> str | None:
    "The statements, with the last one's value as `run`; None where a line holds more than one."
    statements = _without_docstring(function)
    last = statements[-1]
    if any(lines[s.lineno - 1].encode()[: s.col_offset].strip() for s in (statements[0], last)):
        return None
    if not isinstance(last, ast.Return) or function.decorator_list:
        return None
    lines = list(lines)
    indent, value = lines[last.lineno - 1].split("return", 1)
    lines[last.lineno - 1] = f"{indent}run = {value.lstrip()}"
    return textwrap.dedent("\n".join(lines[statements[0].lineno - 1 : last.end_lineno]))


def _without_docstring(function: ast.FunctionDef) -> list[ast.stmt]:
    return function.body[1:] or function.body if ast.get_docstring(function) is not None else function.body


def _is_straight(function: ast.FunctionDef | ast.Lambda) -> bool:
    "One value, as the last thing, and nothing that means something else outside a function."
    elsewhere = (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(function, ast.Lambda):
        return not any(isinstance(node, elsewhere) for node in ast.walk(function.body))
    statements = _without_docstring(function)
    inside = [node for statement in statements for node in ast.walk(statement)]
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


def _all_arguments(
    make_run: FunctionType, arguments: Sequence[Any], values: Mapping[str, Any]
) -> dict[str, Any] | None:
    "The values with the other parameters' defaults and the names around the function; None for a variadic one."
    signature = inspect.signature(make_run, follow_wrapped=False)
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    if any(p.kind in variadic for p in signature.parameters.values()):
        return None
    bound = signature.bind(*arguments, **values)
    bound.apply_defaults()
    try:
        around = {
            n: c.cell_contents for n, c in zip(make_run.__code__.co_freevars, make_run.__closure__ or (), strict=True)
        }
    except ValueError:  # a name that has no value yet
        return None
    return {**around, **bound.arguments}


def _imports(
    function: ast.FunctionDef | ast.Lambda, names: Mapping[str, Any], besides: Mapping[str, Any]
) -> tuple[str, ...]:
    "The line that imports the global names that the body uses, where it is not the notebook's."
    if not is_module(names):
        return ()
    found = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    used = sorted(name for name in found & set(names) if name not in besides)
    return import_line(names["__name__"], *used) if used else ()


def _names_beside(make_run: Callable[..., Any]) -> Mapping[str, Any]:
    "The global names where the function was written."
    module = sys.modules.get(getattr(make_run, "__module__", None) or "")
    return getattr(make_run, "__globals__", None) or (vars(module) if module else {})
