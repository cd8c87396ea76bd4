"""The live panel and its parts, without a browser."""

import math
import re
import sys
import threading
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_lessons.lab.panel import panel as panel_module
from finetune_lessons.lab.panel import view as panel_view
from finetune_lessons.lab.panel.code import code_for
from finetune_lessons.lab.panel.explorer import explore
from finetune_lessons.lab.panel.knobs import Knobs, LogRange
from finetune_lessons.lab.panel.live_plot import Chart, Line, svg, ticks
from finetune_lessons.lab.panel.panel import REDRAW_EVERY, Panel
from finetune_lessons.lab.panel.traces import Series, Trace, clock

PATIENCE = 30


class FakeRun:
    "Losses that fall from 1 by the learning rate; `at` maps a step to what happens before it."

    def __init__(self, lr=0.01, steps=20, at=None):
        self.lr, self.steps, self.at, self.index = lr, steps, at or {}, 0

    def __len__(self):
        return self.steps

    def __iter__(self):
        return self

    def __next__(self):
        if self.index == self.steps:
            raise StopIteration
        self.at.pop(self.index, lambda: None)()
        self.index += 1
        metrics = {"accuracy": 0.8, "loss": 0.5} if self.index % 10 == 0 else {}
        return SimpleNamespace(
            index=self.index - 1, epoch=(self.index - 1) // 10, loss=math.exp(-self.lr * self.index), metrics=metrics,
            parts={"a": 0.1, "b": 0.2}, lr=self.lr, grad_norm=1.0, tokens=64, seconds=0.001,
        )  # fmt: skip


def make_run(lr=0.01, steps=20):
    return FakeRun(lr, steps)


def losses(panel, run=-1):
    return panel._traces[run].series["raw loss"].ys


def status(panel):
    return panel._view.status.value


def press_run(panel):
    "Click, and the browser's answer to it."
    panel._view.run.click()
    panel._view.play.value += 1


def raiser(error):
    def throw():
        raise error

    return throw


# knobs


@pytest.mark.parametrize(
    ("spec", "control", "slider", "value"),
    [
        (LogRange(1e-5, 1e-1, start=1e-3), widgets.BoundedFloatText, widgets.FloatLogSlider, 1e-3),
        (LogRange(1e-4, 1e-2), widgets.BoundedFloatText, widgets.FloatLogSlider, 1e-3),
        ((1, 5), widgets.BoundedIntText, widgets.IntSlider, 3),
        ((0, 64, 8), widgets.BoundedIntText, widgets.IntSlider, 32),
        ((0.0, 0.5), widgets.BoundedFloatText, widgets.FloatSlider, 0.25),
        ([16, 32], widgets.Dropdown, None, 16),
        (range(10), widgets.Dropdown, None, 0),
        ({"small": 1, "large": 9}, widgets.Dropdown, None, 1),
        (True, widgets.Checkbox, None, True),
        ("linear", widgets.Text, None, "linear"),
        (widgets.ToggleButton(value=True), widgets.ToggleButton, None, True),
    ],
)
def test_abbreviation_becomes_a_control_with_a_name_and_a_start_value(spec, control, slider, value):
    knob = Knobs(lambda x: None, {"x": spec})["x"]
    assert type(knob.control) is control
    assert type(knob.slider) is (slider or type(None))
    assert knob.value == knob.start == value
    assert knob.control.description == "x"


@pytest.mark.parametrize("spec", [None, object(), (1,), (1, 2, 3, 4)])
def test_what_is_no_knob_is_refused_with_the_forms_that_are(spec):
    with pytest.raises(ValueError, match="is not a knob: expected LogRange"):
        Knobs(lambda x: None, {"x": spec})


@pytest.mark.parametrize("arguments", [(0, 1), (1, 1), (-1, 1), (1, 10, 100)])
def test_log_range_refuses_limits_that_have_no_logarithm_or_do_not_hold_the_start(arguments):
    with pytest.raises(ValueError, match="LogRange"):
        LogRange(*arguments)


def test_start_value_is_the_default_of_the_parameter():
    def function(lr=3e-4, r=4, smoothing=0.1):
        pass

    knobs = Knobs(function, {"lr": LogRange(1e-5, 1e-1), "r": [1, 2, 4], "smoothing": (0.0, 0.5)})
    assert knobs.values == {"lr": 3e-4, "r": 4, "smoothing": 0.1}


