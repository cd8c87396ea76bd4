"""What a panel looks like: its widgets, and the only code that writes to them."""

import threading
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.charts import charts_of
from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.frame import framed, in_a_row, side_by_side
from finetune_lessons.lab.panel.knobs import Knobs
from finetune_lessons.lab.panel.likes import Like
from finetune_lessons.lab.panel.live_plot import svg
from finetune_lessons.lab.panel.prediction import Prediction
from finetune_lessons.lab.panel.results import Results
from finetune_lessons.lab.panel.stats import lost, stats
from finetune_lessons.lab.panel.traces import Trace


class PanelView:
    "The widgets of a panel. Each method that ends a change of state writes the status last."

    def __init__(self, knobs: Knobs, question: str | None):
        self.run, self.stop, self.resume, self.reset = (
            widgets.Button(description=name, tooltip=tip)
            for name, tip in (
                ("Run", "Train with the settings above"),
                ("Stop", "Stop after this step"),
                ("Resume", "Go on where it stopped"),
                ("Reset", "The settings as they were at first; the runs stay"),
            )
        )
        self.run.add_class("ftl-primary")
        self.prediction, self.like, self.results = Prediction(question), Like(), Results()
        self.status, self.stats, self.plot = classed(widgets.HTML(), "ftl-live"), widgets.HTML(), widgets.HTML()
        self.code_toggle = widgets.ToggleButton(description="Show me the code")
        self.code = classed(
            widgets.Textarea(description="Code", layout={"width": "auto"}, style={"description_width": "initial"}),
            "ftl-code",
        )
        self.play = widgets.Play(max=10**9, interval=10, layout={"display": "none"})
        self._playing = "playing" if self.play.has_trait("playing") else "_playing"  # the latter in ipywidgets 7
        self._drawing = threading.Lock()
        buttons = in_a_row(self.run, self.stop, self.resume, self.reset, self.code_toggle, *self.like.controls)
        left, right = [knobs.box()], [buttons, self.code, self.status, self.stats, self.plot]
        self.root = framed([self.prediction.box, side_by_side(left, right), self.results.box, self.play])
        self.code_toggle.observe(lambda change: self._show_code(), "value")
        self._show_code()

    def set_code(self, code: str) -> None:
        self.code.value = code
        self.code.rows = min(code.count("\n") + 1, 30)

    def _show_code(self) -> None:
        self.code.layout.display = None if self.code_toggle.value else "none"

    def enable(self, *, busy: bool, resumable: bool) -> None:
        "Buttons for a panel that trains, or does not."
        self.run.disabled = busy or self.prediction.missing
        self.stop.disabled = not busy
        self.resume.disabled = busy or not resumable
        self.reset.disabled = busy

    def draw(self, traces: Sequence[Trace], run: Any) -> None:
        "Redraw curves and figures. A failure here is shown in place of the plot, and the training goes on."
        with self._drawing:
            try:
                self._draw(traces, run)
            except Exception as error:
                self.plot.value = f"<p>The curves could not be drawn ({type(error).__name__}: {error}).</p>"

    def _draw(self, traces: Sequence[Trace], run: Any) -> None:
        main, *small = charts_of(traces, self.results.picked)
        self.stats.value = stats(traces[-1], run) if traces else ""
        drawn = [svg(main, 606, 306, "ftl-main"), *(svg(chart, 300, 150) for chart in small)]
        step = traces[-1].first + traces[-1].steps if traces else 0
        self.plot.value = (
            f'<div class="ftl-lost">{escape(lost(traces))}</div>'
            f'<div class="ftl-plot"><div class="ftl-charts" data-step="{step}">{"".join(drawn)}</div></div>'
        )

    def show(self, traces: Sequence[Trace]) -> None:
        "The table of runs, and the choices of a run."
        self.results.show(traces)
        self.like.show(traces)

    def say(self, text: str, traceback: str = "") -> None:
        "The status line; with a traceback, of a failure."
        self.status.value = failure(text, traceback) if traceback else _status(text, "ftl-status")

    @property
    def ticking(self) -> bool:
        "Whether the browser calls the kernel again and again."
        return getattr(self.play, self._playing)

    def tick(self, on: bool) -> None:
        setattr(self.play, self._playing, on)

    def on_tick(self, handler: Callable[[], object]) -> None:
        self.play.observe(lambda _: handler(), "value")

    def close(self) -> None:
        for widget in _all(self.root):
            widget.close()


def failure(text: str, traceback: str) -> str:
    "A sentence, and the traceback one click away."
    return (
        f"{_status(text, 'ftl-failed')}<details><summary>Traceback</summary>"
        f'<pre class="ftl-trace" tabindex="0">{escape(traceback)}</pre></details>'
    )


def _status(text: str, kind: str) -> str:
    return f'<div class="{kind}" role="status">{escape(text)}</div>'


def _all(widget: widgets.Widget) -> list[widgets.Widget]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in _all(child))]
