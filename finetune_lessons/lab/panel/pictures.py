"""A result as a picture: bars, lines, a map of colours, a figure, or what notebooks show of it."""

import base64
import io
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from finetune_lessons.lab.panel.choices import label_of
from finetune_lessons.lab.panel.errors import settings
from finetune_lessons.lab.panel.live_plot import Chart, Line, colour, figure_png, number, png, svg
from finetune_lessons.lab.panel.traces import Series


def picture(result: Any, xlabel: str) -> str:
    "The result as HTML; ValueError for numbers that make no picture."
    if isinstance(result, Mapping):
        bars = _bars_of(result)
        return _bars(bars) if bars else _curves(_lines(result, xlabel))
    if _is_matrix(result):
        values = _matrix(result)
        return _image(_map_png(values), f"map of {len(values)} by {len(values[0])} values") + _range_of(values)
    if hasattr(result, "savefig"):
        return _image(figure_png(result), "figure")
    for method in ("_repr_html_", "_repr_svg_"):
        if hasattr(result, method):
            return getattr(result, method)()
    return f'<pre class="ftl-trace">{escape(str(result))}</pre>'


def still(result: Any, xlabel: str) -> dict[str, str]:
    "The result as a PNG picture for pages that run no widgets, where it is one."
    if isinstance(result, Mapping):
        bars = _bars_of(result)
        return {"image/png": _bars_png(bars) if bars else png([_lines(result, xlabel)])}
    if _is_matrix(result):
        return {"image/png": _map_png(_matrix(result))}
    return {"image/png": figure_png(result)} if hasattr(result, "savefig") else {}


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


def _lines(result: Mapping[str, Any], xlabel: str) -> Chart:
    lines = [Line(_series(str(name), values), style, str(name)) for style, (name, values) in enumerate(result.items())]
    shown = [x for line in lines for x in line.series.xs]
    if not shown:
        raise ValueError(f"there is no finite point to draw in {', '.join(line.label for line in lines)}")
    return Chart("", lines, xlabel, min(shown), max(*shown, min(shown) + 1e-9))


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


def _bars(values: Mapping[str, float], width: int = 560) -> str:
    "Horizontal bars from zero, with names and numbers; a number that is not finite has no bar."
    finite = {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}
    low, high = min(0.0, *finite.values(), 0.0), max(0.0, *finite.values(), 1e-12)
    scale, left = (width - 220) / (high - low), 140
    rows = []
    for i, (name, value) in enumerate(finite.items()):
        x, length, y = left + (min(0.0, value) - low) * scale, abs(value) * scale, 8 + 26 * i
        rows.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="18" fill="{colour(0)}"/>'
            f'<text x="{x + length + 6:.1f}" y="{y + 14}">{number(values[name])}</text>'
        )
    words = escape(", ".join(f"{name} {number(value)}" for name, value in values.items()), quote=True)
    height = 16 + 26 * len(values)
    return (
        f'<svg class="ftl-chart ftl-bars" role="img" aria-label="{words}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{"".join(rows)}</svg>'
    )


def _bars_png(values: Mapping[str, float]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 0.6 + 0.35 * len(values)), layout="constrained", dpi=100)
    axes = figure.subplots()
    bars = axes.barh(
        list(values), [value if math.isfinite(value) else 0.0 for value in values.values()], color=colour(0)
    )
    axes.bar_label(bars, labels=[number(value) for value in values.values()], padding=3)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    return figure_png(figure)


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
    return f'<img alt="{words}" style="max-width:100%" src="data:image/png;base64,{data}">'
