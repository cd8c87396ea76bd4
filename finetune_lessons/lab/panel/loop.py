"""The loop that all drives share: one run at a time is built, trained step by step, stopped, gone on with."""

import atexit
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

from finetune_lessons.lab.panel.choices import label_of
from finetune_lessons.lab.panel.errors import explain, out_of_memory
from finetune_lessons.lab.panel.knobs import Knobs
from finetune_lessons.lab.panel.last_steps import LastSteps
from finetune_lessons.lab.panel.memory import collect, trim
from finetune_lessons.lab.panel.traces import Trace
from finetune_lessons.lab.panel.view import PanelView

REDRAW_EVERY = 0.2  # seconds
INTERRUPT = ", by the kernel's interrupt"
_END = object()
_loops: "WeakSet[Loop]" = WeakSet()


class Loop:
    "The runs of one panel. Whoever calls `begin` and then `advance` trains, in a thread or the caller's own time."

    def __init__(
        self,
        make_run: Callable[..., Any],
        knobs: Knobs,
        view: PanelView,
        on_rest: Callable[[], None],  # called when a run has ended, before the status says so
    ):
        self.latest: Any = None  # what make_run returned last
        self.traces: list[Trace] = []
        self.closed = False
        self.lock = threading.RLock()  # of whoever starts or ticks
        self.idle = threading.Event()
        self._make_run, self._knobs, self._view, self._on_rest = make_run, knobs, view, on_rest
        self._steps: Iterator[Any] | None = None
        self._made, self._kept = 0, LastSteps()
        self._held: int | None = None  # the run that `latest` is of
        self._stop, self._saying = threading.Event(), threading.Lock()
        self._stopped_by = ""  # in words, where it was not the Stop button
        self._next_draw = 0.0
        _loops.add(self)

    @property
    def resumable(self) -> bool:
        return bool(self.traces) and self.traces[-1].outcome == "stopped"

    def begin(self, again: bool = False) -> bool:
        "Become busy with a new run, or again with the last one; False if that is not possible."
        with self.lock:
            if not self.idle.is_set() or self.closed or (again and not self.resumable):
                return False
            self.idle.clear()
            self._stop.clear()
            self._stopped_by = ""
        if not again:
            self._steps = None
            self._made += 1
            self.traces.append(self._new_trace())
        trace = self.traces[-1]
        trace.outcome = "running"
        self.draw()
        self._next_draw = 0.0
        self._view.show(self.traces)
        self.enable()
        self._view.say(f"Run {trace.number} is training." if again else f"Run {trace.number} is being built.")
        return True

    def advance(self, seconds: float = math.inf, raises: bool = False) -> bool:
        "Train until the end, a stop, a failure, or for some seconds; True while there is more to do."
        until = time.perf_counter() + seconds
        trace, during = self.traces[-1], "building the run"
        try:
            if self._steps is None:
                self._steps = self._build(trace)
            while not self._stop.is_set():
                during = f"training step {trace.first + trace.steps}"
                before = time.perf_counter()
                step = next(self._steps, _END)
                now = time.perf_counter()
                if step is _END:
                    self._end(trace, "done")
                    return False
                trace.append(step, now - before)
                if now >= self._next_draw:
                    self.draw()
                if now >= until:
                    return True
            self._end(trace, "stopped")
        except KeyboardInterrupt:
            self._stopped_by = INTERRUPT
            self._end(trace, "stopped")
            raise
        except (Exception, SystemExit) as error:
            self._fail(trace, error, during)
            if raises:
                raise
        return False

    def interrupt(self) -> None:
        "End `advance` after its current step. Safe in a handler of a signal: it sends nothing."
        if not self.idle.is_set():
            self._stopped_by = INTERRUPT
            self._stop.set()

    def stop(self) -> None:
        "End `advance` after its current step."
        if not self.idle.is_set():
            self._stop.set()
            self._view.stop.disabled = True
            self._say_if_busy("Stopping after this step.")

    def trace(self, number: int) -> Trace:
        for trace in self.traces:
            if trace.number == number:
                return trace
        raise ValueError(f"there is no run {number}; there are {[t.number for t in self.traces]}")

    def remove(self, number: int) -> None:
        trace = self.trace(number)
        if trace.outcome == "running":
            return
        if trace is self.traces[-1]:
            self._steps = None
        if number == self._held:
            self.latest = self._held = None
            collect()
        self.traces.remove(trace)
        self._kept.forget(number)
        self._view.show(self.traces)
        self.draw()
        self.enable()

    def draw(self) -> None:
        self._view.draw(self.traces, self.latest)
        self._next_draw = time.perf_counter() + REDRAW_EVERY

    def enable(self) -> None:
        self._view.enable(busy=not self.idle.is_set(), resumable=self.resumable)

    def rest(self, text: str, error: str = "") -> None:
        "Nothing trains: show where things stand. The status comes last, so that who reads it finds the rest done."
        trim()
        self.draw()
        self._view.show(self.traces)
        self._on_rest()
        self._view.enable(busy=False, resumable=self.resumable)
        with self._saying:
            self._view.say(text, error)
            self.idle.set()
        if self.closed:
            self._view.close()

    def _new_trace(self) -> Trace:
        trace = Trace(self._made, self._knobs.values, self._view.prediction.hand_over())
        self._view.like.mark(trace, self.traces)
        return trace

    def _build(self, trace: Trace) -> Iterator[Any]:
        self._release()
        self.latest, self._held = self._make_run(**trace.values), trace.number
        steps = _steps_of(self.latest)
        if trace.parent is not None and trace.goes_on:
            self._kept.go_on(trace.parent, self.latest)
            trace.first = self.latest.index
        try:
            trace.total = len(self.latest)
        except TypeError:  # it has no length, or cannot tell it
            trace.total = None
        self._say_if_busy(f"Run {trace.number} is training.")
        return steps

    def _release(self) -> None:
        "Free the last run before the next one is built; where it ended stays in a file."
        if self.latest is None:
            return
        if self._held in [trace.number for trace in self.traces]:
            self._kept.keep(self._held, self.latest)
        self.latest = self._held = None
        collect()

    def _end(self, trace: Trace, outcome: str) -> None:
        trace.outcome = outcome
        loss = f"loss {trace.loss:.4g}" if trace.steps else "it gave none"
        sentences = {
            "done": f"Run {trace.number} is done after {trace.steps:,} steps: {loss}.",
            "stopped": f"Run {trace.number} is stopped after {trace.steps:,} steps{self._stopped_by}. "
            "Resume goes on from here.",
        }
        guess = f" You predicted: {trace.guess}." if trace.guess is not None and outcome == "done" else ""
        self.rest(sentences[outcome] + guess + (_why(self.latest) if outcome == "done" else ""))

    def _fail(self, trace: Trace, error: BaseException, during: str) -> None:
        trace.outcome = "failed"
        self._steps = None
        if out_of_memory(error):
            self.latest = self._held = None
        said = explain(error, during, trace.values, self._knobs.moved(trace.values))
        self.rest(said, "".join(traceback.format_exception(error)))

    def _say_if_busy(self, text: str) -> None:
        with self._saying:
            if not self.idle.is_set():
                self._view.say(text)


def _why(run: Any) -> str:
    "Where to look, of a run that ended without having learnt."
    from finetune_lessons.lab.training.learnt import learnt
    from finetune_lessons.lab.training.run import Run

    if not isinstance(run, Run) or learnt(run):
        return ""
    return " Its loss has not fallen: diagnose(panel.latest) looks for the reason."


def _steps_of(run: Any) -> Iterator[Any]:
    iterable = hasattr(run, "__iter__") or hasattr(run, "__getitem__")
    if iterable and not isinstance(run, (str, bytes, Mapping, type)):
        return iter(run)
    missing = " Does the function end without `return`?" if run is None else ""
    raise ValueError(
        f"the function must return a Run, or something else that gives a loss at each step; it returned {label_of(run)}"
        f" ({type(run).__name__}).{missing}"
    )


def interrupt_all() -> None:
    "End what trains in any panel."
    for loop in list(_loops):
        loop.interrupt()


@atexit.register
def _stop_all() -> None:
    "A thread that is inside torch while Python ends would abort the process."
    training = [loop for loop in _loops if not loop.idle.is_set()]
    for loop in training:
        loop.stop()
    for loop in training:
        loop.idle.wait(2)
