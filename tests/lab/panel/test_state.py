"""The settings of a panel as a text."""

import datetime
import functools
import os
import subprocess
import sys

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from fake_runs import FakeRun, make_run
from hypothesis import given
from hypothesis import strategies as st

from finetune_lessons.lab.panel.knobs import Knobs
from finetune_lessons.lab.panel.panel import LogRange, Panel

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


def relu(x):
    return x


ANY_KIND = [None, (0, 5), [1, 2], 1, "1", True, np.float32(0.1), torch.bfloat16, relu, functools.partial(relu, 3),
            object(), frozenset("abc"), "long " * 200, "\ud800"]  # fmt: skip


@pytest.mark.parametrize("value", ANY_KIND, ids=range(len(ANY_KIND)))
def test_state_round_trip_of_choices_of_any_kind(value):
    def any_kind(choice=ANY_KIND[1]):
        return [1.0]

    panel = Panel(any_kind, choice=ANY_KIND)
    panel.knobs.set(choice=value)
    other = Panel.from_state(panel.state, any_kind, choice=ANY_KIND)
    assert other.knobs.values["choice"] is value
    assert other.state == panel.state
    assert len(panel.state) < 300


SCRIPT = """
import functools
import ipywidgets
from finetune_lessons.lab.panel.panel import Panel

def scale(x):
    return x

def make_run(choice=None, own=None, kept=None):
    return [1.0]

choices = [None, 1, scale, functools.partial(scale, 3), object(), frozenset(["a", "b", "c"])]
own = ipywidgets.Dropdown(options=[None, "a"])
panel = Panel(make_run, choice=choices, own=own, kept={"nothing": None, "a": 1})
states = [panel.state]
for value in choices:
    panel.knobs.set(choice=value)
    again = Panel.from_state(panel.state, make_run, choice=choices, own=own, kept={"nothing": None, "a": 1})
    assert again.knobs.values == {"choice": value, "own": None, "kept": None}, again.knobs.values
    states.append(again.state)
try:
    Panel(make_run, help={"b": "", "a": ""}, hide=["d", "c"], choice=choices)
except ValueError as error:
    states.append(str(error))
print(states)
"""


def test_state_is_the_same_in_every_process():
    said = set()
    for seed in range(6):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1
    assert " at 0x" not in said.pop()


def test_a_state_that_gives_a_knob_two_values_is_refused():
    with pytest.raises(ValueError, match="gives a knob two values"):
        Panel.from_state("lr=0.1&lr=0.2", make_run, lr=(0.0, 1.0))


def test_a_value_that_has_no_text_is_shown_all_the_same():
    panel = Panel(lambda day: [1.0], day=widgets.DatePicker(value=datetime.date(2020, 1, 2)))
    assert panel.state == "day=%222020-01-02%22"
    with pytest.raises(ValueError, match="day must be a value such as"):
        panel.knobs.start_from(panel.state)
