"""Failures in one or two sentences, with the value at fault."""

import re
from collections.abc import Mapping
from typing import Any

from finetune_lessons.lab.panel.choices import label_of, short


def explain(
    error: BaseException,
    during: str,  # what was being done: "building the run", "training step 12"
    values: Mapping[str, Any],  # of all knobs
    moved: Mapping[str, Any],  # of the knobs that are not where they started
) -> str:
    if out_of_memory(error):
        return f"Out of memory while {during}. {_memory_advice(values)}"
    said = str(error).strip().rstrip(".")
    if not isinstance(error, (ValueError, FloatingPointError)) or not said:
        said = f"{type(error).__name__}{': ' if said else ''}{said}"
    sentences = [f"Failed while {during}: {said}."]
    named = _named_in(said, values)
    suspects = {name: value for name, value in (named or moved).items() if settings({name: value}) not in said}
    if suspects:
        sentences.append(f"{'Named in the message' if named else 'Changed from the start'}: {settings(suspects)}.")
    if "lr" in values and "learning rate" not in said and re.search(r"\b(nan|inf|infinite|finite)\b", said.lower()):
        sentences.append(f"Try a smaller learning rate than {_text(values['lr'])}.")
    return " ".join(sentences)


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return short(repr(value)) if isinstance(value, str) else label_of(value)


def _memory_advice(values: Mapping[str, Any]) -> str:
    named = {name: values[name] for name in ("batch_size", "max_length") if name in values}
    advice = "Choose a smaller batch_size, shorter texts or a smaller model"
    return f"It was set to {settings(named)}. {advice}." if named else f"{advice}."


def _named_in(message: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if re.search(rf"\b{re.escape(name)}\b", message)}
