"""Hyperparameters as controls: what a learner can turn, with a name, an explanation and a start value."""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import ipywidgets as widgets
from traitlets import TraitError

# name -> (label, unit, explanation)
KNOWN = {
    "lr": ("learning rate", "", "Size of each update: too large diverges, too small crawls."),
    "batch_size": ("batch size", "texts", "Texts in each update: more is smoother, and needs more memory."),
    "grad_accum": ("accumulation", "batches", "Batches whose gradients are added up before one update."),
    "epochs": ("epochs", "passes", "How often the run sees every training text."),
    "warmup": ("warm-up", "share of steps", "The learning rate climbs from zero during this part of the run."),
    "schedule": ("schedule", "", "How the learning rate falls after the warm-up."),
    "weight_decay": ("weight decay", "", "Pulls weights towards zero at each step."),
    "max_grad_norm": ("gradient clip", "", "Longer gradients are shortened to this norm."),
    "label_smoothing": ("label smoothing", "", "Share of the target that is spread over all classes."),
    "dropout": ("dropout", "", "Share of activations set to zero while training."),
    "freeze": ("freeze", "", "Train the head only; the pretrained body stays as it is."),
    "seed": ("seed", "", "Start of the random numbers: head, data order, dropout."),
    "n_train": ("training texts", "texts", "How many labelled texts the run learns from."),
    "max_length": ("max length", "tokens", "Longer texts are cut here."),
    "r": ("rank r", "", "Rank of the update: more can express more, and trains more parameters."),
    "lora_alpha": ("alpha", "", "Strength of the update: it is scaled by alpha / r."),
    "bottleneck_size": ("bottleneck size", "units", "Width of the adapter's hidden layer."),
    "num_virtual_tokens": ("virtual tokens", "tokens", "Learned vectors that stand before the text."),
    "temperature": ("temperature", "", "Divides the logits: above 1 softens the probabilities, below 1 sharpens them."),
    "alpha": ("alpha", "", "Weight of one part of the loss against the other."),
    "precision": ("precision", "", "Number format of the computation."),
}

RESERVED = ("hide", "lock")  # in a state string


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


class Knob:
    """One hyperparameter.

    A number has a field, which the keyboard and screen readers reach by name, and a slider for the mouse.
    `control` is the field, or the only widget, and always holds the value.
    """

    def __init__(self, name: str, spec: Any, default: Any, explanation: str | None = None):
        label, unit, text = KNOWN.get(name, (name, "", ""))
        self.name, self.unit, self.explanation = name, unit, text if explanation is None else explanation
        widget = _widget(name, spec, default)
        self.slider = widget if isinstance(widget, _SLIDERS) else None
        self.control = _field(widget) if self.slider else widget
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


