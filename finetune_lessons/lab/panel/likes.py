"""The next run as one that was, but for a change: from its start, or from where it ended."""

from collections.abc import Callable, Sequence

import ipywidgets as widgets

from finetune_lessons.lab.panel.choices import same
from finetune_lessons.lab.panel.controls import set_options
from finetune_lessons.lab.panel.errors import settings
from finetune_lessons.lab.panel.traces import Trace

_NEW = ("new settings", 0)  # runs are numbered from 1
START, LAST = "the start", "its last step"


class Like:
    "Which run the next one is like, and where it begins."

    def __init__(self) -> None:
        style = {"description_width": "initial"}
        self.run = widgets.Dropdown(description="Like", options=[_NEW], style=style)
        self.origin = widgets.Dropdown(description="from", options=[START, LAST], style=style)
        self.controls, self._listing = [self.run, self.origin], False
        self.run.observe(lambda _: self._show(), "value")
        self.show([])

    def on_choose(self, handler: Callable[[int], object]) -> None:
        self.run.observe(lambda change: None if self._listing else handler(change["new"]), "value")

    def mark(self, trace: Trace, traces: Sequence[Trace]) -> None:
        "Write into a new run which of the others it is like, as in 'run 2, but lr=0.001'."
        for parent in traces:
            if parent.number == self.run.value:
                changed = {k: v for k, v in trace.values.items() if not same(v, parent.values[k])}
                trace.parent, trace.goes_on = parent.number, self.origin.value == LAST
                trace.like = parent.name + (", from its last step" if trace.goes_on else "")
                trace.like += f", but {settings(changed)}" if changed else ""

    def choose(self, number: int, from_last_step: bool = False) -> None:
        self.run.value = number
        self.origin.value = LAST if from_last_step else START

    def show(self, traces: Sequence[Trace]) -> None:
        self._listing = True  # new options unset the choice for a moment: nobody has chosen
        set_options(self.run, [_NEW, *((trace.name, trace.number) for trace in traces)])
        self._listing = False
        self.run.layout.display = None if traces else "none"
        self._show()

    def _show(self) -> None:
        self.origin.layout.display = None if self.run.value else "none"
