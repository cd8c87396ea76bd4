"""Runs like an earlier one, and what is kept of that one."""

import gc
import weakref
from pathlib import Path

import pytest
from fake_runs import PATIENCE, losses, make_run, status
from tiny import classification, same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, weights

from finetune_lessons.lab.panel import last_steps
from finetune_lessons.lab.panel.panel import LogRange, Panel
from finetune_lessons.lab.training.run import Run


def small_run(lr=1e-3, batch_size=16, epochs=2, hidden_size=32, loss=classification):
    model = tiny_model("bert", hidden_size=hidden_size)
    return tiny_run(model, lr=lr, batch_size=batch_size, epochs=epochs, loss=loss)


def small_panel():
    return Panel(small_run, lr=LogRange(1e-5, 1.0), batch_size=[8, 16], epochs=(1, 5), hidden_size=[32, 64])


def test_a_run_like_another_has_its_settings_but_for_the_change():
    panel = Panel(make_run, lr=(0.0, 1.0), steps=[20, 30])
    panel.run(lr=0.2, steps=30)
    panel.run(lr=0.3, steps=20)
    panel.run_like(1, lr=0.5)
    assert list(panel.results["lr"]) == [0.2, 0.3, 0.5]
    assert list(panel.results["steps"]) == [30, 20, 30]
    assert panel.results["like"].fillna("").tolist() == ["", "", "run 1, but lr=0.5"]
    panel.run()
    assert panel.results["like"].fillna("").tolist()[-1] == ""


def test_choosing_a_run_to_be_like_sets_the_knobs():
    panel = Panel(make_run, lr=(0.0, 1.0))
    panel.run(lr=0.2)
    panel.run(lr=0.3)
    panel._view.like.run.value = 1
    assert panel.knobs.values == {"lr": 0.2}
    assert "The settings of run 1. Change one, then Run." in status(panel)
    with pytest.raises(ValueError, match="there is no run 7"):
        panel.run_like(7)


def test_the_change_stays_in_the_knobs_when_the_run_has_begun():
    panel = Panel(make_run, lr=(0.0, 1.0))
    panel.run(lr=0.2)
    panel._view.like.run.value = 1
    panel.knobs.set(lr=0.5)
    for _ in range(2):
        panel.start()
        assert panel.wait(PATIENCE)
        assert panel.knobs.values == {"lr": 0.5}
    assert panel.results["like"].fillna("").tolist() == ["", *["run 1, but lr=0.5"] * 2]


def test_a_run_from_the_last_step_goes_on_with_the_same_curve_where_nothing_is_changed():
    whole = small_run(epochs=4)
    loss = stopping_after(5, lambda: panel)
    panel = Panel(lambda epochs=4: small_run(epochs=epochs, loss=loss), epochs=(1, 5))
    panel.run()
    assert panel._traces[0].steps == 5
    again = panel.run_like(1, from_last_step=True)
    for _ in whole:
        pass
    assert [step.loss for step in again.steps] == [step.loss for step in whole.steps]
    assert same_bits(weights(again.model), weights(whole.model))
    trace = panel._traces[1]
    assert (trace.first, trace.steps) == (5, len(whole) - 5)
    assert trace.series["loss"].xs[0] == 6
    assert panel.results["like"].iloc[1] == "run 1, from its last step"


def stopping_after(steps, panel):
    "A loss during whose last call the Stop button is pressed."
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == steps:
            panel().stop()
        return classification(model, batch)

    return loss


def test_a_change_counts_from_the_last_step_on_and_a_run_at_its_end_gets_as_many_epochs_again():
    panel = small_panel()
    first = weights(panel.run(epochs=2).model)
    steps = panel._traces[0].steps
    panel.run(lr=1e-2)
    run = panel.run_like(1, from_last_step=True, lr=1e-5)
    assert (run.index, panel._traces[2].first) == (2 * steps, steps)
    assert max(step.lr for step in run.steps[steps:]) <= 1e-5
    assert run.lr == 1e-5
    moved = max(float((a - first[name]).abs().max()) for name, a in weights(run.model).items())
    assert 0 < moved < 1e-3


def test_a_change_that_does_not_fit_the_last_step_is_refused_in_a_sentence_and_the_panel_stays_usable():
    panel = small_panel()
    panel.run()
    with pytest.raises(ValueError, match="cannot go on from run 1: the model given is not the one"):
        panel.run_like(1, from_last_step=True, hidden_size=64)
    assert "Begin from the start instead" in status(panel)
    panel.run_like(1, hidden_size=64)
    assert list(panel.results["outcome"]) == ["done", "failed", "done"]


def test_what_cannot_be_kept_is_said_when_it_is_asked_for(monkeypatch):
    panel = Panel(make_run, lr=(0.0, 1.0))
    panel.run()
    with pytest.raises(ValueError, match="the last step of run 1 is not kept: it is no Run"):
        panel.run_like(1, from_last_step=True)
    monkeypatch.setattr(last_steps, "ROOM", 1)
    panel = small_panel()
    for _ in range(3):
        panel.run()
    with pytest.raises(ValueError, match="the last step of run 1 is not kept: only the newest"):
        panel.run_like(1, from_last_step=True)


def test_only_the_last_run_is_held_in_memory():
    alive = weakref.WeakSet()

    def watched(lr=1e-3):
        run = Run(tiny_model("bert"), tiny_tokenizer(), tiny_data(), loss=classification, lr=lr, epochs=1)
        alive.add(run.model)
        return run

    panel = Panel(watched, lr=LogRange(1e-5, 1.0))
    for _ in range(3):
        panel.start()
        assert panel.wait(PATIENCE)
    gc.collect()
    assert len(alive) == 1
    panel.remove(3)
    gc.collect()
    assert not alive
    assert all(losses(panel, i) for i in range(2))


def test_a_run_that_was_removed_leaves_no_file():
    panel = small_panel()
    panel.run()
    panel.run()
    folder = Path(panel._loop._kept._folder.name)
    assert len(list(folder.iterdir())) == 1
    panel.remove(1)
    assert not list(folder.iterdir())
