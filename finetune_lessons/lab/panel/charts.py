"""Which curves of a panel's runs are drawn, where, and how."""

import math
from collections.abc import Collection, Iterable, Sequence

from finetune_lessons.lab.panel.live_plot import LIVE_POINTS, OLD_POINTS, Chart, Line
from finetune_lessons.lab.panel.traces import GRAD_NORM, LR, RAW, SMOOTH, Trace

_TITLES = {SMOOTH: "training loss (bold: smoothed)"}


def charts_of(traces: Sequence[Trace], picked: Collection[int] = ()) -> list[Chart]:
    "The loss of all runs, then a small chart for each other curve; runs that are not `picked` step back, if some are."
    right = max((t.total or t.steps for t in traces), default=1)
    return [
        Chart(_TITLES.get(name, name), _lines(name, traces, picked), right=right, cut=_cut(name))
        for name in [SMOOTH, *_small(traces)]
    ]


def _lines(name: str, traces: Sequence[Trace], picked: Collection[int]) -> list[Line]:
    lines = []
    for trace in traces[-1:] if name == LR else traces:
        if name not in trace.series:
            continue
        newest = trace is traces[-1]
        style, opacity = trace.number - 1, 0.3 if picked and trace.number not in picked else 1.0
        if name == SMOOTH and newest and RAW in trace.series:
            lines.append(Line(trace.series[RAW], style, opacity=opacity, plain=True))
        label, points = trace.name if name == SMOOTH else "", LIVE_POINTS if newest else OLD_POINTS
        lines.append(Line(trace.series[name], style, label, points, opacity, dots=name.startswith("validation")))
    return lines


def _small(traces: Iterable[Trace]) -> list[str]:
    "Which curves get a small chart of their own: a metric, the learning rate, the gradient, the loss's parts."
    names = list(dict.fromkeys(name for trace in traces for name in trace.series))
    metrics = [name for name in names if name.startswith("validation") and name != "validation loss"][:1]
    parts = [name for name in names if name.startswith("part: ")]
    wanted = [*metrics, "validation loss", LR, GRAD_NORM]
    return [name for name in wanted if name in names] + (parts if len(parts) > 1 else [])


def _cut(name: str) -> float:
    "Above how many times the usual first value a curve may leave its chart."
    if name == SMOOTH or name.startswith("part: "):
        return 3
    return 10 if name in ("validation loss", GRAD_NORM) else math.inf
