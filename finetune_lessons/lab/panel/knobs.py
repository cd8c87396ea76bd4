"""All hyperparameters of one function, as controls."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.choices import same, short
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
        self.hidden, self.locked = listed("hide", hide), listed("lock", lock)
        for name in [*(explanations or ()), *self.hidden, *self.locked]:
            if name not in specs:
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
        return {name: value for name, value in values.items() if not same(value, self[name].start)}

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


def listed(key: str, names: Iterable[str]) -> list[str]:
    "The names, where they are several; ValueError for a single text, which would be taken letter by letter."
    if isinstance(names, str):
        raise ValueError(f"{key}={names!r} is one text: expected a list of names of knobs, such as [{names!r}]")
    return list(names)


def refuse_taken_names(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    "ValueError where the function waits for an argument that is an option of the panel, and goes to the panel."
    parameters = _signature(function).parameters
    for name, given in options.items():
        if name in parameters and (given or parameters[name].default is inspect.Parameter.empty):
            raise ValueError(
                f"{_called(function)} has a parameter {name!r}, which is an option of the panel itself and never "
                "reaches the function: give the parameter another name"
            )


def _parameters(function: Callable[..., Any], names: Iterable[str]) -> Mapping[str, inspect.Parameter]:
    "The function's parameters, if it can be called with exactly these names."
    parameters = _signature(function).parameters
    kinds = {p.kind for p in parameters.values()}
    called = _called(function)
    if only := [n for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]:
        raise TypeError(
            f"{called} takes {', '.join(only)} by position, and a panel gives values by name: remove the '/'"
        )
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {n: p for n, p in parameters.items() if p.kind not in (*variadic, inspect.Parameter.POSITIONAL_ONLY)}
    unknown = [name for name in names if name not in named]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise TypeError(f"{called} has no parameter {', '.join(unknown)}; it has {', '.join(named) or 'none'}")
    if missing := [n for n, p in named.items() if p.default is p.empty and n not in names]:
        raise TypeError(f"{called} also needs {', '.join(missing)}: give it a knob or a default")
    return named


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if not callable(function):
        raise ValueError(f"expected a function of the knobs, not what it returns; given: {short(repr(function))}")
    try:
        return inspect.signature(function)
    except ValueError:
        raise ValueError(f"{_called(function)} does not say what it takes: wrap it in a function with names") from None


def _called(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "the function")
