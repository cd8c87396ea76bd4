"""`explore`: a result that is drawn again when a knob moves."""

import html
import math
import re

import numpy as np
import pytest
import torch

from finetune_lessons.lab.panel.explorer import explore


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
        data, _ = picture_of(result)._repr_mimebundle_()
        assert data["image/png"].startswith("iVBORw0KGgo")


def test_a_figure_has_words_live_and_saved():
    from finetune_lessons.lab.reports.plots import new_figure

    def bars(t=1.0):
        figure, (ax,) = new_figure()
        ax.bar(["prompt", 'a "text"'], [t, 2])
        ax.set_title("Attention")
        return figure

    explorer = explore(bars, t=(0.0, 5.0))
    said = 'Attention: bars: prompt 1, a "text" 2.'
    assert f'<img alt="{html.escape(said)}"' in explorer._picture.value
    assert explorer._repr_mimebundle_()[1] == {"image/png": {"alt": f"explore bars: t=1\n{said}"}}
    explorer.set(t=3.0)
    assert "prompt 3, a " in explorer._picture.value


def test_explore_says_what_failed():
    explorer = explore(lambda t=1.0: {"a": 1 / t}, t=(0.0, 5.0))
    explorer.set(t=0.0)
    assert "Failed while computing the result: ZeroDivisionError" in explorer._picture.value
    assert "Changed from the start: t=0." in explorer._picture.value
    explorer.set(t=2.0)
    assert "0.5" in explorer._picture.value


UNLIKE = [
    ({"a": 1.0, "b": [1, 2]}, "numbers only, for bars, or curves only, for lines; given: a: a number, b: a curve"),
    ({"a": ([0, 1, 2], [3, 4])}, "a has 3 values of x and 2 of y"),
    ({"a": np.eye(2)}, "a must be a number or a sequence of numbers; given:"),
    ({"a": "text"}, r"a must be a number or a sequence of numbers; given: text \(str\)"),
    ({"a": None}, "a must be a number or a sequence of numbers; given: None"),
    ({"a": {"b": 1}}, "a must be a number or a sequence of numbers"),
    ({"a": ["x", "y"]}, "a must be a sequence of numbers; it holds 0, x"),
    ({}, "an empty dict: expected numbers, or curves, by name"),
    ({"a": [], "b": []}, "no finite point to draw in a, b"),
    ({"a": [math.nan, math.inf]}, "no finite point to draw in a"),
    ({"a": ([math.nan], [1.0])}, "no finite point to draw in a"),
    ({"a": math.nan, "b": math.inf}, "no finite number to draw; given: a=nan, b=inf"),
    (np.zeros((0, 3)), "a matrix of 0 by 3 with no values"),
    (np.full((2, 2), math.nan), "a matrix of 2 by 2 with no finite value"),
]


@pytest.mark.parametrize(("result", "said"), UNLIKE)
def test_what_makes_no_picture_is_said_and_the_explorer_stays_alive(result, said):
    explorer = explore(lambda bad=True: result if bad else {"c": 2.0}, bad=True)
    text = html.unescape(explorer._picture.value)
    assert re.search(f"Failed while drawing the result: .*{said}", text)
    assert set(explorer._repr_mimebundle_()[0]) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    explorer.set(bad=False)
    assert "c 2" in explorer._picture.value
    assert explorer._repr_mimebundle_()[0]["image/png"].startswith("iVBORw0KGgo")


def test_curves_may_change_their_names_and_kinds_between_calls():
    results = [{"a": [1, 2]}, {"b": [1, 2, 3], "c": ([0, 1], [5, 6])}, {"d": 1.0}, np.eye(2), {"a": (1.0, 2.0, 3.0)}]
    explorer = explore(lambda i=0: results[i], i=range(len(results)))
    for i, words in enumerate(["a 2 at x 1", "c 6 at x 1", "d 1", "map of 2 by 2", "a 3 at x 2"]):
        explorer.set(i=i)
        assert words in explorer._picture.value


def test_what_is_not_finite_is_left_out_and_named():
    assert "Not drawn, for lack of a finite point: b." in picture_of({"a": [1, 2], "b": [math.nan]})._picture.value
    bars = picture_of({"a": 1.0, "b": math.inf, "c": math.nan})
    assert 'aria-label="a 1, b inf, c nan"' in bars._picture.value
    assert 'width="nan"' not in bars._picture.value and 'width="inf"' not in bars._picture.value
    assert bars._repr_mimebundle_()[0]["image/png"]
    assert "from 0 (dark) to 1 (bright)" in picture_of(np.array([[0, 1], [math.nan, math.inf]]))._picture.value


def test_tensors_are_drawn_whatever_they_are():
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.eye(3, dtype=dtype, requires_grad=True)
        assert "map of 3 by 3" in picture_of(weight)._picture.value
        assert "<polyline" in picture_of({"row": weight[0]})._picture.value
        assert "<rect" in picture_of({"sum": weight.sum()})._picture.value


def test_explore_of_an_answer_that_failed_before_the_first_one_is_shown():
    explorer = explore(lambda t=1.0: {"a": 1 / (t - 1)}, t=(0.0, 5.0))
    assert explorer.result is None
    assert set(explorer._repr_mimebundle_()[0]) == {"application/vnd.jupyter.widget-view+json", "text/plain"}


def bar(explorer, name):
    "The left end and the length of a bar, and where the zero of its axis is, in pixels."
    drawn = explorer._picture.value
    before, after = drawn.split(f">{name}</text>")
    zero = float(re.findall(r'ftl-zero" x1="([\d.]+)"', before)[-1])
    left, length = re.match(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', after).groups()
    return float(left), float(length), zero


def test_each_unit_has_an_axis_of_its_own():
    explorer = explore(lambda x=12.0: {"loss, nats": x, "p of a, probability": 0.5}, x=(0.0, 20.0))
    assert explorer._picture.value.count("ftl-zero") == 2
    assert ">nats</text>" in explorer._picture.value and ">probability</text>" in explorer._picture.value
    _, long, _ = bar(explorer, "loss")
    _, half, _ = bar(explorer, "p of a")
    assert half > 150 and long < 1.5 * half
    assert explorer._repr_mimebundle_()[0]["image/png"]
    curves = picture_of({"loss, nats": [1, 2], "p, probability": [0, 1]})._picture.value
    assert curves.count('class="ftl-title"') == 2 and "loss 2 at x 1" in curves


def test_zero_stays_where_it_is_and_a_bar_that_grows_looks_longer():
    explorer = explore(lambda x=0.5: {"pull": x, "other": -0.3}, x=(-3.0, 3.0))
    places, lengths = [], []
    for x in (0.1, 0.9, 1.5, 3.0):
        explorer.set(x=x)
        _, length, zero = bar(explorer, "pull")
        places.append(zero)
        lengths.append(length / (3.0 if x > 2 else 1))
    explorer.set(x=-3.0)
    left, length, zero = bar(explorer, "pull")
    assert {*places, zero} == {places[0]}
    assert left + length == pytest.approx(zero, abs=0.2)
    explorer.set(x=1.5)
    assert bar(explorer, "pull")[1] < length
    explorer.set(x=-1.0)
    assert bar(explorer, "pull")[1] < length
