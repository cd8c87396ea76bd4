"""The live panel: turn a lesson's hyperparameters and watch the run learn."""

import atexit
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from finetune_lessons.lab.panel.knobs import Knobs, LogRange, read_state
from finetune_lessons.lab.panel.live_plot import LIVE_POINTS, OLD_POINTS, Chart, Line, png
from finetune_lessons.lab.panel.code import code_for
from finetune_lessons.lab.panel.errors import explain, out_of_memory, settings
from finetune_lessons.lab.panel.view import PanelView
from finetune_lessons.lab.panel.traces import GRAD_NORM, LR, RAW, SMOOTH, Trace

if TYPE_CHECKING:
    import pandas as pd

REDRAW_EVERY = 0.2  # seconds
TICK = 0.1  # seconds of training in one call of the browser
PATIENCE = 1.0  # seconds until a run starts without an answer of the browser
_panels: "WeakSet[Panel]" = WeakSet()
_END = object()
_TITLES = {SMOOTH: "training loss (bold: smoothed)"}


class Panel:
    """Controls for the hyperparameters of a training run, and its live curves.

    `make_run(**values)` returns a `Run`, or any iterator of objects with a `loss`. A knob is given as for
    ipywidgets' `interact`: (low, high), (low, high, step), a list or range of choices, True or False, any
    widget; or as `LogRange(low, high)`. Its start value is the default of make_run's parameter, where there is one.
    Show the panel as a cell's last expression; `run()` trains without a front end.
    """

    def __init__(
        self,
        make_run: Callable[..., Any],
        *,
        ask: str | None = None,  # a question that the learner answers before the Run button unlocks
        hide: Iterable[str] = (),  # knobs that are used, but not shown
        lock: Iterable[str] = (),  # knobs that are shown, but not changed by the learner
        help: Mapping[str, str] | None = None,  # explanations by knob, in place of the built-in ones
        drive: str | None = None,  # "thread", or "pump" for front ends that show no updates from threads (Colab)
        **knobs: Any,
    ):
        if drive not in (None, "thread", "pump"):
            raise ValueError(f"drive must be 'thread', 'pump' or None; given: {drive!r}")
        self.drive = drive or ("pump" if "google.colab" in sys.modules else "thread")
        self.knobs = Knobs(make_run, knobs, explanations=help, hide=hide, lock=lock)
        self.latest: Any = None  # what make_run returned last
        self._make_run = make_run
        self._steps: Iterator[Any] | None = None
        self._traces: list[Trace] = []
        self._made = 0
        self._guess: str | None = None
        self._lock, self._drawing, self._saying = threading.RLock(), threading.Lock(), threading.Lock()
        self._stop, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self._closed = self._requested = False
        self._origin: tuple[str, str] | None = None
        self._next_draw = 0.0
        self._view = PanelView(self.knobs, ask)
        self._connect()
        self._settings_changed()
        self._rest("Ready.")
        _replace_panels_of_this_cell(self)

    @classmethod
    def from_state(cls, state: str, make_run: Callable[..., Any], **options: Any) -> "Panel":
        "The panel whose `state` this was; the knobs are given as for `Panel`."
        _, hide, lock = read_state(state)
        for key, names in (("hide", hide), ("lock", lock)):
            options[key] = [*dict.fromkeys([*options.get(key, ()), *names])]
        panel = cls(make_run, **options)
        panel.knobs.start_from(state)
        return panel

    @property
    def state(self) -> str:
        "The values of all knobs, and what is hidden or locked, as a short text to hand on."
        return self.knobs.state

    @property
    def results(self) -> "pd.DataFrame":
        "One row a run: its knobs, its last loss and metrics, and how it ended."
        import pandas as pd

        rows = [trace.row() for trace in self._traces]
        columns = None if rows else list(Trace(0, self.knobs.values).row())
        return pd.DataFrame(rows, columns=columns).set_index("run")

    # drives

    def run(self, **values: Any) -> Any:
        """Set these values and train to the end, here and now; returns what make_run returned.

        Errors are shown in the panel and raised. An interrupt leaves the run ready for `resume`.
        """
        self.knobs.set(**values)
        if not self._begin():
            raise RuntimeError("the panel is training: call stop() and wait() first")
        self._advance(raises=True)
        return self.latest

    def start(self) -> None:
        "Train a new run in the background; does nothing while one is training."
        if self._begin():
            self._launch()

    def resume(self) -> None:
        "Go on with the run that was stopped last."
        if self._begin(again=True):
            self._launch()

    def stop(self) -> None:
        "Stop after the current step. The run can be resumed."
        if not self._idle.is_set():
            self._stop.set()
            self._view.stop.disabled = True
            self._say_if_busy("Stopping after this step.")

    def wait(self, timeout: float | None = None) -> bool:
        "Wait until nothing trains any more; False if that takes longer than `timeout` seconds."
        if self.drive == "pump":  # the browser cannot call while this cell runs
            self._tick(math.inf if timeout is None else timeout)
            return self._idle.is_set()
        return self._idle.wait(timeout)

    def reset(self) -> None:
        "Start over: the knobs at their start values, no runs, no prediction."
        if not self._idle.is_set():
            return
        self._traces, self._made, self._guess = [], 0, None
        self.latest = self._steps = None
        self.knobs.reset()
        self._view.clear_guess()
        self._rest("Ready.")

    def remove(self, number: int) -> None:
        "Take a run out of the plot and the table."
        trace = next((trace for trace in self._traces if trace.number == number), None)
        if trace is None:
            raise ValueError(f"there is no run {number}; there are {[t.number for t in self._traces]}")
        if trace.outcome == "running":
            return
        if trace is self._traces[-1]:
            self._steps = None
        self._traces.remove(trace)
        self._view.results.show(self._traces)
        self._draw()
        self._view.enable(busy=not self._idle.is_set(), resumable=self._resumable)

    def close(self) -> None:
        "Stop, and take the panel off the page. The results stay."
        self._closed = True
        self.stop()
        if self._idle.is_set():
            self._view.close()

    # the loop that all drives share

    def _begin(self, again: bool = False) -> bool:
        with self._lock:
            if not self._idle.is_set() or self._closed or (again and not self._resumable):
                return False
            self._idle.clear()
            self._stop.clear()
        if not again:
            self.latest = self._steps = None  # free the last run before the next one is built
            self._made += 1
            self._traces.append(Trace(self._made, self.knobs.values, self._guess))
        trace = self._traces[-1]
        trace.outcome = "running"
        self._next_draw = 0.0
        self._view.results.show(self._traces)
        self._view.enable(busy=True, resumable=False)
        self._view.say(f"Run {trace.number} is training." if again else f"Run {trace.number} is being built.")
        return True

    def _request(self) -> None:
        """Start as soon as the browser has sent the values that it holds back.

        It delays a field's newest value while an older one is under way, but not a click. A tick that it sends
        after it has heard of the click comes after those values; without a tick, the run starts all the same.
        """
        with self._lock:
            if self._requested or not self._idle.is_set():
                return
            self._requested = True
        self._view.run.disabled = True
        self._view.tick(True)
        timer = threading.Timer(PATIENCE, self._start_requested)
        timer.daemon = True
        timer.start()

    def _start_requested(self) -> None:
        with self._lock:
            if not self._requested:
                return
            self._requested = False
        self._view.tick(self.drive == "pump")
        self.start()

    def _launch(self) -> None:
        if self.drive == "pump":
            self._view.tick(True)
        else:
            threading.Thread(target=self._advance, daemon=True, name=f"panel run {self._made}").start()

    def _tick(self, seconds: float = TICK) -> None:
        "One call of the browser: train for a while, in the kernel's own thread."
        self._start_requested()
        if self.drive == "thread" or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._idle.is_set() and not self._advance(seconds):
                self._view.tick(False)
        except KeyboardInterrupt:
            self._view.tick(False)
        finally:
            self._lock.release()

    def _advance(self, seconds: float = math.inf, raises: bool = False) -> bool:
        "Train until the end, a stop, a failure, or for some seconds; True while there is more to do."
        until = time.perf_counter() + seconds
        trace, during = self._traces[-1], "building the run"
        try:
            if self._steps is None:
                self._steps = self._build(trace)
            while not self._stop.is_set():
                during = f"training step {trace.steps}"
                before = time.perf_counter()
                step = next(self._steps, _END)
                now = time.perf_counter()
                if step is _END:
                    self._end(trace, "done")
                    return False
                trace.append(step, now - before)
                if now >= self._next_draw:
                    self._draw()
                if now >= until:
                    return True
            self._end(trace, "stopped")
        except KeyboardInterrupt:
            self._end(trace, "stopped")
            raise
        except Exception as error:
            self._fail(trace, error, during)
            if raises:
                raise
        return False

    def _build(self, trace: Trace) -> Iterator[Any]:
        self.latest = self._make_run(**trace.values)
        trace.total = len(self.latest) if hasattr(self.latest, "__len__") else None
        self._say_if_busy(f"Run {trace.number} is training.")
        return iter(self.latest)

    def _end(self, trace: Trace, outcome: str) -> None:
        trace.outcome = outcome
        sentences = {
            "done": f"Run {trace.number} is done after {trace.steps:,} steps: loss {trace.loss:.4g}.",
            "stopped": f"Run {trace.number} is stopped after {trace.steps:,} steps. Resume goes on from here.",
        }
        guess = f" You predicted: {trace.guess}." if trace.guess is not None and outcome == "done" else ""
        self._rest(sentences[outcome] + guess)

    def _fail(self, trace: Trace, error: Exception, during: str) -> None:
        trace.outcome = "failed"
        self._steps = None
        if out_of_memory(error):
            self.latest = None
        said = explain(error, during, trace.values, self.knobs.moved(trace.values))
        self._rest(said, "".join(traceback.format_exception(error)))

    def _rest(self, text: str, error: str = "") -> None:
        "Nothing trains: show where things stand. The status comes last, so that who reads it finds the rest done."
        self._draw()
        self._view.results.show(self._traces)
        self._settings_changed()
        self._view.enable(busy=False, resumable=self._resumable)
        with self._saying:
            self._view.say(text, error)
            self._idle.set()
        if self._closed:
            self._view.close()

    @property
    def _resumable(self) -> bool:
        return bool(self._traces) and self._traces[-1].outcome == "stopped"

    # what is shown

    def _draw(self) -> None:
        "Redraw curves and figures. A failure here is shown in place of the plot, and the training goes on."
        with self._drawing:
            trace = self._traces[-1] if self._traces else None
            try:
                self._view.draw(self._charts(), trace, _machine(self.latest))
            except Exception as error:
                self._view.plot.value = f"<p>The curves could not be drawn ({type(error).__name__}: {error}).</p>"
            self._next_draw = time.perf_counter() + REDRAW_EVERY

    def _charts(self) -> list[Chart]:
        names = [SMOOTH, *_small(self._traces)]
        right = max((t.total or t.steps for t in self._traces), default=1)
        return [Chart(_TITLES.get(name, name), self._lines(name), right=right, cut=_cut(name)) for name in names]

    def _lines(self, name: str) -> list[Line]:
        lines, picked = [], self._view.results.picked
        for trace in self._traces[-1:] if name == LR else self._traces:
            if name not in trace.series:
                continue
            newest = trace is self._traces[-1]
            style, opacity = trace.number - 1, 0.3 if picked and trace.number not in picked else 1.0
            if name == SMOOTH and newest and RAW in trace.series:
                lines.append(Line(trace.series[RAW], style, opacity=opacity, plain=True))
            label, points = trace.name if name == SMOOTH else "", LIVE_POINTS if newest else OLD_POINTS
            lines.append(Line(trace.series[name], style, label, points, opacity, dots=name.startswith("validation")))
        return lines

    def _settings_changed(self) -> None:
        code = code_for(self._make_run, self.knobs.values, self.latest)
        self._view.set_code(f"{code}# the same settings for a panel: {self.state}\n")

    def _say_if_busy(self, text: str) -> None:
        with self._saying:
            if not self._idle.is_set():
                self._view.say(text)

    def _connect(self) -> None:
        view = self._view
        for button, action in (
            (view.run, self._request),
            (view.stop, self.stop),
            (view.resume, self.resume),
            (view.reset, self.reset),
            (view.commit, self._commit),
            (view.results.remove, self._remove_chosen),
        ):
            button.on_click(lambda _, action=action: action())
        view.on_tick(self._tick)
        view.results.on_pick(self._draw)
        self.knobs.observe(self._settings_changed)

    def _commit(self) -> None:
        self._guess = self._view.take_guess()
        self._view.enable(busy=not self._idle.is_set(), resumable=self._resumable)
        self._view.say(f"You predicted: {self._guess}." if self._guess else "Write down a prediction first.")

    def _remove_chosen(self) -> None:
        if number := self._view.results.victim.value:
            self.remove(number)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if not self._closed:
            view = {"version_major": 2, "version_minor": 0, "model_id": self._view.root.model_id}
            bundle["application/vnd.jupyter.widget-view+json"] = view
        if any(trace.steps for trace in self._traces):
            bundle["image/png"] = png(self._charts()[:2], settings(self._traces[-1].values))
        return bundle

    def __repr__(self) -> str:
        runs = [f"{t.name}: {t.outcome} after {t.steps} steps, loss {t.loss:.4g}" for t in self._traces]
        return "\n".join([f"Panel: {settings(self.knobs.values)}", *runs])


