"""Turn knobs on a function that is quick to compute, and see its result at once."""

import traceback
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.knobs import Knobs
from finetune_lessons.lab.panel.live_plot import Chart, Line, colour, figure_png, number, png, svg
from finetune_lessons.lab.panel.errors import explain, settings
from finetune_lessons.lab.panel.style import STYLE
from finetune_lessons.lab.panel.view import failure
from finetune_lessons.lab.panel.traces import Series


def explore(
    function: Callable[..., Any],
    *,
    xlabel: str = "x",  # of a result that is drawn as lines
    hide: Iterable[str] = (),
    lock: Iterable[str] = (),
    help: Mapping[str, str] | None = None,  # explanations by knob, in place of the built-in ones
    **knobs: Any,  # as for `Panel`
) -> "Explorer":
    """Show `function(**values)`, drawn again whenever a knob moves.

    A dict of numbers is drawn as bars, a dict of sequences (of y, or a pair of x and y) as lines, a matrix as a
    map of colours; a matplotlib figure, or anything else that notebooks can show, as it is.
    """
    return Explorer(function, Knobs(function, knobs, explanations=help, hide=hide, lock=lock), xlabel)


class Explorer:
    "The knobs and the picture of one function."

    def __init__(self, function: Callable[..., Any], knobs: Knobs, xlabel: str):
        self.function, self.knobs, self.xlabel = function, knobs, xlabel
        self.result: Any = None
        self._picture = widgets.HTML()
        self.widget = classed(
            widgets.VBox([widgets.HTML(STYLE, layout={"display": "none"}), knobs.box(), self._picture]), "ftl-panel"
        )
        knobs.observe(self._draw)
        self._draw()

    @property
    def values(self) -> dict[str, Any]:
        return self.knobs.values

    def set(self, **values: Any) -> None:
        self.knobs.set(**values)

    def _draw(self) -> None:
        values = self.values
        try:
            self.result = self.function(**values)
            self._picture.value = picture(self.result, self.xlabel)
        except Exception as error:
            said = explain(error, "computing the result", values, self.knobs.moved(values))
            self._picture.value = failure(said, "".join(traceback.format_exception(error)))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/plain": repr(self)}
        return {**bundle, **still(self.result, self.xlabel)}

    def __repr__(self) -> str:
        return f"explore {getattr(self.function, '__name__', '')}: {settings(self.values)}"


def picture(result: Any, xlabel: str) -> str:
    "The result as HTML."
    if isinstance(result, Mapping):
        return _bars(result) if _scalars(result) else svg(_lines(result, xlabel), 560, 260)
    if getattr(result, "ndim", 0) == 2 and not hasattr(result, "_repr_html_"):
        return _image(_map_png(result), f"map of {len(result)} by {len(result[0])} values") + _range_of(result)
    if hasattr(result, "savefig"):
        return _image(figure_png(result), "figure")
    for method in ("_repr_html_", "_repr_svg_"):
        if hasattr(result, method):
            return getattr(result, method)()
    return f'<pre class="ftl-trace">{escape(str(result))}</pre>'


def still(result: Any, xlabel: str) -> dict[str, str]:
    "The result as a PNG picture for pages that run no widgets, where it is one."
    if isinstance(result, Mapping):
        return {"image/png": _bars_png(result) if _scalars(result) else png([_lines(result, xlabel)])}
    if getattr(result, "ndim", 0) == 2 and not hasattr(result, "_repr_html_"):
        return {"image/png": _map_png(result)}
    return {"image/png": figure_png(result)} if hasattr(result, "savefig") else {}


def _scalars(result: Mapping[str, Any]) -> bool:
    return all(getattr(value, "ndim", 0) == 0 and not isinstance(value, (list, tuple)) for value in result.values())


def _lines(result: Mapping[str, Any], xlabel: str) -> Chart:
    lines = []
    for style, (label, values) in enumerate(result.items()):
        xs, ys = values if isinstance(values, tuple) else (range(len(values)), values)
        series = Series()
        for x, y in zip(xs, ys, strict=True):
            series.add(float(x), float(y))
        lines.append(Line(series, style, str(label)))
    xs = [x for line in lines for x in line.series.xs] or [0.0]
    return Chart("", lines, xlabel, min(xs), max(*xs, min(xs) + 1e-9))


def _bars(result: Mapping[str, Any], width: int = 560) -> str:
    "Horizontal bars from zero, with names and numbers."
    values = {str(name): float(value) for name, value in result.items()}
    low, high = min(0.0, *values.values(), 0.0), max(0.0, *values.values(), 1e-12)
    scale, left = (width - 220) / (high - low), 140
    rows = []
    for i, (name, value) in enumerate(values.items()):
        x, length, y = left + (min(0.0, value) - low) * scale, abs(value) * scale, 8 + 26 * i
        rows.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="18" fill="{colour(0)}"/>'
            f'<text x="{x + length + 6:.1f}" y="{y + 14}">{number(value)}</text>'
        )
    words = escape(", ".join(f"{name} {number(value)}" for name, value in values.items()), quote=True)
    height = 16 + 26 * len(values)
    return (
        f'<svg class="ftl-chart ftl-bars" role="img" aria-label="{words}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{"".join(rows)}</svg>'
    )


def _bars_png(result: Mapping[str, Any]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 0.6 + 0.35 * len(result)), layout="constrained", dpi=100)
    axes = figure.subplots()
    bars = axes.barh(list(map(str, result)), list(map(float, result.values())), color=colour(0))
    axes.bar_label(bars, fmt=number, padding=3)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    return figure_png(figure)


def _map_png(matrix: Any) -> str:
    import base64
    import io

    import numpy as np
    from matplotlib.image import imsave

    values, buffer = np.asarray(matrix, dtype=float), io.BytesIO()
    enlarged = np.kron(values, np.ones([max(1, 320 // max(values.shape))] * 2))
    imsave(buffer, enlarged, cmap="cividis", format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _range_of(matrix: Any) -> str:
    return f"<p>from {number(float(matrix.min()))} (dark) to {number(float(matrix.max()))} (bright)</p>"


def _image(data: str, words: str) -> str:
    return f'<img alt="{words}" style="max-width:100%" src="data:image/png;base64,{data}">'


__all__ = ["explore"]
