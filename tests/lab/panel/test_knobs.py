"""Knobs: from an abbreviation to a control and its value."""

import math

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from fake_runs import FakeRun, make_run

from finetune_lessons.lab.panel.knobs import Knobs
from finetune_lessons.lab.panel.panel import LogRange, Panel


@pytest.mark.parametrize(
    ("spec", "control", "slider", "value"),
    [
        (LogRange(1e-5, 1e-1, start=1e-3), widgets.FloatText, widgets.FloatLogSlider, 1e-3),
        (LogRange(1e-4, 1e-2), widgets.FloatText, widgets.FloatLogSlider, 1e-3),
        ((1, 5), widgets.FloatText, widgets.IntSlider, 3),
        ((0, 64, 8), widgets.FloatText, widgets.IntSlider, 32),
        ((0.0, 0.5), widgets.FloatText, widgets.FloatSlider, 0.25),
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
    assert shown == [widgets.FloatText]
    assert panel.knobs["lr"].control.disabled and panel.knobs["lr"].slider.disabled
    assert len(panel.run()) == 20
    with pytest.raises(ValueError, match="there is no knob 'r'"):
        Panel(make_run, hide=["r"], lr=(0.0, 1.0))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ((5, 1), "the lower one first"),
        ((0.5, 0.5), "the lower one first"),
        ((0.0, math.nan), "two finite numbers"),
        ((-math.inf, 1.0), "two finite numbers"),
        ((0, 10**400), "two finite numbers"),
        ((0.0, 1.0, 5.0), "has the step 5.0: expected one above 0, up to 1"),
        ((0, 10, 0), "has the step 0: expected one above 0, up to 10"),
        ((0.0, 1.0, math.nan), "has the step nan"),
        ((False, True), "is not a knob"),
        ([], "has nothing to choose from"),
        ({}, "has nothing to choose from"),
        (math.nan, "is not a knob"),
        ({"a", "b"}, "a set, whose order changes"),
    ],
)
def test_a_knob_that_leaves_nothing_to_turn_is_refused_by_name(spec, said):
    with pytest.raises(ValueError, match=f"^size.*{said}"):
        Knobs(lambda size: None, {"size": spec})


@pytest.mark.parametrize(
    "arguments", [(1e-5, math.inf), (math.nan, 1), ("1e-5", 1), (1e-5, 1, math.nan), (1e-5, 1, "a")]
)
def test_log_range_refuses_what_is_no_finite_number(arguments):
    with pytest.raises(ValueError, match="LogRange"):
        LogRange(*arguments)


@pytest.mark.parametrize("default", [None, "high", math.nan, 5.0])
@pytest.mark.parametrize("spec", [LogRange(1e-5, 1), (0.0, 1.0), [0.1, 0.2], {"small": 0.1}, np.array([0.1, 0.2])])
def test_a_default_of_any_kind_that_the_knob_does_not_reach_is_refused(spec, default):
    def function(lr=default):
        pass

    with pytest.raises(ValueError, match="^lr must be .*; given: .*, the default of the parameter"):
        Knobs(function, {"lr": spec})


NOT_TEXTS = [None, (0, 5), (1, 4), 1, True, 1.0, "1", np.float32(0.1), torch.float32, torch.relu, len, np.arange(2), []]


def test_choices_of_any_kind_keep_their_values_and_types():
    knob = Knobs(lambda x: None, {"x": NOT_TEXTS})["x"]
    for value in NOT_TEXTS:
        knob.set(value)
        assert knob.value is value
    with pytest.raises(ValueError, match="x must be one of None, .*; given: 'none'"):
        knob.set("none")


def test_pairs_of_numbers_are_choices_and_pairs_with_a_text_are_labelled():
    assert Knobs(lambda x: None, {"x": [(0, 5), (1, 4)]})["x"].value == (0, 5)
    assert Knobs(lambda x: None, {"x": [("top", 5), ("all", 4)]})["x"].value == 5


