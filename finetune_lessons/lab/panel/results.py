"""The runs of a panel side by side: a table that can be sorted, two runs compared, one removed."""

from collections.abc import Callable, Sequence
from html import escape
from numbers import Real
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.choices import label_of, same
from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.live_plot import number, swatch
from finetune_lessons.lab.panel.traces import Trace, clock

Row = tuple[Trace, dict[str, Any]]  # a run and its row of the table
_NOTHING = ("choose", 0)  # runs are numbered from 1


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
        rows = [(self.sort, self.descending, self.first, self.second, self.victim, self.remove)]
        self.box = widgets.VBox(
            [*(classed(widgets.Box(row), "ftl-row") for row in rows), self.table, self.comparison],
            layout={"display": "none"},
        )
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
        _set_options(self.sort, [(name, name) for name in columns] or [("run", "run")])
        for control in (self.first, self.second, self.victim):
            _set_options(control, [_NOTHING, *((trace.name, trace.number) for trace in traces)])
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
    columns = _columns([row for _, row in rows])
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for trace, row in rows:
        cells = "".join(f"<td>{escape(_cell(row.get(name, ''), name, trace))}</td>" for name in columns[1:])
        mark = ' class="ftl-picked"' if trace.number in picked else ""
        body.append(f'<tr{mark}><th scope="row">{swatch(trace.number - 1)} {trace.name}</th>{cells}</tr>')
    return (
        '<div class="ftl-scroll" tabindex="0" role="region" aria-label="Table of runs"><table class="ftl-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


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


def _set_options(control: widgets.Dropdown, options: list[tuple[str, Any]]) -> None:
    "New choices, with the old choice where it is still one."
    value = control.value
    control.options = options
    if value in [v for _, v in options]:
        control.value = value


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


def _cell(value: Any, column: str, trace: Trace) -> str:
    if column == trace.column("seconds") and _is_number(value):
        return clock(value)
    if isinstance(value, float):
        return "" if value != value else number(value) if abs(value) >= 10 else f"{value:.4g}"
    return label_of(value)
