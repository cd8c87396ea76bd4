"""Where a function was written down: its place in the syntax tree of its file or cell."""

import ast
import linecache
from types import CodeType, FunctionType


def definition(function: FunctionType) -> tuple[ast.FunctionDef | ast.Lambda, list[str]] | None:
    "The node that the function was made from, and the lines of its file; None where it is not known, or not certain."
    code = function.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return None
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]
    found = [node for node in functions if _may_be(node, code)]
    if len(found) > 1:  # several lambdas in one line
        found = [node for node in found if isinstance(node, ast.Lambda) and _span(node.body) == _span_of(code)]
    return (found[0], [line.rstrip("\n") for line in lines]) if len(found) == 1 else None


def _may_be(node: ast.FunctionDef | ast.Lambda, code: CodeType) -> bool:
    if isinstance(node, ast.FunctionDef):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return (node.name, first) == (code.co_name, code.co_firstlineno)
    return ("<lambda>", node.lineno) == (code.co_name, code.co_firstlineno)


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int | None, int | None]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _span_of(code: CodeType) -> tuple | None:
    "From where to where the code's instructions reach in its file, where Python has kept that."
    places = [place for place in code.co_positions() if None not in place and place[3]]
    if not places:
        return None
    return min((line, column) for line, _, column, _ in places), max((line, column) for _, line, _, column in places)