def _small(traces: Iterable[Trace]) -> list[str]:
    "Which curves get a small chart of their own: a metric, the learning rate, the gradient, the loss's parts."
    names = list(dict.fromkeys(name for trace in traces for name in trace.series))
    metrics = [name for name in names if name.startswith("validation") and name != "validation loss"][:1]
    parts = [name for name in names if name.startswith("part: ")]
    wanted = [*metrics, "validation loss", LR, GRAD_NORM]
    return [name for name in wanted if name in names] + (parts if len(parts) > 1 else [])


def _cut(name: str) -> float:
    "Above how many times the usual first value a curve may leave its chart."
    if name == SMOOTH or name.startswith("part: "):
        return 3
    return 10 if name in ("validation loss", GRAD_NORM) else math.inf


def _machine(run: Any) -> dict[str, str]:
    "Device, number format and memory in use."
    import psutil
    import torch

    device = getattr(run, "device", torch.device("cpu"))
    on_gpu = torch.device(device).type == "cuda"
    used = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
    precision = getattr(run, "precision", "")
    return {"device": f"{device} {precision}".strip(), "memory": f"{used / 1e6:,.0f} MB"}


def _replace_panels_of_this_cell(panel: Panel) -> None:
    "A cell that runs again makes a new panel: stop those that it made before."
    panel._origin = _running_cell()
    if panel._origin:
        for other in list(_panels):
            if other._origin and other._origin[0] == panel._origin[0] and other._origin[1] != panel._origin[1]:
                other.close()
    _panels.add(panel)


@atexit.register
def _stop_all() -> None:
    "A thread that is inside torch while Python ends would abort the process."
    training = [panel for panel in _panels if not panel._idle.is_set()]
    for panel in training:
        panel.stop()
    for panel in training:
        panel._idle.wait(2)


def _running_cell() -> tuple[str, str] | None:
    "The notebook cell that is being executed, by its id or else its text, and this execution of it."
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    request = shell.get_parent() if shell is not None and hasattr(shell, "get_parent") else {}
    code = request.get("content", {}).get("code")
    if not code:
        return None
    return request.get("metadata", {}).get("cellId") or code, request["header"]["msg_id"]


__all__ = ["LogRange", "Panel"]
