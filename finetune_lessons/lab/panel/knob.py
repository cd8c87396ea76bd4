"""One hyperparameter as a control: what a learner can turn, with a name, an explanation and a start value."""

import inspect
import json
import math
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets
from traitlets import TraitError

from finetune_lessons.lab.panel.choices import Choices, choices_of, same, short
from finetune_lessons.lab.panel.controls import SLIDERS, LogRange, Range, classed, field_of, make_control
from finetune_lessons.lab.panel.names import KNOWN

_SELECTIONS = (
    widgets.Dropdown, widgets.RadioButtons, widgets.Select, widgets.SelectionSlider, widgets.ToggleButtons
)  # fmt: skip


class Knob:
    """One hyperparameter.

    A number has a field, which the keyboard and screen readers reach by name, and a slider for the mouse.
    `control` is the field, or the only widget; the value is its own, or the choice at its index.
    """

    def __init__(self, name: str, spec: Any, default: Any, explanation: str | None = None):
        label, unit, text = KNOWN.get(name, (name, "", ""))
        self.name, self.unit, self.explanation = name, unit, text if explanation is None else explanation
        self._choices = choices_of(name, spec)
        widget = self._choices.dropdown() if self._choices else make_control(name, spec, default)
        self.slider = widget if isinstance(widget, SLIDERS) else None
        self.range = Range.of(widget) if self.slider else None
        self.control = field_of(widget) if self.slider else widget
        self.control.description = widget.description or label
        self.locked = False
        self._note = widgets.HTML()
        if self._choices and (position := self._choices.position(default)) is not None:
            widget.index = position
        self._check_start(spec, default)
        self.start = self.value
        self.changed: Callable[[], None] = lambda: None
        self._sliding = self._correcting = False
        self.control.observe(self._on_change, "value")
        if self.slider:
            self.slider.observe(lambda change: self._on_slide(widget, change["new"]), "value")

    @property
    def value(self) -> Any:
        if (choices := self.choices) is None or self.control.index is None:
            value = self.control.value
            return int(value) if self.range and self.range.whole else value
        return choices.values[self.control.index]

    @property
    def choices(self) -> Choices | None:
        if self._choices or not isinstance(self.control, _SELECTIONS):
            return self._choices
        return Choices(self.control._options_labels, self.control._options_values)

    @property
    def text(self) -> str:
        "The value in a state string."
        if (choices := self.choices) is None:
            return json.dumps(self.value, default=str)
        index = choices.position(self.value) if self.control.index is None else self.control.index
        return "" if index is None else choices.labels[index]

    def from_text(self, text: str) -> Any:
        if (choices := self.choices) is not None:
            if text not in choices.labels:
                raise ValueError(self._refusal(text))
            return choices.values[choices.labels.index(text)]
        try:
            value = json.loads(text)
            json.dumps(self.value)  # a date has no text: older widgets take any text for one
        except (json.JSONDecodeError, TypeError):
            raise ValueError(self._refusal(text)) from None
        return tuple(value) if isinstance(value, list) else value

    def set(self, value: Any) -> None:
        "Set exactly this value; ValueError where the knob does not reach."
        before = self.control.value
        try:
            self._put(value)
            reached = self.choices is not None or bool(self.value == value)
        except (AttributeError, TraitError, TypeError, ValueError):
            reached = False
        if not reached:
            self.control.value = before
            raise ValueError(self._refusal(value))

    def _put(self, value: Any) -> None:
        if self.range and not self.range.holds(value):
            raise ValueError(value)
        if (choices := self.choices) is None:
            self.control.value = value
            self._say("")
        else:
            position = choices.position(value)
            if position is None:
                raise ValueError(value)
            self.control.index = position

    def lock(self) -> None:
        self.locked = self.control.disabled = True
        if self.slider:
            self.slider.disabled = True

    def card(self) -> widgets.Widget:
        "The controls above their explanation."
        row: list[widgets.Widget] = [self.control]
        if self.slider:
            row.append(self.slider)
        self._say("")
        return classed(widgets.VBox([classed(widgets.HBox(row), "ftl-control"), self._note]), "ftl-knob")

    def _say(self, remark: str) -> None:
        "The explanation, with a remark on what was typed."
        name = f"<code>{escape(self.name)}</code>" if self.control.description != self.name else ""
        reach = " ".join(filter(None, [str(self.range or ""), self.unit]))
        notes = [name, escape(reach), escape(self.explanation), "locked" if self.locked else ""]
        said = f'<div class="ftl-said" role="alert">{escape(remark)}</div>' if remark else ""
        self._note.value = f'<div class="ftl-note">{" · ".join(filter(None, notes))}</div>{said}'

    def _on_change(self, change: Any) -> None:
        if self._correcting:
            return
        if self.range:
            self._correct(self.range, change["new"])
        if self.slider and not self._sliding:
            self.slider.value = self.value
        self.changed()

    def _correct(self, reach: Range, asked: float) -> None:
        "Take the nearest number that the knob reaches, and say so."
        self._say(reach.remark(asked))
        self._correcting = True
        try:
            self.control.value = reach.nearest(asked)
        finally:
            self._correcting = False

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

    def _check_start(self, spec: Any, default: Any) -> None:
        if (choices := self.choices) and choices.position(self.value) is None:
            raise ValueError(self._refusal(self.value))
        starts_at_default = default is not inspect.Parameter.empty and (self._choices or _takes_default(spec))
        if starts_at_default and not same(self.value, default):
            raise ValueError(f"{self._refusal(default)}, the default of the parameter")

    def _refusal(self, value: Any) -> str:
        low, high = (getattr(self.control, name, None) for name in ("min", "max"))
        if self.range:
            low, high = self.range.low, self.range.high
        if (choices := self.choices) is not None:
            allowed = f"one of {short(', '.join(choices.labels), 500)}"
        elif isinstance(low, (int, float)) and isinstance(high, (int, float)):
            allowed = f"a number from {low:g} to {high:g}"
        else:
            allowed = f"a value such as {self.value!r}"
        return f"{self.name} must be {allowed}; given: {short(repr(value), 200)}"


def _takes_default(spec: Any) -> bool:
    "Whether the knob starts at the default of its parameter."
    return isinstance(spec, tuple) or (isinstance(spec, LogRange) and spec.start is None)
