"""All hyperparameters of one function, as controls."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.knob import Knob
from finetune_lessons.lab.panel.state import read_state, write_state


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
        "All values, and what is hidden or locked."
        return write_state({knob.name: knob.text for knob in self}, self.hidden, self.locked)

    def start_from(self, state: str) -> None:
        "Take the values of a state string as the start values."
        pairs, _, _ = read_state(state)
        self.set(**{name: self[name].from_text(text) for name, text in pairs.items()})
        for knob in self:
            knob.start = knob.value


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