def test_labels_are_short_and_each_is_there_once():
    labels = Knobs(lambda x: None, {"x": [1, "1", "a" * 500, "a" * 501]})["x"].control._options_labels
    assert len(set(labels)) == 4
    assert max(map(len, labels)) < 70


def test_a_refused_value_leaves_the_control_as_it_was():
    knob = Knobs(lambda lr: None, {"lr": (0.0, 1.0)})["lr"]
    for value in (5.0, math.nan, "high"):
        with pytest.raises(ValueError, match="lr must be a number from 0 to 1"):
            knob.set(value)
        assert knob.value == knob.slider.value == 0.5


@pytest.mark.parametrize("name", ["hide", "lock"])
def test_one_text_in_place_of_names_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name}='lr' is one text: expected a list .* \['lr'\]"):
        Panel(make_run, lr=(0.0, 1.0), **{name: "lr"})


def test_a_parameter_that_has_the_name_of_an_option_is_refused():
    def locked(lr=0.1, lock=3):
        return FakeRun(lr)

    with pytest.raises(ValueError, match="locked has a parameter 'lock', which is an option of the panel"):
        Panel(locked, lr=(0.0, 1.0), lock=[1, 2, 3])
    assert len(Panel(locked, lr=(0.0, 1.0)).run()) == 20


def test_only_parameters_that_take_a_name_can_be_knobs():
    def by_position(lr, /):
        pass

    def variadic(*lr):
        pass

    with pytest.raises(TypeError, match="by_position takes lr by position"):
        Knobs(by_position, {"lr": (0.0, 1.0)})
    with pytest.raises(TypeError, match="variadic has no parameter lr"):
        Knobs(variadic, {"lr": (0.0, 1.0)})
    assert Knobs(lambda *, lr=0.2: lr, {"lr": (0.0, 1.0)}).values == {"lr": 0.2}
    assert Knobs(lambda **others: others, {"lr": (0.0, 1.0)}).values == {"lr": 0.5}


def test_a_run_in_place_of_a_function_is_refused():
    with pytest.raises(ValueError, match="expected a function of the knobs, not what it returns"):
        Panel(FakeRun(), lr=(0.0, 1.0))


@pytest.mark.parametrize(
    ("spec", "asked", "taken", "said"),
    [
        (LogRange(1e-5, 0.1), 1e9, 0.1, "0.1 is the highest here; 1e+09 was asked."),
        (LogRange(1e-5, 0.1), 0.0, 1e-5, "1e-05 is the lowest here; 0 was asked."),
        ((-6.0, 6.0), 100.0, 6.0, "6 is the highest here; 100 was asked."),
        ((1, 5), 7.0, 5, "5 is the highest here; 7 was asked."),
        ((1, 5), 2.6, 3, "Whole numbers only: 3 is taken for 2.6."),
    ],
)
def test_a_number_that_is_typed_out_of_reach_is_taken_to_the_nearest_one_and_said(spec, asked, taken, said):
    knob = Knobs(lambda x: None, {"x": spec})["x"]
    changes = []
    knob.changed = lambda: changes.append(knob.value)
    note = knob.card().children[1]
    knob.control.value = asked
    assert knob.value == knob.slider.value == taken and type(knob.value) is type(taken)
    assert said in note.value and 'role="alert"' in note.value
    assert changes == [taken]
    knob.control.value = 2
    assert "alert" not in note.value or spec == LogRange(1e-5, 0.1)


def test_what_a_knob_reaches_is_shown():
    knobs = Knobs(lambda lr, epochs, r: None, {"lr": LogRange(1e-5, 0.1), "epochs": (1, 5), "r": [1, 2]})
    notes = [knob.card().children[1].value for knob in knobs]
    assert "1e-05 to 0.1" in notes[0] and "1 to 5 passes" in notes[1]


def test_whole_numbers_stay_whole():
    knob = Knobs(lambda epochs: None, {"epochs": (1, 5)})["epochs"]
    for value in (2, 2.0, np.int64(4)):
        knob.set(value)
        assert type(knob.value) is int
    with pytest.raises(ValueError, match="epochs must be a number from 1 to 5"):
        knob.set(2.5)
