"""Curves as SVG."""

from hypothesis import example, given
from hypothesis import strategies as st

from finetune_lessons.lab.panel.live_plot import Chart, Line, svg, ticks
from finetune_lessons.lab.panel.traces import Series


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=2000), st.integers(2, 300))
def test_thinning_keeps_the_last_point_and_the_limit(ys, limit):
    series = Series()
    for x, y in enumerate(ys):
        series.add(x, y)
    points = series.thinned(limit)
    assert len(points) <= limit + 1
    assert points[-1] == (len(ys) - 1, ys[-1])
    assert svg(Chart("t", [Line(series)]), 300, 150).count("<svg") == 2


@example(1.0, 400401.0, 2)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_few_and_inside(low, span, about):
    marks = ticks(low, low + span, about)
    assert 2 <= len(marks) <= 2.6 * about + 1
    assert all(low - span * 1e-6 <= mark <= low + span * (1 + 1e-6) for mark in marks)


def test_lines_are_told_apart_without_colour():
    series = Series()
    for x in range(20):
        series.add(x, x)
    drawn = [svg(Chart("t", [Line(series, style)]), 300, 150) for style in range(12)]
    shapes = {
        (text.split("stroke-dasharray=")[1].split('"')[1], text.rsplit('d="', 1)[1].split('"')[0]) for text in drawn
    }
    assert len(shapes) == 12
