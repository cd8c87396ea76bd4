"""Runs without a model, and what a person does at a panel and reads there."""

import math
from types import SimpleNamespace

import pytest

from finetune_lessons.lab.panel.panel import Panel

PATIENCE = 30  # seconds
both_drives = pytest.mark.parametrize("drive", ["thread", "pump"])


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


def raiser(error):
    def throw():
        raise error

    return throw


def press_run(panel):
    "Click, and the browser's answer to it."
    panel._view.run.click()
    panel._view.play.value += 1


def finish(panel):
    "Let the panel train to the end as its drive does it."
    if panel.drive == "pump":
        while panel._view.ticking:
            panel._view.play.value += 1
    else:
        assert panel.wait(PATIENCE)


def three_runs():
    panel = Panel(make_run, lr=(0.0, 1.0))
    for lr in (0.2, 0.1, 0.3):
        panel.run(lr=lr)
    return panel