@pytest.mark.parametrize("spec", [(1, 9), [16, 32], LogRange(0.1, 1)])
def test_a_default_that_the_knob_does_not_reach_is_refused(spec):
    with pytest.raises(ValueError, match="given: 20, the default of the parameter"):
        Panel(make_run, steps=spec)


def test_knobs_and_parameters_must_match():
    with pytest.raises(TypeError, match="make_run has no parameter rank; it has lr, steps"):
        Panel(make_run, rank=(1, 5))
    with pytest.raises(TypeError, match="also needs y"):
        Knobs(lambda x, y: None, {"x": (1, 5)})


def test_known_names_are_explained_and_explanations_can_be_replaced():
    knobs = Knobs(lambda lr, r: None, {"lr": LogRange(1e-5, 1), "r": [1, 2]}, explanations={"r": "my words"})
    assert "diverges" in knobs["lr"].card().children[1].value
    assert "my words" in knobs["r"].card().children[1].value


def test_slider_and_field_follow_each_other():
    knob = Knobs(lambda lr: None, {"lr": LogRange(1e-5, 1, start=1e-3)})["lr"]
    knob.slider.value = 0.0012589254117941675
    assert knob.value == 0.0013
    knob.control.value = 0.02345
    assert knob.slider.value == knob.value == 0.02345


def test_a_page_that_moves_its_slider_to_the_nearest_step_does_not_change_the_value():
    knob = Knobs(lambda lr: None, {"lr": LogRange(1e-5, 100, start=90)})["lr"]
    knob.slider.value = 100.0
    assert knob.value == 90


@pytest.mark.parametrize("values", [{"lr": 5.0}, {"lr": "high"}, {"size": 17}, {"size": 32, "lr": -1.0}, {"rank": 3}])
def test_a_value_out_of_reach_is_refused_and_changes_nothing(values):
    knobs = Knobs(lambda lr, size: None, {"lr": LogRange(1e-5, 1, start=0.1), "size": [16, 32]})
    with pytest.raises(ValueError, match="given|there is no knob"):
        knobs.set(**values)
    assert knobs.values == {"lr": 0.1, "size": 16}


def test_hidden_knobs_are_used_but_not_shown_and_locked_ones_are_disabled():
    panel = Panel(make_run, hide=["steps"], lock=["lr"], lr=LogRange(1e-3, 1, start=0.1), steps=(20, 30))
    shown = [type(child.children[0].children[0]) for child in panel.knobs.box().children]
    assert shown == [widgets.BoundedFloatText]
    assert panel.knobs["lr"].control.disabled and panel.knobs["lr"].slider.disabled
    assert len(panel.run()) == 20
    with pytest.raises(ValueError, match="there is no knob 'r'"):
        Panel(make_run, hide=["r"], lr=(0.0, 1.0))


# state

CHOICES = ["linear", "cosine", "a&b=c", "50 %", "ü,ö", ""]
SPECS = {
    "lr": LogRange(1e-6, 10, start=1e-3),
    "epochs": (1, 9),
    "dropout": (0.0, 0.5),
    "schedule": CHOICES,
    "freeze": False,
    "name": "x",
    "seed": range(100),
}


def all_knobs(lr, epochs, dropout, schedule, freeze, name, seed):
    return FakeRun(lr)


@given(
    lr=st.floats(1e-6, 10),
    epochs=st.integers(1, 9),
    dropout=st.floats(0, 0.5),
    schedule=st.sampled_from(CHOICES),
    freeze=st.booleans(),
    name=st.text(max_size=20),
    seed=st.integers(0, 99),
    hide=st.lists(st.sampled_from(sorted(SPECS)), unique=True),
    lock=st.lists(st.sampled_from(sorted(SPECS)), unique=True),
)
def test_state_round_trip(hide, lock, **values):
    knobs = Knobs(all_knobs, SPECS, hide=hide, lock=lock)
    knobs.set(**values)
    other = Panel.from_state(knobs.state, all_knobs, **SPECS)
    assert other.knobs.values == values
    assert other.state == knobs.state
    assert {knob.name: knob.start for knob in other.knobs} == values


