"""What a figure shows in one or two sentences, made of what is drawn: titles, axes, and the numbers that matter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

NAMED = 6  # lines, bars or words of one chart; of more only the number
LONGEST = 600  # characters
PALE = 0.4  # a line that is seen through more than this stands behind another


def describe(
    figure: Figure,  # drawn once, so that its ticks are there
) -> str:
    "The words for a screen reader: at most 600 characters."
    heading = f"{figure.get_suptitle()}. " if figure.get_suptitle() else ""
    charts = [_chart(ax) for ax in figure.axes if ax.get_label() != "<colorbar>"]
    words = " ".join((heading + " ".join(charts)).split())
    return words if len(words) <= LONGEST else words[: LONGEST - 4].rsplit(" ", 1)[0].rstrip(",;:") + " ..."


def _chart(ax: Axes) -> str:
    axes = [f"{name}: {label}" for name, label in (("x", ax.get_xlabel()), ("y", ax.get_ylabel())) if label]
    frame = " ".join(filter(None, [ax.get_title() or "A chart", f"({', '.join(axes)})" if axes else ""]))
    shown = [*_maps(ax), *_bars(ax), *_lines(ax), *_words(ax)]
    return f"{frame}: {'; '.join(shown)}." if shown else f"{frame}."


def _maps(ax: Axes) -> list[str]:
    return [_map(ax, np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)) for image in ax.images]


def _map(ax: Axes, values: np.ndarray) -> str:
    rows, columns = values.shape[:2]
    size = f"a map of {rows} by {columns} values"
    if values.ndim > 2 or not np.isfinite(values).any():
        return size
    low, high = (np.unravel_index(which(values), values.shape) for which in (np.nanargmin, np.nanargmax))
    names = [_names(ax.yaxis, rows), _names(ax.xaxis, columns)]
    ends = [f"{_number(values[place])} at {_place(place, names)}" for place in (low, high)]
    return f"{size}, from {ends[0]} to {ends[1]}"


def _place(place: Sequence[Any], names: list[list[str]]) -> str:
    row, column = (known[i] if known else str(i) for known, i in zip(names, place, strict=True))
    return f"{row} and {column}"


def _bars(ax: Axes) -> list[str]:
    shown: list[str] = []
    for bars in (container for container in ax.containers if isinstance(container, BarContainer)):
        across = bars.orientation == "horizontal"
        values = [bar.get_width() if across else bar.get_height() for bar in bars.patches]
        names = _names(ax.yaxis if across else ax.xaxis, len(values)) or [str(i + 1) for i in range(len(values))]
        label = "" if str(bars.get_label()).startswith("_") else f"{bars.get_label()}, "
        order = sorted(range(len(values)), key=lambda i: -values[i]) if len(values) > NAMED else range(len(values))
        said = [f"{names[i]} {_number(values[i])}" for i in order]
        most = f"{len(said)} bars, the longest " if len(values) > NAMED else "bars: "
        least = f", the shortest {said[-1]}" if len(values) > NAMED else ""
        shown.append(label + most + ", ".join(said[: 3 if least else NAMED]) + least)
    return shown


def _names(axis: Any, count: int) -> list[str]:
    "The names along an axis, if there is one for each place; else none."
    names = [text.get_text() for text in axis.get_ticklabels()]
    return names if len(names) == count and not any(map(_is_number, names)) and all(names) else []


def _is_number(text: str) -> bool:
    return text.replace("\N{MINUS SIGN}", "").replace(".", "").isdigit()


def _lines(ax: Axes) -> list[str]:
    said = [words for line in ax.lines if _tells(line, ax) and (words := _line(line))]
    return said[:NAMED] + ([f"{len(said) - NAMED} more"] if len(said) > NAMED else [])


def _tells(line: Line2D, ax: Axes) -> bool:
    "Not the pale one behind another, not the end of an error bar, not a line across the whole axes."
    pale = (line.get_alpha() or 1) < PALE
    return not pale and line.get_label() != "_nolegend_" and line.get_transform() == ax.transData


def _line(line: Line2D) -> str:
    "From where to where it goes, and what it reaches between."
    x, y = (np.asarray(data, dtype=float) for data in (line.get_xdata(), line.get_ydata()))
    x, y = (values[np.isfinite(x) & np.isfinite(y)] for values in (x, y))
    if not len(y):
        return ""
    label = str(line.get_label())
    start, end = (f"{_number(y[i])} at {_number(x[i])}" for i in (0, -1))
    named = "" if label.startswith("_") or not label else f"{label} "
    if len(y) == 1:
        return named + start
    extremes = [("lowest", y.argmin(), y.min() < min(y[0], y[-1])), ("highest", y.argmax(), y.max() > max(y[0], y[-1]))]
    between = "".join(f", {word} {_number(y[i])} at {_number(x[i])}" for word, i, inside in extremes if inside)
    return f"{named}from {start} to {end}{between}"


def _words(ax: Axes) -> list[str]:
    "What is written in the chart, but for the numbers on bars and in cells."
    words = [text.get_text().replace("\n", " ") for text in ax.texts]
    words = [word for word in words if word and not _is_number(word)]
    return ["in it: " + ", ".join(words[:NAMED])] if words and not ax.images and not ax.containers else []


def _number(value: Any) -> str:
    return f"{float(value):.3g}" if abs(value) < 1000 else f"{float(value):,.0f}"
