"""The runs of a panel side by side: a table that can be sorted, two runs compared, one removed."""

from collections.abc import Callable, Sequence
from html import escape
from numbers import Real
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.choices import label_of, same
from finetune_lessons.lab.panel.controls import set_options
from finetune_lessons.lab.panel.errors import settings
from finetune_lessons.lab.panel.frame import in_a_row
from finetune_lessons.lab.panel.live_plot import number, swatch
from finetune_lessons.lab.panel.traces import Trace, clock

Row = tuple[Trace, dict[str, Any]]  # a run and its row of the table
ALL = -1  # in place of the number of a run, which are counted from 1
_NOTHING, _ALL = ("choose", 0), ("all runs", ALL)


class Results:
    "The table of runs and its controls."

    def __init__(self) -> None:
        style = {"description_width": "initial"}
        self.sort = widgets.Dropdown(description="Sort by", options=["run"], style=style)
        self.descending = widgets.ToggleButton(description="Largest first")
        self.first, self.second = (
            widgets.Dropdown(description=text, options=[_NOTHING], style=style) for text in ("Compare", "Compare with")
        )
        self.victim = widgets.Dropdown(description="Remove run", options=[_NOTHING], style=style)
        self.remove = widgets.Button(description="Remove", tooltip="Remove the chosen run from the table and the plot")
        self.table, self.comparison = widgets.HTML(), widgets.HTML()
        controls = in_a_row(self.sort, self.descending, self.first, self.second, self.victim, self.remove)
        self.box = widgets.VBox([controls, self.table, self.comparison], layout={"display": "none"})
        self._traces: Sequence[Trace] = ()
        for control in (self.sort, self.descending, self.first, self.second):
            control.observe(lambda _: self._draw(), "value")

    @property
    def picked(self) -> list[int]:
        "The numbers of the two runs being compared, or nothing."
        pair = [self.first.value, self.second.value]
        return pair if all(pair) and pair[0] != pair[1] else []

    def on_pick(self, handler: Callable[[], None]) -> None:
        for control in (self.first, self.second):
            control.observe(lambda _: handler(), "value")

    def show(self, traces: Sequence[Trace]) -> None:
        self._traces = tuple(traces)
        columns = _columns([trace.row() for trace in traces])
        set_options(self.sort, [(name, name) for name in columns] or [("run", "run")])
        runs = [_NOTHING, *((trace.name, trace.number) for trace in traces)]
        for control, options in ((self.first, runs), (self.second, runs), (self.victim, [*runs, _ALL])):
            set_options(control, options)
        self._draw()
        self.box.layout.display = None if traces else "none"

    def _draw(self) -> None:
        rows = [(trace, trace.row()) for trace in self._traces]
        self.table.value = _table(_sorted(rows, self.sort.value, self.descending.value), self.picked)
        self.comparison.value = self._compare()

    def _compare(self) -> str:
        by_number = {trace.number: trace for trace in self._traces}
        if not self.picked or not set(self.picked) <= set(by_number):
            return ""
        one, two = (by_number[n] for n in self.picked)
        return _comparison(one, two)


def _table(rows: Sequence[Row], picked: Sequence[int]) -> str:
    alike = _alike(rows)
    columns = [name for name in _columns([row for _, row in rows]) if name not in alike]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for trace, row in rows:
        cells = "".join(_shown(row.get(name, ""), name, trace) for name in columns[1:])
        mark = ' class="ftl-picked"' if trace.number in picked else ""
        body.append(f'<tr{mark}><th scope="row">{swatch(trace.number - 1)} {trace.name}</th>{cells}</tr>')
    return (
        '<div class="ftl-scroll" tabindex="0" role="region" aria-label="Table of runs"><table class="ftl-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f"{_caption(alike)}"
    )


def _alike(rows: Sequence[Row]) -> dict[str, Any]:
    "The knobs that all runs share, where there are several: they would take the place of what differs."
    if len(rows) < 2:
        return {}
    (first, shared), *others = rows
    names = {("run (knob)" if name == "run" else name): shared.get(name) for name in first.values}
    return {name: value for name, value in names.items() if all(same(row.get(name), value) for _, row in others)}


def _caption(alike: dict[str, Any]) -> str:
    return f'<p class="ftl-note">The same in all runs: {escape(settings(alike))}.</p>' if alike else ""


def _comparison(one: Trace, two: Trace) -> str:
    a, b = one.row(), two.row()
    lines = []
    for name in _columns([a, b])[1:]:
        left, right = a.get(name, ""), b.get(name, "")
        if not same(left, right) and (name in one.values or name not in ("outcome", "prediction")):
            change = f"{right - left:+.3g}" if _is_number(left) and _is_number(right) else ""
            cells = "".join(
                f"<td>{escape(text)}</td>" for text in (_cell(left, name, one), _cell(right, name, two), change)
            )
            lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{text}</th>' for text in ("difference", one.name, two.name, "change"))
    return (
        f'<table class="ftl-table ftl-comparison"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _sorted(rows: list[Row], column: str, descending: bool) -> list[Row]:
    "Numbers before texts; rows without a value come last in both directions."

    def value(row: Row) -> Any:
        return row[1].get(column)

    def order(row: Row) -> tuple[bool, float, str]:
        return (False, value(row), "") if _is_number(value(row)) else (True, 0, label_of(value(row)))

    missing = [row for row in rows if _is_missing(value(row))]
    present = [row for row in rows if not _is_missing(value(row))]
    return sorted(present, key=order, reverse=descending) + missing


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _shown(value: Any, column: str, trace: Trace) -> str:
    "The cell; of a run that trains, the outcome is seen only while there is a kernel that trains it."
    text = escape(_cell(value, column, trace))
    is_live = column == trace.column("outcome") and trace.outcome == "running"
    return f'<td><span class="ftl-live">{text}</span></td>' if is_live else f"<td>{text}</td>"


def _cell(value: Any, column: str, trace: Trace) -> str:
    if column == trace.column("seconds") and _is_number(value):
        return clock(value)
    if isinstance(value, float):
        return "" if value != value else number(value) if abs(value) >= 10 else f"{value:.4g}"
    return label_of(value)