@pytest.mark.parametrize("state", ["lr", "lr=high", "lr=50", "rank=3", "steps=1.5e9", "lr=null"])
def test_a_state_that_does_not_fit_is_refused(state):
    with pytest.raises(ValueError, match="given|there is no knob|not a panel's state"):
        Panel.from_state(state, make_run, lr=LogRange(1e-3, 1), steps=(20, 30))


def test_reset_returns_to_the_state_that_was_handed_out():
    panel = Panel.from_state("lr=0.5&lock=lr", make_run, lr=LogRange(1e-3, 1))
    panel.knobs.set(lr=0.1)
    panel.reset()
    assert panel.knobs.values == {"lr": 0.5}
    assert panel.knobs["lr"].control.disabled


# drives


def finish(panel):
    "Let the panel train to the end as its drive does it."
    if panel.drive == "pump":
        while panel._view.ticking:
            panel._view.play.value += 1
    else:
        assert panel.wait(PATIENCE)


@pytest.fixture(params=["thread", "pump"])
def drive(request):
    return request.param


def test_every_drive_trains_the_same_curve_as_run(drive):
    blocking, panel = Panel(make_run, lr=(0.0, 1.0)), Panel(make_run, drive=drive, lr=(0.0, 1.0))
    blocking.run(lr=0.1)
    panel.knobs.set(lr=0.1)
    press_run(panel)
    finish(panel)
    assert losses(panel) == losses(blocking) == [math.exp(-0.1 * (i + 1)) for i in range(20)]
    assert "Run 1 is done" in status(panel)
    assert panel.latest.index == 20


def test_waiting_for_a_pumped_run_trains_it():
    panel = Panel(make_run, drive="pump", lr=(0.0, 1.0))
    panel.start()
    assert panel._traces[-1].steps == 0
    assert panel.wait()
    assert len(losses(panel)) == 20


def test_colab_is_driven_by_the_pump(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert Panel(make_run, lr=(0.0, 1.0)).drive == "pump"


def test_an_unknown_drive_is_refused():
    with pytest.raises(ValueError, match="'thread', 'pump' or None; given: 'async'"):
        Panel(make_run, drive="async", lr=(0.0, 1.0))


def test_a_double_click_starts_one_run():
    made, go = [], threading.Event()

    def wait_for_go(lr=0.1):
        made.append(lr)
        return FakeRun(lr, at={0: lambda: go.wait(PATIENCE)})

    panel = Panel(wait_for_go, lr=(0.0, 1.0))
    panel._view.run.click()
    press_run(panel)
    press_run(panel)
    panel.resume()
    panel.reset()
    with pytest.raises(RuntimeError, match="is training"):
        panel.run()
    go.set()
    assert panel.wait(PATIENCE)
    assert len(made) == len(panel.results) == 1


def test_values_that_arrive_after_the_click_count(drive):
    panel = Panel(make_run, drive=drive, lr=(0.0, 1.0))
    panel._view.run.click()
    panel.knobs["lr"].control.value = 0.25
    panel._view.play.value += 1
    finish(panel)
    assert list(panel.results["lr"]) == [0.25]


def test_a_click_without_an_answer_of_the_browser_starts_all_the_same(monkeypatch):
    monkeypatch.setattr(panel_module, "PATIENCE", 0)
    started = threading.Event()

    def noticed(lr=0.1):
        started.set()
        return FakeRun(lr)

    panel = Panel(noticed, drive="thread", lr=(0.0, 1.0))
    panel._view.run.click()
    assert started.wait(PATIENCE) and panel.wait(PATIENCE)
    assert len(losses(panel)) == 20


def test_buttons_say_what_can_be_done(drive):
    seen = {}

    def observed(lr=0.1):
        return FakeRun(lr, at={3: lambda: seen.update(busy=buttons(panel)), 5: panel.stop})

    def buttons(panel):
        view = panel._view
        return [not button.disabled for button in (view.run, view.stop, view.resume, view.reset)]

    panel = Panel(observed, drive=drive, lr=(0.0, 1.0))
    assert buttons(panel) == [True, False, False, True]
    panel.start()
    finish(panel)
    assert seen["busy"] == [False, True, False, False]
    assert buttons(panel) == [True, False, True, True]


@pytest.mark.parametrize("moment", [0, 1, 7, 19])
def test_stop_at_any_moment_leaves_a_run_that_resumes_to_the_same_curve(moment, drive):
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={moment: lambda: panel.stop()}), drive=drive, lr=(0.0, 1.0))
    panel.start()
    finish(panel)
    assert len(losses(panel)) == moment + 1
    assert "stopped after" in status(panel)
    panel._view.resume.click()
    finish(panel)
    assert losses(panel) == [math.exp(-0.1 * (i + 1)) for i in range(20)]
    assert list(panel.results["outcome"]) == ["done"]


