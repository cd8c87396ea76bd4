"""Choices: values of any kind behind labels that are the same in every process."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import ipywidgets as widgets

LONGEST = 60  # characters of a label


class Choices:
    "Values in order, each with a label of its own."

    def __init__(self, labels: Iterable[str], values: Iterable[Any]):
        self.labels, self.values = _each_once(labels), tuple(values)

    def position(self, value: Any) -> int | None:
        "Where the value is: itself, or else an equal one of its type, or else an equal one."
        tests = (
            lambda other: other is value,
            lambda other: type(other) is type(value) and same(other, value),
            lambda other: same(other, value),
        )
        return next((i for test in tests for i, other in enumerate(self.values) if test(other)), None)

    def dropdown(self) -> widgets.Dropdown:
        "A control whose value is a position: a widget takes None for nothing chosen, and equal values for one."
        return widgets.Dropdown(options=[(label, i) for i, label in enumerate(self.labels)])


def choices_of(name: str, spec: Any) -> Choices | None:
    "The choices that a knob is given as: an iterable of values or of (label, value) pairs, or a dict; else None."
    if isinstance(spec, (set, frozenset)):
        raise ValueError(f"{name} is given a set, whose order changes from process to process: give it a list")
    if isinstance(spec, (str, bytes, tuple, type, widgets.Widget)) or not isinstance(spec, Iterable):
        return None
    try:
        choices = list(spec.items() if isinstance(spec, Mapping) else spec)
    except TypeError:  # a tensor without dimensions
        return None
    if not choices:
        raise ValueError(f"{name}={spec!r} has nothing to choose from: expected at least one choice")
    if isinstance(spec, Mapping) or all(_is_labelled(choice) for choice in choices):
        return Choices([label_of(label) for label, _ in choices], [value for _, value in choices])
    return Choices(map(label_of, choices), choices)


def label_of(value: Any) -> str:
    "The value in a few words, without what differs from process to process."
    if isinstance(value, str):
        return short(value)
    if isinstance(value, (set, frozenset)):
        return short(f"{{{', '.join(sorted(map(label_of, value)))}}}")
    named = getattr(value, "func", value)  # of a partial
    text = getattr(named, "__name__", None) or re.sub(" at 0x[0-9a-fA-F]+", "", str(value))
    return short(" ".join(text.split()))


def short(text: str, limit: int = LONGEST) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def same(one: Any, other: Any) -> bool:
    "Whether the two are equal. Arrays, which compare element by element, are the same only as themselves."
    try:
        return one is other or bool(one == other)
    except (TypeError, ValueError, RuntimeError):
        return False


def _is_labelled(choice: Any) -> bool:
    return isinstance(choice, (tuple, list)) and len(choice) == 2 and isinstance(choice[0], str)


def _each_once(labels: Iterable[str]) -> tuple[str, ...]:
    "The labels, with a number behind those that were there before."
    taken: dict[str, None] = {}
    for label in labels:
        text, number = label, 1
        while text in taken:
            number += 1
            text = f"{label} ({number})"
        taken[text] = None
    return tuple(taken)
