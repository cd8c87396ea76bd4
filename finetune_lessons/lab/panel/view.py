"""What a panel looks like: its widgets, and the only code that writes to them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.charts import charts_of
from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.knobs import Knobs
from finetune_lessons.lab.panel.live_plot import svg
from finetune_lessons.lab.panel.results import Results
from finetune_lessons.lab.panel.style import STYLE
from finetune_lessons.lab.panel.traces import GRAD_NORM, LR, Trace, clock


class PanelView:
    "The widgets of a panel. Each method that ends a change of state writes the status last."

    def __init__(self, knobs: Knobs, ask: str | None):
        fit = {"description_width": "initial"}
        self.run, self.stop, self.resume, self.reset = (
            widgets.Button(description=name, tooltip=tip)
            for name, tip in (
                ("Run", "Train with the settings above"),
                ("Stop", "Stop after this step"),
                ("Resume", "Go on where it stopped"),
                ("Reset", "Start over: first settings, no runs"),
            )
        )
        self.run.add_class("ftl-primary")
        self.guess = widgets.Text(description="Your prediction", continuous_update=False, style=fit)
        self.commit = classed(widgets.Button(description="Commit"), "ftl-primary")
        self.asked = bool(ask)
        self.question = widgets.HTML(f"<b>Predict first.</b> {escape(ask or '')} Then Run unlocks.")
        self.status, self.stats, self.plot = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.code_toggle = widgets.ToggleButton(description="Show me the code")
        self.code = classed(widgets.Textarea(description="Code", layout={"width": "auto"}, style=fit), "ftl-code")
        self.play = widgets.Play(max=10**9, interval=10, layout={"display": "none"})
        self._playing = "playing" if self.play.has_trait("playing") else "_playing"  # the latter in ipywidgets 7
        self.results = Results()
        self._drawing = threading.Lock()
        self.root = classed(
            widgets.VBox(
                [
                    widgets.HTML(STYLE, layout={"display": "none"}),
                    *([self.question, _row(self.guess, self.commit)] if ask else []),
                    knobs.box(),
                    _row(self.run, self.stop, self.resume, self.reset, self.code_toggle),
                    self.code,
                    self.status,
                    self.stats,
                    self.plot,
                    self.results.box,
                    self.play,
                ]
            ),
            "ftl-panel",
        )
        self.code_toggle.observe(lambda change: self._show_code(), "value")
        self._show_code()

    def set_code(self, code: str) -> None:
        self.code.value = code
        self.code.rows = min(code.count("\n") + 1, 30)

    def _show_code(self) -> None:
        self.code.layout.display = None if self.code_toggle.value else "none"

    def enable(self, *, busy: bool, resumable: bool) -> None:
        "Buttons for a panel that trains, or does not."
        self.run.disabled = busy or not self.has_guess
        self.stop.disabled = not busy
        self.resume.disabled = busy or not resumable
        self.reset.disabled = busy

    @property
    def has_guess(self) -> bool:
        return not self.asked or self.guess.disabled

    def take_guess(self) -> str | None:
        "Close the prediction, unless it is empty: it stays as it is until the panel is reset."
        text = self.guess.value.strip()
        self.guess.disabled = self.commit.disabled = bool(text)
        return text or None

    def clear_guess(self) -> None:
        self.guess.disabled = self.commit.disabled = False
        self.guess.value = ""

    def draw(self, traces: Sequence[Trace], run: Any) -> None:
        "Redraw curves and figures. A failure here is shown in place of the plot, and the training goes on."
        with self._drawing:
            try:
                self._draw(traces, run)
            except Exception as error:
                self.plot.value = f"<p>The curves could not be drawn ({type(error).__name__}: {error}).</p>"

    def _draw(self, traces: Sequence[Trace], run: Any) -> None:
        main, *small = charts_of(traces, self.results.picked)
        self.stats.value = _stats(traces[-1], _machine(run)) if traces else ""
        drawn = [svg(main, 606, 306, "ftl-main"), *(svg(chart, 300, 150) for chart in small)]
        step = traces[-1].steps if traces else 0
        self.plot.value = (
            f'<div class="ftl-plot"><div class="ftl-charts" data-step="{step}">{"".join(drawn)}</div></div>'
        )

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


def _stats(trace: Trace, machine: Mapping[str, str]) -> str:
    of = f" of {trace.total:,}" if trace.total else ""
    left = trace.seconds_left if trace.outcome == "running" else None
    speed = trace.tokens_per_second
    pairs = [
        ("step", f"{trace.steps:,}{of}"),
        ("epoch", "" if trace.epoch is None else f"{trace.epoch + 1}"),
        ("time left" if left is not None else "time", clock(trace.seconds if left is None else left)),
        ("loss", f"{trace.loss:.4g}" if trace.steps else ""),
        *((f"validation {name}", f"{value:.4g}") for name, value in trace.metrics.items()),
        ("learning rate", f"{trace.last[LR]:.3g}" if LR in trace.last else ""),
        ("gradient norm", f"{trace.last[GRAD_NORM]:.3g}" if GRAD_NORM in trace.last else ""),
        ("tokens/s", f"{speed:,.0f}" if speed else ""),
        *machine.items(),
    ]
    cells = "".join(f"<div><span>{escape(name)}</span><b>{escape(value)}</b></div>" for name, value in pairs if value)
    done = f' value="{trace.steps}"' if trace.total else ""
    bar = f'<progress aria-label="Progress of {trace.name}" max="{trace.total or 1}"{done}></progress>'
    return f'{bar}<div class="ftl-stats">{cells}</div>'


def _machine(run: Any) -> dict[str, str]:
    "Device, number format and memory in use."
    import psutil
    import torch

    device = getattr(run, "device", torch.device("cpu"))
    on_gpu = torch.device(device).type == "cuda"
    used = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
    precision = getattr(run, "precision", "")
    return {"device": f"{device} {precision}".strip(), "memory": f"{used / 1e6:,.0f} MB"}


def _row(*children: widgets.Widget) -> widgets.Widget:
    return classed(widgets.Box(children), "ftl-row")


def _all(widget: widgets.Widget) -> list[widgets.Widget]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in _all(child))]
