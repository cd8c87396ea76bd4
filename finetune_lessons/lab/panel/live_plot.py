"""Curves as SVG text, fast enough to be redrawn five times a second beside a training run; and as a PNG file."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from finetune_lessons.lab.panel.traces import Series

# Okabe and Ito's colours, which remain apart for the colour-blind; dashes and markers tell lines apart without colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#767676"  # of the words in pictures without a background: as dark against white as bright against black
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MARKERS = (  # as SVG paths, and for matplotlib
    ("M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0Z", "o"),
    ("M-3.2-3.2h6.4v6.4h-6.4Z", "s"),
    ("M0-4.4L4.2 3.4H-4.2Z", "^"),
    ("M0-4.8L4.8 0L0 4.8L-4.8 0Z", "D"),
    ("M-4.2-2.4L-2.4-4.2L0-1.8L2.4-4.2L4.2-2.4L1.8 0L4.2 2.4L2.4 4.2L0 1.8L-2.4 4.2L-4.2 2.4L-1.8 0Z", "X"),
)

Scale = Callable[[float], float]  # from a value to a pixel
LIVE_POINTS, OLD_POINTS, MARKS = 300, 100, 6
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 34


@dataclass(frozen=True)
class Line:
    series: Series
    style: int = 0  # which colour, dash and marker
    label: str = ""  # written at the line's end
    points: int = LIVE_POINTS
    opacity: float = 1.0
    plain: bool = False  # thin, without markers: the raw values behind a smoothed line
    dots: bool = False  # a marker at each of its few points


@dataclass(frozen=True)
class Chart:
    title: str
    lines: Sequence[Line]
    xlabel: str = "step"
    left: float = 0  # the x axis reaches at least from here
    right: float = 1  # to here
    top: float = math.inf  # what lies above runs along the upper edge, with a mark
    least: float = 0  # the y axis spans at least this much: a difference of less looks small

    @property
    def limits(self) -> tuple[float, float, float, float]:
        "left, right, bottom, top; raw values behind a smoothed line may leave the picture."
        shown = [line.series for line in self.lines if line.series.ys and not line.plain]
        if not shown:
            return self.left, self.right, 0, 1
        left, right = min(self.left, *(s.xs[0] for s in shown)), max(self.right, *(s.xs[-1] for s in shown))
        bottom, top = min(s.low for s in shown), max(s.high for s in shown)
        top = max(bottom, min(top, self.top))
        missing = max(0.0, self.least - (top - bottom)) / 2
        margin = max(0.06 * (top - bottom), missing) or abs(top) * 0.1 or 1
        return left, right, bottom - margin, top + margin

    @property
    def cut_off(self) -> list[Line]:
        "The lines whose highest value lies above the picture."
        top = self.limits[3]
        return [line for line in self.lines if line.series.ys and not line.plain and line.series.high > top]


def colour(style: int) -> str:
    return COLOURS[style % len(COLOURS)]


def dash(style: int) -> str:
    return DASHES[style % len(DASHES)]


def svg(chart: Chart, width: int, height: int, kind: str = "") -> str:
    "The chart as an SVG element that follows the page's colours."
    x0, x1, y0, y1 = chart.limits
    wide = width - LEFT - _room_for_labels(chart.lines, width // 3)
    high = height - TOP - BOTTOM
    scale_x, scale_y = wide / (x1 - x0), -high / (y1 - y0)

    def px(x: float) -> float:
        return LEFT + (x - x0) * scale_x

    def py(y: float) -> float:
        return TOP + high + (y - y0) * scale_y

    shown = [line for line in chart.lines if line.series.ys]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ftl-chart {kind}" role="img" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" aria-label="{escape(_in_words(chart), quote=True)}">'
        f'<text class="ftl-title" x="{LEFT}" y="16">{escape(chart.title)}</text>'
    ]
    if not shown:
        parts.append(
            f'<text class="ftl-tick" x="{LEFT}" y="{TOP + 24}">The curve of the first run appears here.</text>'
        )
    for y in ticks(y0, y1, max(3, high // 30)) if shown else ():
        parts.append(
            f'<line class="ftl-grid" x1="{LEFT}" x2="{LEFT + wide}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
            f'<text class="ftl-tick" x="{LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{number(y)}</text>'
        )
    for x in ticks(x0, x1, max(2, wide // 90)) if shown else ():
        parts.append(
            f'<text class="ftl-tick" x="{px(x):.1f}" y="{TOP + high + 15}" text-anchor="middle">{number(x)}</text>'
        )
    name = escape(chart.xlabel)
    parts.append(f'<text class="ftl-tick" x="{LEFT + wide}" y="{height - 5}" text-anchor="end">{name}</text>')
    # The nested picture clips; its group maps the data's units to pixels, strokes keep their width.
    parts.append(
        f'<svg x="{LEFT}" y="{TOP - 4}" width="{wide + 6}" height="{high + 8}">'
        f'<g fill="none" transform="matrix({scale_x:.6g} 0 0 {scale_y:.6g} {-x0 * scale_x:.6g} '
        f'{4 + high - y0 * scale_y:.6g})">{"".join([_polyline(line, y0, y1) for line in shown])}</g></svg>'
    )
    parts += [_markers(line, px, py, y1) for line in shown if not line.plain]
    parts += [_peak(line, px(line.series.peak), i, wide) for i, line in enumerate(chart.cut_off)]
    parts.append(_labels([line for line in shown if line.label], py, LEFT + wide + 8, y1, TOP + high + 4))
    return "".join([*parts, "</svg>"])


def _room_for_labels(lines: Sequence[Line], most: int) -> int:
    longest = max((len(line.label) for line in lines), default=0)
    return min(18 + 7 * longest, most) if longest else RIGHT


def _polyline(line: Line, bottom: float, top: float) -> str:
    "Clipped at the top; raw values, which may only be noise, are let out of the picture."
    width, opacity, dashes = (1, 0.35 * line.opacity, "") if line.plain else (2, line.opacity, dash(line.style))
    ceiling = 2 * top - bottom if line.plain else top
    return (
        f'<polyline vector-effect="non-scaling-stroke" stroke="{colour(line.style)}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}" stroke-dasharray="{dashes}" '
        f'points="{line.series.path(line.points, ceiling)}"/>'
    )


def _peak(line: Line, x: float, i: int, wide: float) -> str:
    "An arrow at the upper edge where the line is highest, and how high that is."
    at_the_right = x > LEFT + wide / 2
    y, side, anchor = TOP + 6 + 13 * i, -9 if at_the_right else 9, "end" if at_the_right else "start"
    words = f"{line.label} up to {number(line.series.high)}".strip()
    return (
        f'<path class="ftl-peak" fill="{colour(line.style)}" transform="translate({x:.1f} {y:.1f})" '
        f'd="M0-9L5 0H1.5V5H-1.5V0H-5Z"/>'
        f'<text class="ftl-high" x="{x + side:.1f}" y="{y + 3:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def _markers(line: Line, px: Scale, py: Scale, top: float) -> str:
    marks = line.series.thinned(30 if line.dots else MARKS)
    shapes = "".join([_marker(line.style, px(x), py(y)) for x, y in marks if y <= top])
    return f'<g fill="{colour(line.style)}" fill-opacity="{line.opacity}">{shapes}</g>'


def _marker(style: int, x: float, y: float) -> str:
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{MARKERS[style % len(MARKERS)][0]}"/>'


def _labels(lines: Sequence[Line], py: Scale, x: float, top: float, lowest: float) -> str:
    "Each label at its line's end, moved where it would cover another one; an arrow where the line has left."
    lines = sorted(lines, key=lambda line: -line.series.ys[-1])
    heights = _apart([py(min(line.series.ys[-1], top)) + 4 for line in lines], 13, lowest)
    texts = []
    for line, y in zip(lines, heights, strict=True):
        text = escape(line.label) + (" ↑" if line.series.ys[-1] > top else "")
        texts.append(
            f'<text class="ftl-label" x="{x:.1f}" y="{y:.1f}" fill-opacity="{max(line.opacity, 0.6)}">{text}</text>'
        )
    return "".join(texts)


def _apart(heights: Sequence[float], least: float, lowest: float) -> list[float]:
    "The ascending heights at least so far from each other: pushed down, and up again where that ends too low."
    pushed: list[float] = []
    for height in heights:
        pushed.append(max(height, pushed[-1] + least) if pushed else height)
    for i in reversed(range(len(pushed))):
        pushed[i] = min(pushed[i], lowest)
        lowest = pushed[i] - least
    return pushed


def _in_words(chart: Chart) -> str:
    ends = [
        f"{line.label or 'last value'} {number(line.series.ys[-1])} at {chart.xlabel} {number(line.series.xs[-1])}"
        for line in chart.lines
        if line.series.ys and not line.plain
    ]
    cut = [f"{line.label or 'it'} left the picture, up to {number(line.series.high)}" for line in chart.cut_off]
    return f"{chart.title}: {', '.join([*ends, *cut]) or 'nothing yet'}"


def swatch(style: int) -> str:
    "A short piece of the line, for tables and legends."
    return (
        f'<svg class="ftl-swatch" width="34" height="12" aria-hidden="true"><line x1="0" x2="34" y1="6" y2="6" '
        f'stroke="{colour(style)}" stroke-width="2" stroke-dasharray="{dash(style)}"/>'
        f'<g fill="{colour(style)}">{_marker(style, 17, 6)}</g></svg>'
    )


def ticks(low: float, high: float, about: int) -> list[float]:
    "Round numbers between low and high, at least two of them."
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    coarse = next(m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    marks = (_multiples(power * m, low, high) for m in (10, 5, 2, 1, 0.5, 0.2) if m <= coarse)
    return next((few for few in marks if len(few) > 1), [low, high])


def _multiples(step: float, low: float, high: float) -> list[float]:
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    "Short, for people: 0.0125, 3e-05, 12,500."
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.2g}"


def png(charts: Sequence[Chart], title: str = "") -> str:
    "The charts side by side as a PNG picture, in base64: what a page shows that does not run widgets."
    from matplotlib.figure import Figure  # not pyplot, which threads must not share

    figure = Figure(figsize=(4.2 * len(charts), 2.9), layout="constrained", dpi=100)
    figure.suptitle(title, fontsize=9, color=GREY)
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        for line in (line for line in chart.lines if line.series.ys):
            style: dict = dict(color=colour(line.style), alpha=0.35 if line.plain else line.opacity, linewidth=1)
            if not line.plain:
                marker = MARKERS[line.style % len(MARKERS)][1]
                every = max(1, min(len(line.series.xs), 1000) // MARKS)
                style |= dict(label=line.label or None, linewidth=2, marker=marker, markevery=every, markersize=5)
                style |= dict(dashes=tuple(map(float, dash(line.style).split())) or (None, None))
            xs, ys = zip(*line.series.thinned(1000), strict=True)
            top = math.inf if line.plain else chart.limits[3]
            axes.plot(xs, [min(y, top) for y in ys], clip_on=line.plain, **style)
        for i, line in enumerate(chart.cut_off):
            place, away = (line.series.peak, chart.limits[3]), (2, -11 * i - 10)
            words, ink = f"↑ {line.label} up to {number(line.series.high)}", colour(line.style)
            axes.annotate(words, place, away, textcoords="offset points", color=ink, fontsize=8)
        axes.set(title=chart.title, xlabel=chart.xlabel, ylim=chart.limits[2:])
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, labelcolor=GREY, framealpha=0)
        without_background(axes)
    return figure_png(figure)


def without_background(axes) -> None:
    "Readable on a light page and on a dark one."
    axes.figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=GREY)
    for part in (axes.title, axes.xaxis.label, axes.yaxis.label):
        part.set_color(GREY)
    for spine in axes.spines.values():
        spine.set_color(GREY)


def figure_png(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
