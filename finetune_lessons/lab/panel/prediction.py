"""What the learner expects of the next run: written down before it starts, and shown beside what it did."""

from collections.abc import Callable
from html import escape

import ipywidgets as widgets

from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.frame import in_a_row

_FIRST, _NEXT = "<b>Predict first</b>, then Run unlocks.", "<b>Predict</b> what the next run will do, if you like."


class Prediction:
    "One answer for each run. Without a question there is nothing to see, and nothing to wait for."

    def __init__(self, question: str | None):
        self._question = escape(question or "")
        self.missing = bool(question)  # a first one is wanted before the first click on Run
        self.words = widgets.HTML()
        self.text = classed(
            widgets.Text(description="Your prediction", style={"description_width": "initial"}), "ftl-guess"
        )
        self.commit = classed(widgets.Button(description="Commit"), "ftl-primary")
        line = in_a_row(self.text, self.commit)
        self.box = classed(widgets.VBox([self.words, line]), "ftl-live")
        self.box.layout.display = None if question else "none"
        self._ask()

    def on_commit(self, handler: Callable[[], object]) -> None:
        "Of the button, or of Enter in the field."
        self.commit.on_click(lambda _: handler())
        self.text.on_msg(lambda _, content, buffers: handler() if content.get("event") == "submit" else None)

    def close(self) -> str | None:
        "Close the prediction until its run starts, unless it is empty."
        text = self.text.value.strip()
        self.text.disabled = self.commit.disabled = bool(text)
        self.missing = self.missing and not text
        return text or None

    def hand_over(self) -> str | None:
        "The prediction for the run that starts; the field is open for the next one."
        text = self.close()
        self.text.disabled = self.commit.disabled = False
        self.text.value = ""
        self._ask()
        return text

    def _ask(self) -> None:
        self.words.value = f"{_FIRST if self.missing else _NEXT} {self._question}"
