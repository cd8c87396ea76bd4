"""Which curves of a panel's runs are drawn, where, and how."""

import math
from collections.abc import Collection, Iterable, Sequence
from statistics import median_low

from finetune_lessons.lab.panel.live_plot import LIVE_POINTS, OLD_POINTS, Chart, Line
from finetune_lessons.lab.panel.traces import GRAD_NORM, LR, PART, RAW, SMOOTH, Series, Trace

_TITLES = {SMOOTH: "training loss (bold: smoothed)"}
_TIMES = {SMOOTH: 3, "validation loss": 10, GRAD_NORM: 10}
_LEAST = 0.1  # of a metric between 0 and 1: validations of a few hundred texts differ by some hundredths by chance


def charts_of(traces: Sequence[Trace], picked: Collection[int] = ()) -> list[Chart]:
    """The loss of all runs, then a small chart for each other curve, and one for all parts of the loss of a kind.

    Runs that are not `picked` step back, if some are; the newest one, which may be training, never does.
    """
    right = max((t.total or t.first + t.steps for t in traces), default=0) or 1
    charts = {name: _chart(name, traces, picked, right) for name in [SMOOTH, *_small(traces)]}
    shown = [trace for trace in traces if trace.number in picked] or traces[-1:]
    parts = [_part_chart(title, names, shown, right) for title, names in _parts(shown).items()]
    last = [charts.pop(name) for name in (LR, GRAD_NORM) if name in charts]
    return [*charts.values(), *parts, *last]


def _chart(name: str, traces: Sequence[Trace], picked: Collection[int], right: float) -> Chart:
    title, lines = _TITLES.get(name, name), _lines(name, traces, picked)
    series = [trace.series[name] for trace in traces if name in trace.series]
    top = 2 * series[-1].high if name == LR else _top(series, _TIMES.get(name, math.inf))
    return Chart(title, lines, right=right, top=top, least=_least(name, series))


def _lines(name: str, traces: Sequence[Trace], picked: Collection[int]) -> list[Line]:
    lines = []
    for trace in traces:
        if name not in trace.series:
            continue
        newest = trace is traces[-1]
        in_front = newest or trace.number in picked
        style, opacity = trace.number - 1, 1.0 if in_front or not picked else 0.3
        if name == SMOOTH and in_front and RAW in trace.series:
            lines.append(Line(trace.series[RAW], style, opacity=opacity, plain=True))
        label, points = trace.name if name == SMOOTH else "", LIVE_POINTS if newest else OLD_POINTS
        lines.append(Line(trace.series[name], style, label, points, opacity, dots=name.startswith("validation")))
    return lines


def _small(traces: Iterable[Trace]) -> list[str]:
    "Which curves get a small chart of their own: a metric, the learning rate, the gradient."
    names = list(dict.fromkeys(name for trace in traces for name in trace.series))
    metrics = [name for name in names if name.startswith("validation") and name != "validation loss"][:1]
    return [name for name in [*metrics, "validation loss", LR, GRAD_NORM] if name in names]


def _parts(traces: Iterable[Trace]) -> dict[str, list[str]]:
    "The names of the parts by the title of their chart: those called 'weight of ...' in one, other parts in another."
    titles: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for trace in traces for name in trace.series if name.startswith(PART)):
        kind, of, _ = name.removeprefix(PART).rpartition(" of ")
        titles.setdefault(f"{kind} of ..." if of else "parts of the loss", []).append(name)
    return {title: names for title, names in titles.items() if len(names) > 1}


def _part_chart(title: str, names: Sequence[str], traces: Sequence[Trace], right: float) -> Chart:
    lines = _part_lines(names, traces)
    return Chart(title, lines, right=right, top=_top([line.series for line in lines], _TIMES[SMOOTH]))


def _part_lines(names: Sequence[str], traces: Sequence[Trace]) -> list[Line]:
    "A line for each part; its run is named where there are several."
    lines = []
    for trace in traces:
        for style, name in enumerate(names):
            if name in trace.series:
                label = name.removeprefix(PART).rpartition(" of ")[2] + (f" {trace.number}" if traces[1:] else "")
                opacity = 1.0 if trace is traces[-1] else 0.5
                lines.append(Line(trace.series[name], style, label, OLD_POINTS, opacity))
    return lines


def _top(series: Iterable[Series], times: float) -> float:
    "So many times the usual first value, which a run that diverges leaves: it must not flatten the others."
    firsts = [one.ys[0] for one in series if one.ys]
    return times * median_low(firsts) if firsts else math.inf


def _least(name: str, series: Iterable[Series]) -> float:
    is_share = all(0 <= one.low and one.high <= 1 for one in series if one.ys)
    return _LEAST if name.startswith("validation") and not name.endswith("loss") and is_share else 0
