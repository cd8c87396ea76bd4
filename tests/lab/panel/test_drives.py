"""Who trains: a thread, the browser, or the caller."""

import math
import sys
import threading
from types import SimpleNamespace

import pytest
from fake_runs import PATIENCE, FakeRun, both_drives, finish, losses, make_run, press_run, raiser, status

from finetune_lessons.lab.panel import drives
from finetune_lessons.lab.panel.panel import Panel


@both_drives
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


@both_drives
def test_values_that_arrive_after_the_click_count(drive):
    panel = Panel(make_run, drive=drive, lr=(0.0, 1.0))
    panel._view.run.click()
    panel.knobs["lr"].control.value = 0.25
    panel._view.play.value += 1
    finish(panel)
    assert list(panel.results["lr"]) == [0.25]


@both_drives
def test_a_click_on_run_right_after_a_prediction_counts_too(drive):
    panel = Panel(make_run, drive=drive, ask="Which one?", lr=(0.0, 1.0))
    panel.run(lr=0.1)
    panel._view.prediction.text.value = "lower"
    panel._view.prediction.commit.click()
    panel._view.run.click()
    panel._view.play.value += 1
    finish(panel)
    assert len(panel.results) == 2 and "You predicted: lower." in status(panel)


def test_a_click_without_an_answer_of_the_browser_starts_all_the_same(monkeypatch):
    monkeypatch.setattr(drives, "PATIENCE", 0)
    started = threading.Event()

    def noticed(lr=0.1):
        started.set()
        return FakeRun(lr)

    panel = Panel(noticed, drive="thread", lr=(0.0, 1.0))
    panel._view.run.click()
    assert started.wait(PATIENCE) and panel.wait(PATIENCE)
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
