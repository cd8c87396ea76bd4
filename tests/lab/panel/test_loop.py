"""One run at a time: stopped, gone on with, failed."""

import html
import math
import re
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_runs import PATIENCE, FakeRun, both_drives, finish, losses, raiser, status

from finetune_lessons.lab.panel.loop import REDRAW_EVERY
from finetune_lessons.lab.panel.panel import Panel


@both_drives
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


@both_drives
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


@both_drives
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


@both_drives
def test_an_error_in_make_run_becomes_a_sentence_and_the_panel_stays_usable(drive):
    def picky(r=3, lr=0.1):
        if r == 3:
            raise ValueError("r must be even")
        return FakeRun(lr)

    panel = Panel(picky, drive=drive, r=[3, 4], lr=(0.0, 1.0))
    failed(panel, drive, "Failed while building the run: r must be even. Named in the message: r=3.")
    panel.run(r=4)
    assert list(panel.results["outcome"]) == ["failed", "done"]


@both_drives
def test_an_error_in_a_step_names_the_step_and_the_changed_knobs(drive):
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={4: raiser(KeyError("label"))}), drive=drive, lr=(0.0, 1.0))
    panel.knobs.set(lr=0.7)
    failed(panel, drive, "training step 4: KeyError:", "Changed from the start: lr=0.7.")
    assert len(losses(panel)) == 4


@both_drives
def test_a_loss_that_is_not_finite_is_a_failure_with_advice(drive):
    panel = Panel(lambda lr=0.5: iter([1.0, 0.5, math.nan, 0.1]), drive=drive, lr=(0.0, 1.0))
    failed(panel, drive, "the loss is nan at step 2", "Try a smaller learning rate than 0.5.")
    assert losses(panel) == [1.0, 0.5]


@both_drives
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


def test_ten_thousand_steps_are_drawn_in_bounded_number_and_size(monkeypatch):
    now = [0.0]

    def ticking(lr=0.1, steps=10_000):
        for i in range(steps):
            now[0] += 0.001
            yield 1 / (1 + i)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    sizes = []
    panel = Panel(ticking, lr=(0.0, 1.0))
    panel._view.plot.observe(lambda change: sizes.append(len(change["new"])), "value")
    panel.run()
    assert len(sizes) <= 10 / REDRAW_EVERY + 3
    assert max(sizes) < 20_000


@both_drives
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, r"it returned None \(NoneType\). Does the function end without `return`\?"),
        (3, r"must return a Run, .*; it returned 3 \(int\)"),
        ("text", r"it returned text \(str\)"),
        ({"loss": 1.0}, "must return a Run"),
        ([(1.0, 0.5)], r"the loss must be one number; given: tuple \(1.0, 0.5\)"),
        ([torch.ones(2)], "the loss must be one number; given: Tensor"),
        ([SimpleNamespace(loss=1.0, metrics={"report": "good"})], "validation report must be one number; given: str"),
    ],
)
def test_what_is_no_run_is_said_and_the_panel_stays_usable(made, said, drive):
    results = [made]
    panel = Panel(lambda lr=0.1: results.pop() if results else FakeRun(lr), drive=drive, lr=(0.0, 1.0))
    failed(panel, drive)
    assert re.search(said, html.unescape(status(panel)))
    panel.run()
    assert list(panel.results["outcome"]) == ["failed", "done"]


@both_drives
def test_a_run_that_cannot_tell_its_length_is_trained(drive):
    class Endless:
        def __len__(self):
            raise TypeError("object of type 'IterableDataset' has no len()")

        def __iter__(self):
            return iter([1.0, 0.5])

    panel = Panel(lambda lr=0.1: Endless(), drive=drive, lr=(0.0, 1.0))
    panel.start()
    finish(panel)
    assert "Run 1 is done after 2 steps" in status(panel)


def test_a_run_without_steps_has_no_loss():
    panel = Panel(lambda lr=0.1: [], lr=(0.0, 1.0))
    panel.run()
    assert "Run 1 is done after 0 steps: it gave none." in status(panel)


@both_drives
def test_a_function_that_exits_ends_its_run_only(drive):
    panel = Panel(lambda lr=0.1: sys.exit(2), drive=drive, lr=(0.0, 1.0))
    failed(panel, drive, "SystemExit: 2")


@both_drives
@pytest.mark.parametrize("lr", ["1e-3", None, (0.1, 0.2)])
def test_advice_on_a_learning_rate_that_is_no_number(lr, drive):
    panel = Panel(lambda lr: [1.0, math.nan], drive=drive, lr=[lr, 0.1])
    failed(panel, drive, "the loss is nan at step 1", "Try a smaller learning rate than")


@both_drives
@pytest.mark.parametrize("name", ["seconds", "run", "loss", "outcome", "prediction", "validation accuracy"])
@pytest.mark.parametrize("choices", [["fast", "slow"], [np.arange(2), np.arange(3)], [None, len]])
def test_knobs_of_any_name_and_kind_are_trained_and_listed(name, choices, drive):
    panel = Panel(lambda **values: FakeRun(), drive=drive, **{name: choices})
    for choice in choices:
        panel.knobs.set(**{name: choice})
        panel.start()
        finish(panel)
    view = panel._view.results
    for column in panel.results:
        view.sort.value = column
    view.first.value, view.second.value = 1, 2
    assert list(panel.results.index) == [1, 2]
    column = "run (knob)" if name == "run" else name
    assert all(trace.row()[column] is choice for trace, choice in zip(panel._traces, choices, strict=True))
    assert f'<th scope="row">{column}</th>' in view.comparison.value
