"""Knobs: from an abbreviation to a control and its value."""

import ipywidgets as widgets
import pytest
from fake_runs import make_run

from finetune_lessons.lab.panel.knobs import Knobs
from finetune_lessons.lab.panel.panel import LogRange, Panel


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