def test_stop_while_the_run_is_built(drive):
    def stopped_at_once(lr=0.1):
        panel.stop()
        return FakeRun(lr)

    panel = Panel(stopped_at_once, drive=drive, lr=(0.0, 1.0))
    panel.start()
    finish(panel)
    assert list(panel.results["steps"]) == [0]
    panel.resume()
    finish(panel)
    assert list(panel.results["steps"]) == [20]


def test_an_interrupt_of_run_stops_cleanly_and_goes_on_to_the_cell():
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={7: raiser(KeyboardInterrupt)}), lr=(0.0, 1.0))
    with pytest.raises(KeyboardInterrupt):
        panel.run()
    assert "stopped after 7 steps" in status(panel)
    panel.resume()
    assert panel.wait(PATIENCE)
    assert len(losses(panel)) == 20


def test_an_interrupt_of_a_pumped_run_stops_it():
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={7: raiser(KeyboardInterrupt)}), drive="pump", lr=(0.0, 1.0))
    panel.start()
    finish(panel)
    assert "stopped after 7 steps" in status(panel)


def test_two_panels_train_at_once_without_changing_each_other():
    def torch_run(seed=0):
        import torch

        generator = torch.Generator().manual_seed(seed)
        return (torch.rand((), generator=generator).item() + 0.01 for _ in range(500))

    alone = [Panel(torch_run, seed=range(3)) for _ in range(2)]
    together = [Panel(torch_run, seed=range(3)) for _ in range(2)]
    for seed, panel in enumerate(alone):
        panel.run(seed=seed)
    for seed, panel in enumerate(together):
        panel.knobs.set(seed=seed)
        panel.start()
    for panel, reference in zip(together, alone, strict=True):
        assert panel.wait(PATIENCE)
        assert losses(panel) == losses(reference)


# failures


def failed(panel, drive, *texts):
    panel.start()
    finish(panel)
    for text in texts:
        assert text in status(panel)
    assert 'role="status"' in status(panel)
    assert "<details><summary>Traceback" in status(panel)
    assert list(panel.results["outcome"])[-1] == "failed"
    assert not panel._view.run.disabled
    assert panel._view.resume.disabled


def test_an_error_in_make_run_becomes_a_sentence_and_the_panel_stays_usable(drive):
    def picky(r=3, lr=0.1):
        if r == 3:
            raise ValueError("r must be even")
        return FakeRun(lr)

    panel = Panel(picky, drive=drive, r=[3, 4], lr=(0.0, 1.0))
    failed(panel, drive, "Failed while building the run: r must be even. Named in the message: r=3.")
    panel.run(r=4)
    assert list(panel.results["outcome"]) == ["failed", "done"]


def test_an_error_in_a_step_names_the_step_and_the_changed_knobs(drive):
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={4: raiser(KeyError("label"))}), drive=drive, lr=(0.0, 1.0))
    panel.knobs.set(lr=0.7)
    failed(panel, drive, "training step 4: KeyError:", "Changed from the start: lr=0.7.")
    assert len(losses(panel)) == 4


def test_a_loss_that_is_not_finite_is_a_failure_with_advice(drive):
    panel = Panel(lambda lr=0.5: iter([1.0, 0.5, math.nan, 0.1]), drive=drive, lr=(0.0, 1.0))
    failed(panel, drive, "the loss is nan at step 2", "Try a smaller learning rate than 0.5.")
    assert losses(panel) == [1.0, 0.5]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory")])
def test_out_of_memory_advises_a_smaller_batch_and_frees_the_run(error, drive):
    def big(batch_size=64):
        return FakeRun(at={2: raiser(error)})

    panel = Panel(big, drive=drive, batch_size=[64, 128])
    failed(panel, drive, "Out of memory while training step 2. It was set to batch_size=64.")
    assert panel.latest is None


