"""The live panel: turn a lesson's hyperparameters and watch the run learn."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.panel.cells import replace_panels_of_this_cell
from finetune_lessons.lab.panel.choices import same
from finetune_lessons.lab.panel.charts import charts_of
from finetune_lessons.lab.panel.code import code_for
from finetune_lessons.lab.panel.controls import LogRange
from finetune_lessons.lab.panel.drives import Drive
from finetune_lessons.lab.panel.errors import settings
from finetune_lessons.lab.panel.knobs import Knobs, listed, refuse_taken_names
from finetune_lessons.lab.panel.live_plot import png
from finetune_lessons.lab.panel.loop import Loop
from finetune_lessons.lab.panel.results import ALL
from finetune_lessons.lab.panel.state import read_state
from finetune_lessons.lab.panel.traces import Trace
from finetune_lessons.lab.panel.view import PanelView

if TYPE_CHECKING:
    import pandas as pd


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
        refuse_taken_names(make_run, {"ask": ask, "hide": hide, "lock": lock, "help": help, "drive": drive})
        self.knobs = Knobs(make_run, knobs, explanations=help, hide=hide, lock=lock)
        self._make_run = make_run
        self._view = PanelView(self.knobs, ask)
        self._loop = Loop(make_run, self.knobs, self._view, on_rest=self._show_code)
        self._drive = Drive(drive, self._loop, self._view)
        self._connect()
        self._loop.rest("Ready.")
        replace_panels_of_this_cell(self)

    @classmethod
    def from_state(cls, state: str, make_run: Callable[..., Any], **options: Any) -> "Panel":
        "The panel whose `state` this was; the knobs are given as for `Panel`."
        _, hide, lock = read_state(state)
        for key, names in (("hide", hide), ("lock", lock)):
            options[key] = [*dict.fromkeys([*listed(key, options.get(key, ())), *names])]
        panel = cls(make_run, **options)
        panel.knobs.start_from(state)
        return panel

    @property
    def drive(self) -> str:
        "Who trains in the background: 'thread' or 'pump'."
        return self._drive.kind

    @property
    def latest(self) -> Any:
        "What make_run returned last."
        return self._loop.latest

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

    def run(self, **values: Any) -> Any:
        """Set these values and train to the end, here and now; returns what make_run returned.

        Errors are shown in the panel and raised. An interrupt leaves the run ready for `resume`.
        """
        self.knobs.set(**values)
        if not self._loop.begin():
            raise RuntimeError("the panel is training: call stop() and wait() first")
        self._loop.advance(raises=True)
        return self.latest

    def start(self) -> None:
        "Train a new run in the background; does nothing while one is training."
        if self._loop.begin():
            self._drive.launch()

    def resume(self) -> None:
        "Go on with the run that was stopped last."
        if self._loop.begin(again=True):
            self._drive.launch()

    def stop(self) -> None:
        "Stop after the current step. The run can be resumed."
        self._loop.stop()

    def wait(self, timeout: float | None = None) -> bool:
        "Wait until nothing trains any more; False if that takes longer than `timeout` seconds."
        return self._drive.wait(timeout)

    def run_like(self, number: int, /, from_last_step: bool = False, **changes: Any) -> Any:
        """Train a run like an earlier one but for these changes, from the start or from where that one ended.

        Where it had come to its end, as many epochs again follow. Returns what make_run returned.
        """
        self._view.like.choose(self._trace(number).number, from_last_step)
        try:
            return self.run(**{**self._trace(number).values, **changes})
        finally:
            self._view.like.choose(0)

    def reset(self) -> None:
        "The knobs at their start values. The runs stay: `remove` takes one away, `clear` all."
        if not self._loop.idle.is_set():
            return
        self._view.like.choose(0)
        self.knobs.reset()
        runs = f" {len(self._traces)} runs stay, until you remove them." if self._traces else ""
        self._loop.rest(f"Ready, with the settings of the start.{runs}" if runs else "Ready.")

    def clear(self) -> None:
        "Take all runs out of the plot and the table."
        for trace in list(self._traces):
            self.remove(trace.number)

    def remove(self, number: int) -> None:
        "Take a run out of the plot and the table."
        self._loop.remove(number)

    def close(self) -> None:
        "Stop, and take the panel off the page. The results stay."
        self._loop.closed = True
        self.stop()
        if self._loop.idle.is_set():
            self._view.close()

    @property
    def _traces(self) -> list[Trace]:
        return self._loop.traces

    def _draw(self) -> None:
        self._loop.draw()

    def _show_code(self) -> None:
        code = code_for(self._make_run, self.knobs.values, self.latest)
        newest = self._traces[-1] if self._traces else None
        if newest and newest.goes_on and same(newest.values, self.knobs.values):
            code = f"# {newest.name} was like {newest.like}; this is it from the start\n{code}"
        self._view.set_code(f"{code}# the same settings for a panel: {self.state}\n")

    def _connect(self) -> None:
        view = self._view
        for button, action in (
            (view.run, self._request),
            (view.stop, self.stop),
            (view.resume, self.resume),
            (view.reset, self.reset),
            (view.results.remove, self._remove_chosen),
        ):
            button.on_click(lambda _, action=action: action())
        view.prediction.on_commit(lambda: self._drive.request(self._commit))
        view.like.on_choose(self._take_settings)
        view.results.on_pick(self._draw)
        self.knobs.observe(self._show_code)

    def _request(self) -> None:
        if self._loop.idle.is_set():
            self._view.run.disabled = True
            self._drive.request(self.start)

    def _commit(self) -> None:
        guess = self._view.prediction.close()
        self._loop.enable()
        if self._loop.idle.is_set():
            self._view.say(f"You predicted: {guess}. Now Run." if guess else "Write down a prediction first.")

    def _take_settings(self, number: int) -> None:
        if number:
            self.knobs.set(**self._trace(number).values)
            if self._loop.idle.is_set():
                self._view.say(f"The settings of run {number}. Change one, then Run.")

    def _trace(self, number: int) -> Trace:
        return self._loop.trace(number)

    def _remove_chosen(self) -> None:
        number = self._view.results.victim.value
        if number == ALL:
            self.clear()
        elif number:
            self.remove(number)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if not self._loop.closed:
            view = {"version_major": 2, "version_minor": 0, "model_id": self._view.root.model_id}
            bundle["application/vnd.jupyter.widget-view+json"] = view
        if any(trace.steps for trace in self._traces):
            charts = charts_of(self._traces, self._view.results.picked)[:3]
            bundle["image/png"] = png(charts, settings(self._traces[-1].values))
        return bundle

    def __repr__(self) -> str:
        runs = [f"{t.name}: {t.outcome} after {t.steps} steps, loss {t.loss:.4g}" for t in self._traces]
        return "\n".join([f"Panel: {settings(self.knobs.values)}", *runs])


__all__ = ["LogRange", "Panel"]
