"""The panel as a whole, without a browser."""

import math
import re
from types import SimpleNamespace

from fake_runs import FakeRun, make_run, status, three_runs

from finetune_lessons.lab.panel.panel import Panel
from finetune_lessons.lab.panel.results import ALL


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


def test_reset_takes_the_settings_back_and_keeps_the_runs():
    panel = three_runs()
    panel._view.reset.click()
    assert panel.knobs.values == {"lr": 0.01}
    assert list(panel.results.index) == [1, 2, 3]
    assert "Ready, with the settings of the start. 3 runs stay" in status(panel)


def test_all_runs_are_removed_only_on_purpose():
    panel = three_runs()
    panel._view.results.victim.value = ALL
    panel._view.results.remove.click()
    assert panel.results.empty
    assert panel.latest is None
    panel.run()
    assert list(panel.results.index) == [4]


def test_a_page_that_has_lost_its_kernel_can_say_how_far_the_run_was():
    seen = []
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={7: lambda: seen.append(lost_text(panel))}), lr=(0.0, 1.0))
    panel._loop._next_draw = -math.inf
    panel.run()
    assert "restarted or shut down: run 1 ended at step" in seen[0]
    assert "ended at step" not in lost_text(panel) and "Run this cell again" in lost_text(panel)


def lost_text(panel):
    return re.search('<div class="ftl-lost">(.*?)</div>', panel._view.plot.value)[1]


def test_a_panel_shows_itself_as_a_widget_a_picture_and_a_text():
    panel = Panel(make_run, lr=(0.0, 1.0))
    view = "application/vnd.jupyter.widget-view+json"
    assert set(panel._repr_mimebundle_()) == {view, "text/plain"}
    panel.run()
    bundle = panel._repr_mimebundle_()
    assert bundle[view]["model_id"] == panel._view.root.model_id
    assert bundle["image/png"].startswith("iVBORw0KGgo")
    assert "run 1: done after 20 steps" in bundle["text/plain"]


def test_a_panel_whose_curves_hold_no_finite_point_is_shown():
    step = SimpleNamespace(loss=1.0, metrics={"accuracy": math.nan}, lr=math.inf, grad_norm=math.nan)
    panel = Panel(lambda lr=0.1: [step, step], lr=(0.0, 1.0))
    panel.run()
    assert "could not be drawn" not in panel._view.plot.value
    assert panel._repr_mimebundle_()["image/png"].startswith("iVBORw0KGgo")


def test_names_of_functions_stand_in_for_their_addresses():
    panel = Panel(lambda activation: [1.0], activation=[len, abs])
    panel.run()
    assert repr(panel).startswith("Panel: activation=len\n")
    assert "<td>len</td>" in panel._view.results.table.value
