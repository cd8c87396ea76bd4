"""Controls for single values, made from the abbreviations that ipywidgets' `interact` takes, and `LogRange`."""

import inspect
import math
import sys
from dataclasses import dataclass
from numbers import Real
from typing import Any

import ipywidgets as widgets

SLIDERS = (widgets.IntSlider, widgets.FloatSlider, widgets.FloatLogSlider)


@dataclass(frozen=True)
class LogRange:
    "A knob whose values spread over powers of ten, such as a learning rate."

    low: float
    high: float
    start: float | None = None  # None: the geometric middle

    def __post_init__(self) -> None:
        given = f"given: {self.low!r}, {self.high!r}"
        if not (_is_number(self.low) and _is_number(self.high) and 0 < self.low < self.high):
            raise ValueError(f"LogRange needs 0 < low < high, both finite, since it counts powers of ten; {given}")
        if self.start is not None and not (_is_number(self.start) and self.low <= self.start <= self.high):
            raise ValueError(f"LogRange starts between {self.low:g} and {self.high:g}; given: {self.start!r}")

    def slider(self, default: Any) -> widgets.FloatLogSlider:
        start = self.start if self.start is not None else default
        if not _is_number(start):
            start = float(f"{math.sqrt(self.low * self.high):.1g}")
        return widgets.FloatLogSlider(start, min=math.log10(self.low), max=math.log10(self.high), step=0.1)


def make_control(name: str, spec: Any, default: Any) -> widgets.Widget:
    "The control that the abbreviation stands for, at the default where it reaches that."
    if isinstance(spec, LogRange):
        return spec.slider(default)
    if isinstance(spec, tuple):
        _check_range(name, spec)
        default = default if _is_number(default) else inspect.Parameter.empty
    elif isinstance(spec, Real) and not _is_number(spec) and not isinstance(spec, bool):
        raise _no_knob(name, spec)
    widget = None if spec is None else widgets.interactive.widget_from_abbrev(spec, default)
    if not hasattr(widget, "value") or not isinstance(widget, widgets.Widget):
        raise _no_knob(name, spec)
    if isinstance(widget, widgets.FloatSlider) and isinstance(spec, tuple) and len(spec) == 2:
        widget.step = 10 ** math.floor(math.log10((widget.max - widget.min) / 20))
    return widget


def _check_range(name: str, spec: tuple) -> None:
    if len(spec) not in (2, 3) or not all(isinstance(x, Real) and not isinstance(x, bool) for x in spec):
        raise _no_knob(name, spec)
    low, high, *step = spec
    if not (_is_number(low) and _is_number(high) and low < high and _is_number(high - low)):
        raise ValueError(f"{name}={spec!r} is no range: expected two finite numbers, the lower one first")
    if step and not 0 < step[0] <= high - low:
        raise ValueError(f"{name}={spec!r} has the step {step[0]!r}: expected one above 0, up to {high - low:g}")


def _no_knob(name: str, spec: Any) -> ValueError:
    return ValueError(
        f"{name}={spec!r} is not a knob: expected LogRange(low, high), (low, high), (low, high, step), a list or "
        "range of choices, True or False, a text, a number, or an ipywidget that has a value"
    )


def _is_number(value: Any) -> bool:
    limit: Any = sys.float_info.max  # which larger whole numbers do not pass either
    return isinstance(value, Real) and not isinstance(value, bool) and -limit <= value <= limit


@dataclass(frozen=True)
class Range:
    "The numbers that a slider reaches."

    low: float
    high: float
    whole: bool

    @classmethod
    def of(cls, slider: widgets.Widget) -> "Range":
        low, high = slider.min, slider.max
        if isinstance(slider, widgets.FloatLogSlider):
            low, high = (float(f"{slider.base**power:.12g}") for power in (low, high))
        return cls(low, high, isinstance(slider, widgets.IntSlider))

    def holds(self, value: Any) -> bool:
        return _is_number(value) and bool(self.low <= value <= self.high) and self.nearest(value) == value

    def nearest(self, value: Any) -> Any:
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.whole else inside

    def remark(self, asked: float) -> str:
        "What became of a number that was typed, where it is another one now."
        if asked > self.high:
            return f"{self.high:g} is the highest here; {asked:g} was asked."
        if asked < self.low:
            return f"{self.low:g} is the lowest here; {asked:g} was asked."
        return "" if self.holds(asked) else f"Whole numbers only: {self.nearest(asked):g} is taken for {asked:g}."

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


def field_of(slider: widgets.Widget) -> widgets.Widget:
    "The field for the number that the slider shows. It takes any number: one out of reach is answered in words."
    slider.readout = False
    step = Range.of(slider).low if isinstance(slider, widgets.FloatLogSlider) else slider.step
    return widgets.FloatText(slider.value, step=step)


def classed(widget: widgets.Widget, *names: str) -> widgets.Widget:
    for name in names:
        widget.add_class(name)
    return widget


def set_options(control: widgets.Dropdown, options: list[tuple[str, Any]]) -> None:
    "New choices, with the old choice where it is still one."
    value = control.value
    control.options = options
    if value in [v for _, v in options]:
        control.value = value