def test_run_raises_what_it_shows():
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={4: raiser(ValueError("bad batch"))}), lr=(0.0, 1.0))
    with pytest.raises(ValueError, match="bad batch"):
        panel.run()
    assert "bad batch" in status(panel)


def test_a_plot_that_cannot_be_drawn_does_not_stop_the_training(monkeypatch, drive):
    panel = Panel(make_run, drive=drive, lr=(0.0, 1.0))
    monkeypatch.setattr(panel_view, "svg", lambda *a: 1 / 0)
    panel.start()
    finish(panel)
    assert "could not be drawn (ZeroDivisionError" in panel._view.plot.value
    assert "Run 1 is done" in status(panel)
    assert len(losses(panel)) == 20


def test_messages_are_escaped():
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={0: raiser(ValueError("<b>bold</b>"))}), lr=(0.0, 1.0))
    panel.start()
    finish(panel)
    assert "<b>" not in status(panel)


# what is shown


def test_ten_thousand_steps_are_drawn_in_bounded_number_and_size(monkeypatch):
    now = [0.0]

    def ticking(lr=0.1, steps=10_000):
        for i in range(steps):
            now[0] += 0.001
            yield 1 / (1 + i)

    monkeypatch.setattr(panel_module.time, "perf_counter", lambda: now[0])
    sizes = []
    panel = Panel(ticking, lr=(0.0, 1.0))
    panel._view.plot.observe(lambda change: sizes.append(len(change["new"])), "value")
    panel.run()
    assert len(sizes) <= 10 / REDRAW_EVERY + 3
    assert max(sizes) < 20_000


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=2000), st.integers(2, 300))
def test_thinning_keeps_the_last_point_and_the_limit(ys, limit):
    series = Series()
    for x, y in enumerate(ys):
        series.add(x, y)
    points = series.thinned(limit)
    assert len(points) <= limit + 1
    assert points[-1] == (len(ys) - 1, ys[-1])
    assert svg(Chart("t", [Line(series)]), 300, 150).count("<svg") == 2


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_few_and_inside(low, span, about):
    marks = ticks(low, low + span, about)
    assert 0 < len(marks) <= 2.6 * about + 1
    assert all(low - span * 1e-6 <= mark <= low + span * (1 + 1e-6) for mark in marks)


def test_lines_are_told_apart_without_colour():
    series = Series()
    for x in range(20):
        series.add(x, x)
    drawn = [svg(Chart("t", [Line(series, style)]), 300, 150) for style in range(12)]
    shapes = {
        (text.split("stroke-dasharray=")[1].split('"')[1], text.rsplit('d="', 1)[1].split('"')[0]) for text in drawn
    }
    assert len(shapes) == 12


def test_a_run_that_diverges_does_not_flatten_the_others():
    panel = Panel(lambda up=False: [1.0 + i * (1e6 if up else -0.01) for i in range(50)], up=False)
    panel.run(up=False)
    panel.run(up=True)
    assert panel._charts()[0].limits[3] < 10
    assert "run 2 ↑" in panel._view.plot.value


def test_results_hold_knobs_metrics_and_outcome():
    panel = Panel(make_run, lr=(0.0, 1.0), steps=[20, 30])
    assert panel.results.empty
    assert {"lr", "loss", "outcome"} < set(panel.results)
    panel.run(lr=0.1)
    panel.run(lr=0.2, steps=30)
    results = panel.results
    assert list(results.index) == [1, 2]
    assert list(results["lr"]) == [0.1, 0.2]
    assert list(results["validation accuracy"]) == [0.8, 0.8]
    assert results["loss"].is_monotonic_decreasing
    assert list(results["outcome"]) == ["done", "done"]


def test_a_knob_keeps_its_name_in_the_results():
    panel = Panel(make_run, steps=[20, 30])
    panel.run()
    assert list(panel.results["steps"]) == list(panel.results["steps of the run"]) == [20]


def order(panel):
    return [int(n) for n in re.findall(r"</svg> run (\d+)</th>", panel._view.results.table.value)]


def three_runs():
    panel = Panel(make_run, lr=(0.0, 1.0))
    for lr in (0.2, 0.1, 0.3):
        panel.run(lr=lr)
    return panel


