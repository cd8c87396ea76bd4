"""One hyperparameter as a control: what a learner can turn, with a name, an explanation and a start value."""

import inspect
import json
import math
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets
from traitlets import TraitError

from finetune_lessons.lab.panel.controls import SLIDERS, LogRange, classed, field_of, make_control
from finetune_lessons.lab.panel.names import KNOWN


class Knob:
    """One hyperparameter.

    A number has a field, which the keyboard and screen readers reach by name, and a slider for the mouse.
    `control` is the field, or the only widget, and always holds the value.
    """

    def __init__(self, name: str, spec: Any, default: Any, explanation: str | None = None):
        label, unit, text = KNOWN.get(name, (name, "", ""))
        self.name, self.unit, self.explanation = name, unit, text if explanation is None else explanation
        widget = make_control(name, spec, default)
        self.slider = widget if isinstance(widget, SLIDERS) else None
        self.control = field_of(widget) if self.slider else widget
        self.control.description = widget.description or label
        self.locked = False
        self.start = self.value
        if _takes_default(spec) and default is not inspect.Parameter.empty and self.value != default:
            raise ValueError(f"{self._refusal(default)}, the default of the parameter")
        self.changed: Callable[[], None] = lambda: None
        self._sliding = False
        self.control.observe(self._on_change, "value")
        if self.slider:
            self.slider.observe(lambda change: self._on_slide(widget, change["new"]), "value")

    @property
    def value(self) -> Any:
        return self.control.value

    @property
    def text(self) -> str:
        "The value in a state string."
        return self.control.label if self._options is not None else json.dumps(self.value)

    @property
    def _options(self) -> dict[str, Any] | None:
        options = getattr(self.control, "options", None)
        if options is None or not isinstance(self.control.label, str):
            return None
        return dict(zip(self.control._options_labels, self.control._options_values, strict=True))

    def from_text(self, text: str) -> Any:
        if self._options is not None:
            if text not in self._options:
                raise ValueError(self._refusal(text))
            return self._options[text]
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            raise ValueError(self._refusal(text)) from None
        return tuple(value) if isinstance(value, list) else value

    def set(self, value: Any) -> None:
        "Set exactly this value; ValueError where the knob does not reach."
        try:
            self.control.value = value
        except (TraitError, TypeError, ValueError):
            raise ValueError(self._refusal(value)) from None
        if self.value != value:
            raise ValueError(self._refusal(value))

    def lock(self) -> None:
        self.locked = self.control.disabled = True
        if self.slider:
            self.slider.disabled = True

    def card(self) -> widgets.Widget:
        "The controls above their explanation."
        row: list[widgets.Widget] = [self.control]
        if self.slider:
            row.append(self.slider)
        name = f"<code>{escape(self.name)}</code>" if self.control.description != self.name else ""
        notes = [name, escape(self.unit), escape(self.explanation), "locked" if self.locked else ""]
        note = widgets.HTML(f'<div class="ftl-note">{" · ".join(filter(None, notes))}</div>')
        return classed(widgets.VBox([classed(widgets.HBox(row), "ftl-control"), note]), "ftl-knob")

    def _on_change(self, change: Any) -> None:
        if self.slider and not self._sliding:
            self.slider.value = self.value
        self.changed()

    def _on_slide(self, slider: widgets.Widget, value: Any) -> None:
        "Take over what the mouse did. A page that shows a value between two steps moves its slider to the nearer one."
        logarithmic = isinstance(slider, widgets.FloatLogSlider)
        place = math.log10 if logarithmic else float
        if abs(place(value) - place(self.value)) < 0.51 * slider.step:
            return
        self._sliding = True  # no echo: it would pull the slider back to where it was
        try:
            self.control.value = float(f"{value:.{2 if logarithmic else 10}g}") if isinstance(value, float) else value
        finally:
            self._sliding = False

    def _refusal(self, value: Any) -> str:
        control = self.control
        if self._options is not None:
            allowed = f"one of {', '.join(self._options)}"
        elif hasattr(control, "min"):
            allowed = f"a number from {control.min:g} to {control.max:g}"
        else:
            allowed = f"a value such as {self.start!r}"
        return f"{self.name} must be {allowed}; given: {value!r}"


def _takes_default(spec: Any) -> bool:
    "Whether the knob starts at the default of its parameter."
    return isinstance(spec, (tuple, list, range, dict)) or (isinstance(spec, LogRange) and spec.start is None)
