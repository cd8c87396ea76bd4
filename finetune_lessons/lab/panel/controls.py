"""Controls for single values, made from the abbreviations that ipywidgets' `interact` takes, and `LogRange`."""

import inspect
import math
from dataclasses import dataclass
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
        if not 0 < self.low < self.high:
            raise ValueError(f"LogRange needs 0 < low < high; given: {self.low!r}, {self.high!r}")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"LogRange starts between {self.low:g} and {self.high:g}; given: {self.start!r}")

    def slider(self, default: Any) -> widgets.FloatLogSlider:
        start = self.start if self.start is not None else default
        if start is inspect.Parameter.empty:
            start = float(f"{math.sqrt(self.low * self.high):.1g}")
        return widgets.FloatLogSlider(start, min=math.log10(self.low), max=math.log10(self.high), step=0.1)


def make_control(name: str, spec: Any, default: Any) -> widgets.Widget:
    if isinstance(spec, LogRange):
        return spec.slider(default)
    widget = None if spec is None else widgets.interactive.widget_from_abbrev(spec, default)
    if not hasattr(widget, "value") or not isinstance(widget, widgets.Widget):
        raise ValueError(
            f"{name}={spec!r} is not a knob: expected LogRange(low, high), (low, high), (low, high, step), a list or "
            "range of choices, True or False, a text, a number, or an ipywidget that has a value"
        )
    if isinstance(widget, widgets.FloatSlider) and isinstance(spec, tuple) and len(spec) == 2:
        widget.step = 10 ** math.floor(math.log10((widget.max - widget.min) / 20))
    return widget


def field_of(slider: widgets.Widget) -> widgets.Widget:
    "The field for the number that the slider shows."
    slider.readout = False
    if isinstance(slider, widgets.IntSlider):
        return widgets.BoundedIntText(slider.value, min=slider.min, max=slider.max, step=slider.step)
    if isinstance(slider, widgets.FloatLogSlider):
        low, high = (float(f"{slider.base**power:.12g}") for power in (slider.min, slider.max))
        return widgets.BoundedFloatText(slider.value, min=low, max=high, step=low)
    return widgets.BoundedFloatText(slider.value, min=slider.min, max=slider.max, step=slider.step)


def classed(widget: widgets.Widget, *names: str) -> widgets.Widget:
    for name in names:
        widget.add_class(name)
    return widget