def test_table_sorts_by_any_column_in_both_directions():
    panel = three_runs()
    results = panel._view.results
    assert order(panel) == [1, 2, 3]
    results.sort.value = "lr"
    assert order(panel) == [2, 1, 3]
    results.descending.value = True
    assert order(panel) == [3, 1, 2]
    results.sort.value = "loss"
    assert order(panel) == [2, 1, 3]


def test_a_run_without_the_sorted_value_comes_last():
    panel = three_runs()
    panel._traces[0].metrics = {}
    panel._view.results.show(panel._traces)
    panel._view.results.sort.value = "validation accuracy"
    for descending in (False, True):
        panel._view.results.descending.value = descending
        assert order(panel)[-1] == 1


def test_two_runs_are_compared_and_the_others_step_back():
    panel = three_runs()
    results = panel._view.results
    results.first.value, results.second.value = 1, 3
    assert "<td>0.2</td><td>0.3</td><td>+0.1</td>" in results.comparison.value
    opacities = [line.opacity for line in panel._charts()[0].lines if not line.plain]
    assert opacities[1] < opacities[0] == opacities[2] == 1


def test_one_run_is_removed_and_numbers_stay():
    panel = three_runs()
    panel._view.results.victim.value = 2
    panel._view.results.remove.click()
    assert list(panel.results.index) == order(panel) == [1, 3]
    panel.run(lr=0.4)
    assert list(panel.results.index) == [1, 3, 4]
    with pytest.raises(ValueError, match="there is no run 2"):
        panel.remove(2)


def test_reset_starts_over():
    panel = three_runs()
    panel._view.reset.click()
    assert panel.results.empty
    assert panel.knobs.values == {"lr": 0.01}
    assert "Ready" in status(panel)
    assert panel.latest is None


def test_run_unlocks_with_a_prediction_that_is_shown_beside_the_result():
    panel = Panel(make_run, ask="Which <lr> wins?", lr=(0.0, 1.0))
    view = panel._view
    assert "Which &lt;lr&gt; wins?" in view.question.value
    view.commit.click()
    assert view.run.disabled and "Write down a prediction first" in status(panel)
    view.guess.value = "0.1"
    view.commit.click()
    assert not view.run.disabled and view.guess.disabled
    press_run(panel)
    finish(panel)
    assert "You predicted: 0.1." in status(panel)
    assert list(panel.results["prediction"]) == ["0.1"]
    view.reset.click()
    assert view.run.disabled and not view.guess.disabled


def test_a_panel_shows_itself_as_a_widget_a_picture_and_a_text():
    panel = Panel(make_run, lr=(0.0, 1.0))
    view = "application/vnd.jupyter.widget-view+json"
    assert set(panel._repr_mimebundle_()) == {view, "text/plain"}
    panel.run()
    bundle = panel._repr_mimebundle_()
    assert bundle[view]["model_id"] == panel._view.root.model_id
    assert bundle["image/png"].startswith("iVBORw0KGgo")
    assert "run 1: done after 20 steps" in bundle["text/plain"]


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_time_left_and_speed_come_from_what_happened():
    trace = Trace(1, {})
    trace.total = 100
    for step in FakeRun():
        trace.append(step, 0.5)
    assert trace.seconds_left == pytest.approx(40)
    assert trace.tokens_per_second == pytest.approx(64_000)


# code


def straight(lr=0.1, steps=20):
    """Made from its arguments.

    And from nothing else.
    """
    factor = 2  # a comment
    return FakeRun(
        lr * factor,
        steps,
    )


def branching(lr=0.1):
    if lr > 1:
        return FakeRun(1)
    return FakeRun(lr)


def generating(lr=0.1):
    yield from FakeRun(lr)


def losses_of(code):
    space = {**globals()}
    exec(code.replace("run.finish()", "seen = list(run)").replace("print(step)", "pass"), space)
    return [step.loss for step in space.get("seen", ())]


@pytest.mark.parametrize("function", [straight, branching])
def test_code_reproduces_the_run(function):
    panel = Panel(function, lr=(0.0, 1.0))
    panel.run(lr=0.3)
    assert losses_of(code_for(function, {"lr": 0.3})) == losses(panel)


