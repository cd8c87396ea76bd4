"""A result as a picture: bars, lines, a map of colours, a figure, or what notebooks show of it."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import Any

from finetune_lessons.lab.panel.bars import Axes, bars, bars_png, by_unit, without
from finetune_lessons.lab.panel.choices import label_of
from finetune_lessons.lab.panel.errors import settings
from finetune_lessons.lab.panel.live_plot import Chart, Line, figure_png, number, png, svg
from finetune_lessons.lab.panel.traces import Series


def picture(result: Any, xlabel: str, axes: Axes) -> str:
    "The result as HTML; ValueError for numbers that make no picture."
    if isinstance(result, Mapping):
        numbers = _bars_of(result)
        return bars(numbers, axes) if numbers else "".join(map(_curves, _charts(result, xlabel)))
    if _is_matrix(result):
        values = _matrix(result)
        return _image(_map_png(values), f"map of {len(values)} by {len(values[0])} values") + _range_of(values)
    if hasattr(result, "savefig"):
        return _image(figure_png(result), words_for(result))
    for method in ("_repr_html_", "_repr_svg_"):
        if hasattr(result, method):
            return getattr(result, method)()
    return f'<pre class="ftl-trace">{escape(str(result))}</pre>'


def still(result: Any, xlabel: str, axes: Axes) -> dict[str, str]:
    "The result as a PNG picture for pages that run no widgets, where it is one."
    if isinstance(result, Mapping):
        numbers = _bars_of(result)
        return {"image/png": bars_png(numbers, axes) if numbers else png(_charts(result, xlabel))}
    if _is_matrix(result):
        return {"image/png": _map_png(_matrix(result))}
    return {"image/png": figure_png(result)} if hasattr(result, "savefig") else {}


def words_for(result: Any) -> str:
    "What a figure shows, for a screen reader; empty for all that is none."
    if not hasattr(result, "savefig"):
        return ""
    from finetune_lessons.lab.figures.alt_text import describe

    return getattr(result, "alt", "") or describe(result)


def _bars_of(result: Mapping[str, Any]) -> dict[str, float]:
    "The numbers, if it holds numbers and not curves; ValueError if it holds both, or neither."
    if not result:
        raise ValueError("the result is an empty dict: expected numbers, or curves, by name")
    kinds = {name: _kind(value) for name, value in result.items()}
    for name, kind in kinds.items():
        if kind == "":
            given = f"{label_of(result[name])} ({type(result[name]).__name__})"
            raise ValueError(f"{name} must be a number or a sequence of numbers; given: {given}")
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise ValueError(f"expected numbers only, for bars, or curves only, for lines; given: {said}")
    if "a curve" in kinds.values():
        return {}
    numbers = {str(name): _float(value) for name, value in result.items()}
    if not any(map(math.isfinite, numbers.values())):
        raise ValueError(f"there is no finite number to draw; given: {settings(numbers)}")
    return numbers


def _kind(value: Any) -> str:
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or getattr(value, "ndim", 1) > 1:
        return ""
    if hasattr(value, "__len__") and getattr(value, "ndim", 1) == 1:
        return "a curve"
    return "a number" if hasattr(value, "__float__") or hasattr(value, "__index__") else ""


def _curves(chart: Chart) -> str:
    empty = ", ".join(escape(line.label) for line in chart.lines if not line.series.ys)
    return svg(chart, 560, 260) + (f"<p>Not drawn, for lack of a finite point: {empty}.</p>" if empty else "")


def _charts(result: Mapping[str, Any], xlabel: str) -> list[Chart]:
    "One for each unit."
    lines = {name: Line(_series(str(name), values), i, str(name)) for i, (name, values) in enumerate(result.items())}
    shown = [x for line in lines.values() for x in line.series.xs]
    if not shown:
        raise ValueError(f"there is no finite point to draw in {', '.join(line.label for line in lines.values())}")
    left, right = min(shown), max(*shown, min(shown) + 1e-9)
    return [
        Chart(unit, [replace(lines[name], label=without(name, unit)) for name in names], xlabel, left, right)
        for unit, names in by_unit(lines).items()
    ]


def _float(value: Any) -> float:
    return float(value.detach() if hasattr(value, "detach") else value)


def _series(name: str, values: Any) -> Series:
    "Of y, or of a pair of x and y."
    paired = isinstance(values, tuple) and len(values) == 2 and all(hasattr(part, "__len__") for part in values)
    xs, ys = values if paired else (range(len(values)), values)
    if len(xs) != len(ys):
        raise ValueError(f"{name} has {len(xs)} values of x and {len(ys)} of y: expected as many")
    series = Series()
    for x, y in zip(xs, ys, strict=True):
        try:
            place = _float(x), _float(y)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{name} must be a sequence of numbers; it holds {label_of(x)}, {label_of(y)}") from None
        if math.isfinite(place[0]):
            series.add(*place)
    return series


def _is_matrix(result: Any) -> bool:
    return getattr(result, "ndim", 0) == 2 and not hasattr(result, "_repr_html_")


def _matrix(result: Any) -> Any:
    "As an array of numpy; ValueError where there is nothing to see."
    import numpy as np

    if hasattr(result, "detach"):
        result = result.detach().cpu().double()
    values = np.asarray(result, dtype=float)
    if not np.isfinite(values).any():
        given = "no values" if values.size == 0 else "no finite value"
        raise ValueError(f"the result is a matrix of {' by '.join(map(str, values.shape))} with {given}")
    return values


def _map_png(values: Any) -> str:
    import numpy as np
    from matplotlib.image import imsave

    low, high = _range(values)
    enlarged, buffer = np.kron(values, np.ones([max(1, 320 // max(values.shape))] * 2)), io.BytesIO()
    imsave(buffer, enlarged, vmin=low, vmax=high, cmap="cividis", format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _range(values: Any) -> tuple[float, float]:
    "Of the finite values."
    import numpy as np

    finite = values[np.isfinite(values)]
    return float(finite.min()), float(finite.max())


def _range_of(values: Any) -> str:
    low, high = _range(values)
    return f"<p>from {number(low)} (dark) to {number(high)} (bright)</p>"


def _image(data: str, words: str) -> str:
    return f'<img alt="{escape(words)}" style="max-width:100%" src="data:image/png;base64,{data}">'
