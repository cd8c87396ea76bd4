"""Texts that a person labels, one after the other, by key or by click."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from finetune_lessons.lab.data.label_files import read_labels, write_labels
from finetune_lessons.lab.models.inputs import as_texts
from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.frame import framed, in_a_row

if TYPE_CHECKING:
    from datasets import Dataset

PASSED_OVER = "-"
_NONE = "passed over"


class Labeller:
    """Shows texts one by one, takes a class for each, and keeps all labels in a CSV file, written after each of them.

    The field has one character for each text: the number of its class, counted from 1, or - for one that is passed
    over; so Backspace takes the last one back. Labels that the file has are there again, and other texts in it stay.
    Raises ValueError for fewer than two or more than nine classes, no text, or a file of something else.
    """

    def __init__(
        self,
        texts: str | Iterable[str],  # in the order in which they are asked
        names: Sequence[str],  # of the classes
        file: str | Path = "labels.csv",
    ):
        self.names, self.file = _checked(names), Path(file).expanduser()
        given = dict.fromkeys(as_texts(texts, "texts"))
        if not given:
            raise ValueError("there is no text to label")
        found = read_labels(self.file, self.names)
        self._others = {text: label for text, label in found.items() if text not in given}
        known = {text: label for text, label in found.items() if text in given}
        self.texts = [*known, *(text for text in given if text not in known)]
        self._keys_of = {name: str(number) for number, name in enumerate(self.names, 1)} | {"": PASSED_OVER}
        self._keys, self._said = "".join(self._keys_of[label] for label in known.values()), ""
        self._make_widgets()
        self._show()

    @property
    def keys(self) -> str:
        "One character for each text that was answered; can be set."
        return self._keys

    @keys.setter
    def keys(self, keys: str) -> None:
        allowed = [*self._keys_of.values()]
        wrong = [key for key in keys if key not in allowed]
        self._said = f"{wrong[0]!r} is no answer here: {', '.join(allowed)}, or Backspace." if wrong else ""
        keys = "".join(key for key in keys if key in allowed)[: len(self.texts)]
        if keys != self._keys:
            self._keys = keys
            self._write()
        self._show()

    @property
    def labels(self) -> dict[str, str]:
        "Text -> the name of its class; those that were passed over are left out."
        return {text: label for text, label in self._answers().items() if label}

    def data(self) -> "Dataset":
        "The labelled texts, with the columns text and label. Raises ValueError where there is none."
        from datasets import ClassLabel, Dataset, Features, Value

        labels = self.labels
        if not labels:
            raise ValueError("no text is labelled yet")
        columns = {"text": list(labels), "label": [self.names.index(label) for label in labels.values()]}
        features = Features({"text": Value("string"), "label": ClassLabel(names=self.names)})
        return Dataset.from_dict(columns, features=features)

    def _answers(self) -> dict[str, str]:
        name_of = {key: name for name, key in self._keys_of.items()}
        return {text: name_of[key] for text, key in zip(self.texts, self._keys, strict=False)}

    def _write(self) -> None:
        try:
            write_labels(self.file, self._others | self._answers())
        except OSError as error:
            self._said = f"Not written to {self.file}: {error.strerror or error}. The labels are kept here; try again."

    def _make_widgets(self) -> None:
        self.text, self.status = classed(widgets.HTML(), "ftl-live"), widgets.HTML()
        self.field = widgets.Text(description="Keys", style={"description_width": "initial"})
        self.undo = widgets.Button(description="Undo", tooltip="Take the last answer back")
        named = [*self._keys_of.items()]
        self.buttons = {name: widgets.Button(description=f"{key} {name or 'pass over'}") for name, key in named}
        for name, button in self.buttons.items():
            button.on_click(lambda _, key=self._keys_of[name]: self._press(key))
        self.undo.on_click(lambda _: self._press(""))
        self.field.observe(lambda change: self._typed(change["new"]), "value")
        answers = in_a_row(*self.buttons.values(), self.undo)
        self.widget = framed([self.text, answers, in_a_row(self.field), self.status])

    def _press(self, key: str) -> None:
        self.keys = self._keys + key if key else self._keys[:-1]

    def _typed(self, value: str) -> None:
        if value != self._keys:
            self.keys = value

    def _show(self) -> None:
        "The status is written last: whoever reads it finds all else done."
        done, left = len(self._keys), len(self._keys) < len(self.texts)
        shown = self.texts[done] if left else "All texts are answered."
        self.text.value = f'<div class="ftl-asked" tabindex="0" role="group" aria-label="text">{escape(shown)}</div>'
        self.field.value = self._keys
        for button in self.buttons.values():
            button.disabled = not left
        self.undo.disabled = not done
        said = f'<p role="alert" class="ftl-said">{escape(self._said)}</p>' if self._said else ""
        where = f". Kept in {self.file}" if done else ""
        kept = f"The kernel is gone. What you answered is in {self.file}: run the cell again to go on."
        self.status.value = (
            f'{said}<div class="ftl-status" role="status">{escape(self._summary() + where)}</div>'
            f'<div class="ftl-lost">{escape(kept)}</div>'
        )

    def _summary(self) -> str:
        counts = Counter(self._answers().values())
        told = ", ".join(f"{name or _NONE} {counts[name]}" for name in self._keys_of if counts[name])
        return f"{len(self._keys)} of {len(self.texts)} answered" + (f": {told}" if told else "")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        "Where no widget is shown: the answers, as a table."
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        cells = [f"<td>{escape(text)}</td><td>{escape(label or _NONE)}</td>" for text, label in self._answers().items()]
        table = "<table><tr><th>text</th><th>label</th></tr><tr>" + "</tr><tr>".join(cells) + "</tr></table>"
        html = {"text/html": table} if cells else {}
        return {"application/vnd.jupyter.widget-view+json": view, "text/plain": repr(self)} | html

    def __repr__(self) -> str:
        return f"Labeller: {self._summary()}"


def _checked(names: Sequence[str]) -> list[str]:
    listed = list(names)
    if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in listed):
        raise ValueError(f"names are those of the classes, such as ['negative', 'positive']; given: {names!r}")
    if not 2 <= len(set(listed)) == len(listed) <= 9:
        raise ValueError(f"expected two to nine different classes, a key for each; given: {listed}")
    return listed


__all__ = ["Labeller"]