def test_code_of_a_plain_function_is_its_body():
    code = code_for(straight, {"lr": 0.3})
    assert code.splitlines()[:4] == ["lr = 0.3", "steps = 20", "factor = 2  # a comment", "run = FakeRun("]
    assert code.endswith(")\nrun.finish()\n")


def test_code_of_anything_else_is_a_call():
    local = 5
    assert code_for(branching, {"lr": 0.3}) == "run = branching(lr=0.3)\nrun.finish()\n"
    assert code_for(generating, {"lr": 0.3}) == "run = generating(lr=0.3)\nfor step in run:\n    print(step)\n"
    assert "run = FakeRun(lr=0.3)" in code_for(FakeRun, {"lr": 0.3})
    assert code_for(lambda lr: FakeRun(lr, local), {"lr": 0.3}) == "run = make_run(lr=0.3)\nrun.finish()\n"


def test_code_follows_the_knobs():
    panel = Panel(straight, lr=(0.0, 1.0))
    panel.knobs["lr"].control.value = 0.7
    assert panel._view.code.value.startswith("lr = 0.7\n")
    assert panel.state in panel._view.code.value


# cells that run again


class Shell:
    "As much of a kernel's shell as tells which cell is running."

    def __init__(self):
        self.count = 0

    def execute(self, code, cell_id=None):
        self.count += 1
        metadata = {"cellId": cell_id} if cell_id else {}
        self.parent = {"content": {"code": code}, "metadata": metadata, "header": {"msg_id": str(self.count)}}

    def get_parent(self):
        return self.parent


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


@pytest.mark.parametrize("cell", ["3f2a", None])
def test_a_cell_that_runs_again_stops_its_old_panels_and_no_others(shell, cell):
    go = threading.Event()

    def waiting(lr=0.1):
        return FakeRun(lr, at={1: lambda: go.wait(PATIENCE)})

    shell.execute("other", "77bb")
    bystander = Panel(waiting, lr=(0.0, 1.0))
    shell.execute("panel = ...", cell)
    old = [Panel(waiting, lr=(0.0, 1.0)) for _ in range(2)]
    for panel in (bystander, *old):
        panel.start()
    shell.execute("panel = ...", cell)
    new = Panel(make_run, lr=(0.0, 1.0))
    go.set()
    for panel in (bystander, *old):
        assert panel.wait(PATIENCE)
    assert [list(p.results["outcome"]) for p in old] == [["stopped"]] * 2
    assert list(bystander.results["outcome"]) == ["done"]
    old[0].start()
    assert len(old[0].results) == 1
    new.run()
    assert list(new.results["outcome"]) == ["done"]


# explore


def picture_of(result, **options):
    return explore(lambda x: result, x=(0.0, 1.0), **options)


def test_explore_draws_again_when_a_knob_moves():
    explorer = explore(lambda t=1.0: {"a": t, "b": 2.0}, t=(0.0, 5.0))
    explorer.knobs["t"].slider.value = 3.0
    assert explorer.result == {"a": 3.0, "b": 2.0}
    assert 'aria-label="a 3, b 2"' in explorer._picture.value


def test_explore_draws_lines_maps_figures_tables_and_texts():
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    lines = picture_of({"f": ([0, 1, 2], [3, 4, 5]), "g": [1, 2, 3]}, xlabel="epoch")
    assert lines._picture.value.count("<polyline") == 2
    assert "f 5 at epoch 2" in lines._picture.value
    assert "data:image/png" in picture_of(np.eye(4))._picture.value
    assert "data:image/png" in picture_of(Figure())._picture.value
    assert "<table" in picture_of(pd.DataFrame({"a": [1]}))._picture.value
    assert "&lt;text" in picture_of("<text")._picture.value


def test_explore_leaves_a_picture_for_pages_without_widgets():
    for result in ({"a": 1.0}, {"f": [1, 2, 3]}):
        assert picture_of(result)._repr_mimebundle_()["image/png"].startswith("iVBORw0KGgo")


def test_explore_says_what_failed():
    explorer = explore(lambda t=1.0: {"a": 1 / t}, t=(0.0, 5.0))
    explorer.set(t=0.0)
    assert "Failed while computing the result: ZeroDivisionError" in explorer._picture.value
    assert "Changed from the start: t=0." in explorer._picture.value
    explorer.set(t=2.0)
    assert "0.5" in explorer._picture.value