class Knobs:
    "All knobs of one function: their values, their controls, and their state in a string."

    def __init__(
        self,
        function: Callable[..., Any],  # gets the values by name; its defaults are start values
        specs: Mapping[str, Any],
        *,
        explanations: Mapping[str, str] | None = None,
        hide: Iterable[str] = (),  # used, but not shown
        lock: Iterable[str] = (),  # shown, but not changed by the learner
    ):
        parameters = _parameters(function, specs)
        self.hidden, self.locked = list(hide), list(lock)
        for name in {*(explanations or ()), *self.hidden, *self.locked} - set(specs):
            raise ValueError(f"there is no knob {name!r}; there are {', '.join(specs)}")
        self._knobs: dict[str, Knob] = {}
        for name, spec in specs.items():
            default = parameters[name].default if name in parameters else inspect.Parameter.empty
            self._knobs[name] = Knob(name, spec, default, (explanations or {}).get(name))
        for name in self.locked:
            self[name].lock()

    def __getitem__(self, name: str) -> Knob:
        if name not in self._knobs:
            raise ValueError(f"there is no knob {name!r}; there are {', '.join(self._knobs)}")
        return self._knobs[name]

    def __iter__(self) -> Iterator[Knob]:
        return iter(self._knobs.values())

    @property
    def values(self) -> dict[str, Any]:
        return {knob.name: knob.value for knob in self}

    def set(self, **values: Any) -> None:
        "Set all of the values or, where one is not possible, none."
        before = self.values
        try:
            for name, value in values.items():
                self[name].set(value)
        except ValueError:
            for name, value in before.items():
                self[name].set(value)
            raise

    def reset(self) -> None:
        self.set(**{knob.name: knob.start for knob in self})

    def moved(self, values: Mapping[str, Any]) -> dict[str, Any]:
        "Those of the values that are not the start values."
        return {name: value for name, value in values.items() if value != self[name].start}

    def observe(self, changed: Callable[[], None]) -> None:
        for knob in self:
            knob.changed = changed

    def box(self) -> widgets.Widget:
        return classed(widgets.Box([knob.card() for knob in self if knob.name not in self.hidden]), "ftl-knobs")

    @property
    def state(self) -> str:
        "All values, and what is hidden or locked: `lr=0.001&seed=3&lock=seed`."
        pairs = {knob.name: knob.text for knob in self}
        lists = zip(RESERVED, (self.hidden, self.locked), strict=True)
        pairs |= {key: ",".join(names) for key, names in lists if names}
        return urlencode(pairs, quote_via=quote, safe=",")

    def start_from(self, state: str) -> None:
        "Take the values of a state string as the start values."
        pairs, _, _ = read_state(state)
        self.set(**{name: self[name].from_text(text) for name, text in pairs.items()})
        for knob in self:
            knob.start = knob.value


def read_state(state: str) -> tuple[dict[str, str], list[str], list[str]]:
    "The texts of the values by knob, the names to hide, and the names to lock."
    try:
        pairs = dict(parse_qsl(state, keep_blank_values=True, strict_parsing=bool(state)))
    except ValueError:
        raise ValueError(f"not a panel's state: {state!r}; expected something like 'lr=0.001&seed=3'") from None
    hide, lock = (list(filter(None, pairs.pop(key, "").split(","))) for key in RESERVED)
    return pairs, hide, lock


def classed(widget: widgets.Widget, *names: str) -> widgets.Widget:
    for name in names:
        widget.add_class(name)
    return widget


def _takes_default(spec: Any) -> bool:
    "Whether the knob starts at the default of its parameter."
    return isinstance(spec, (tuple, list, range, dict)) or (isinstance(spec, LogRange) and spec.start is None)


_SLIDERS = (widgets.IntSlider, widgets.FloatSlider, widgets.FloatLogSlider)


def _widget(name: str, spec: Any, default: Any) -> widgets.Widget:
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


def _field(slider: widgets.Widget) -> widgets.Widget:
    "The field for the number that the slider shows."
    slider.readout = False
    if isinstance(slider, widgets.IntSlider):
        return widgets.BoundedIntText(slider.value, min=slider.min, max=slider.max, step=slider.step)
    if isinstance(slider, widgets.FloatLogSlider):
        low, high = (float(f"{slider.base**power:.12g}") for power in (slider.min, slider.max))
        return widgets.BoundedFloatText(slider.value, min=low, max=high, step=low)
    return widgets.BoundedFloatText(slider.value, min=slider.min, max=slider.max, step=slider.step)


def _parameters(function: Callable[..., Any], names: Iterable[str]) -> Mapping[str, inspect.Parameter]:
    "The function's parameters, if it can be called with exactly these names."
    parameters = inspect.signature(function).parameters
    kinds = {p.kind for p in parameters.values()}
    called = getattr(function, "__name__", "the function")
    if inspect.Parameter.VAR_KEYWORD not in kinds and (unknown := set(names) - set(parameters)):
        raise TypeError(f"{called} has no parameter {', '.join(sorted(unknown))}; it has {', '.join(parameters)}")
    optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in optional]
    if missing := set(needed) - set(names):
        raise TypeError(f"{called} also needs {', '.join(sorted(missing))}: give it a knob or a default")
    return parameters
