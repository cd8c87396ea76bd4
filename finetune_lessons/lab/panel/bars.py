"""Numbers as horizontal bars, an axis for each unit, whose zero stays where it is."""

import math
from collections.abc import Mapping
from html import escape

from finetune_lessons.lab.panel.live_plot import GREY, colour, figure_png, number, without_background

WIDTH, LEFT, VALUES, ROW, HEAD = 560, 150, 64, 26, 24  # pixels; VALUES: room for a number behind a bar
SMALL = 20  # an axis so many times longer than its longest bar is made anew


def by_unit(names: Mapping[str, object]) -> dict[str, list[str]]:
    "The names by what stands behind their last comma: 'loss, nats' is measured in nats."
    units: dict[str, list[str]] = {}
    for name in names:
        units.setdefault(str(name).rpartition(", ")[2] if ", " in str(name) else "", []).append(name)
    return units


class Axes:
    "An axis for each unit. It grows with its bars and hardly ever shrinks, so that a bar that grows looks longer."

    def __init__(self) -> None:
        self._reach: dict[str, float] = {}
        self._signed: set[str] = set()

    def limits(self, unit: str, values: list[float]) -> tuple[float, float]:
        "From zero, or as far below it as above, once a number was negative."
        if min(values) < 0:
            self._signed.add(unit)
        longest, reach = max(map(abs, values)), self._reach.get(unit, 0)
        if longest > reach or longest * SMALL < reach:
            self._reach[unit] = reach = _round_up(longest)
        return (-reach if unit in self._signed else 0.0), reach


def _round_up(value: float) -> float:
    "To 1, 2 or 5 and zeros."
    power = 10.0 ** math.floor(math.log10(value)) if value else 1.0
    return next((power * m for m in (1, 2, 5) if power * m >= value * 0.999), power * 10)


def bars(values: Mapping[str, float], axes: Axes) -> str:
    "As SVG, with names and numbers; a number that is not finite has no bar."
    units, parts, y = by_unit(values), [], 0
    for unit, names in units.items():
        if unit:
            parts.append(f'<text class="ftl-title" x="{LEFT}" y="{y + 17}">{escape(unit)}</text>')
            y += HEAD
        group = {without(name, unit): values[name] for name in names}
        parts += _group(group, axes.limits(unit, [v for v in map(_finite, group.values())]), y)
        y += ROW * len(names) + 22
    words = escape(", ".join(f"{name} {number(value)}" for name, value in values.items()), quote=True)
    return (
        f'<svg class="ftl-chart ftl-bars" role="img" aria-label="{words}" viewBox="0 0 {WIDTH} {y}" '
        f'width="{WIDTH}" height="{y}">{"".join(parts)}</svg>'
    )


def _group(values: Mapping[str, float], limits: tuple[float, float], top: int) -> list[str]:
    low, high = limits
    scale = (WIDTH - LEFT - VALUES * (2 if low < 0 else 1)) / (high - low)
    zero = LEFT + (VALUES if low < 0 else 0) - low * scale
    bottom = top + ROW * len(values)
    parts = [f'<line class="ftl-zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="{top}" y2="{bottom + 4}"/>']
    for place in sorted({low, 0.0, high}):
        x = zero + place * scale
        parts.append(
            f'<text class="ftl-tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{number(place)}</text>'
        )
    for i, (name, value) in enumerate(values.items()):
        length, y = abs(_finite(value)) * scale, top + ROW * i + 4
        left, behind = (zero - length, -6 - length) if value < 0 else (zero, length + 6)
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left:.1f}" y="{y}" width="{length:.1f}" height="18" fill="{colour(0)}"/>'
            f'<text x="{zero + behind:.1f}" y="{y + 13}" text-anchor="{"end" if value < 0 else "start"}">'
            f"{number(value)}</text>"
        )
    return parts


def bars_png(values: Mapping[str, float], axes: Axes) -> str:
    "The same for pages that run no widgets, in base64."
    from matplotlib.figure import Figure

    units = by_unit(values)
    figure = Figure(figsize=(5.6, 0.5 * len(units) + 0.35 * len(values)), layout="constrained", dpi=100)
    counts = [len(names) for names in units.values()]
    grid = figure.subplots(len(units), squeeze=False, height_ratios=counts)[:, 0]
    for axis, (unit, names) in zip(grid, units.items(), strict=True):
        numbers = [values[name] for name in names]
        lengths = list(map(_finite, numbers))
        drawn = axis.barh([without(name, unit) for name in names], lengths, color=colour(0))
        axis.bar_label(drawn, labels=list(map(number, numbers)), padding=3, color=GREY)
        low, high = axes.limits(unit, lengths)
        axis.set(title=unit, xlim=(1.2 * low, 1.2 * high))
        axis.axvline(0, color=GREY, linewidth=1)
        axis.invert_yaxis()
        without_background(axis)
    return figure_png(figure)


def without(name: str, unit: str) -> str:
    "The name without its unit, which stands over the axis."
    return str(name).removesuffix(f", {unit}") if unit else str(name)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
