"""The settings of a panel as a text."""

import pytest
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
