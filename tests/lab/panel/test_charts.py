"""Which curves are drawn, and how."""

from types import SimpleNamespace

import pytest

from finetune_lessons.lab.panel.charts import charts_of
from finetune_lessons.lab.panel.live_plot import png, svg
from finetune_lessons.lab.panel.panel import Panel


def test_a_run_that_diverges_does_not_flatten_the_others():
    panel = Panel(lambda up=False: [1.0 + i * (1e6 if up else -0.01) for i in range(50)], up=False)
    panel.run(up=False)
    panel.run(up=True)
    assert charts_of(panel._traces)[0].limits[3] < 10
    assert "run 2 ↑" in panel._view.plot.value


def diverging(lr=0.1, peak=0.0):
    "Losses that rise to `peak` for a while and come back."
    return [SimpleNamespace(loss=1.0 + (peak if 10 <= i < 40 else 0), lr=lr, grad_norm=1.0 + peak) for i in range(60)]


def test_a_curve_above_the_picture_runs_along_its_edge_with_a_mark_that_says_how_high():
    panel = Panel(diverging, peak=[0.0, 50.0])
    panel.run()
    panel.run(peak=50.0)
    main = charts_of(panel._traces)[0]
    top = main.limits[3]
    drawn = svg(main, 606, 306)
    assert "run 2 up to" in drawn and "left the picture, up to" in drawn
    ys = [float(pair.split(",")[1]) for pair in drawn.split('points="')[-1].split('"')[0].split()]
    assert max(ys) == pytest.approx(top, rel=1e-4) and ys.count(max(ys)) > 20
    assert drawn.count('class="ftl-peak"') == 1
    assert png([main])


def test_the_learning_rates_of_all_runs_are_drawn():
    panel = Panel(diverging, lr=[0.1, 0.2])
    panel.run()
    panel.run(lr=0.2)
    (rates,) = (chart for chart in charts_of(panel._traces) if chart.title == "learning rate")
    assert [line.series.ys[0] for line in rates.lines] == [0.1, 0.2]


def test_a_comparison_does_not_fade_the_newest_run():
    panel = Panel(diverging, lr=[0.1, 0.2])
    for _ in range(4):
        panel.run()
    opacities = [line.opacity for line in charts_of(panel._traces, [1, 2])[0].lines if not line.plain]
    assert opacities == [1.0, 1.0, 0.3, 1.0]


def test_parts_of_a_kind_share_a_chart_and_are_named_at_their_ends():
    parts = {"topic": 0.5, "domain": 0.4, "weight of topic": 1.0, "weight of domain": 0.9}
    panel = Panel(lambda lr=0.1: [SimpleNamespace(loss=1.0, parts=parts)] * 3, lr=(0.0, 1.0))
    panel.run()
    by_title = {chart.title: [line.label for line in chart.lines] for chart in charts_of(panel._traces)}
    assert by_title["parts of the loss"] == by_title["weight of ..."] == ["topic", "domain"]
    panel.run()
    by_title = {chart.title: chart for chart in charts_of(panel._traces, [1, 2])}
    assert [line.label for line in by_title["weight of ..."].lines] == ["topic 1", "domain 1", "topic 2", "domain 2"]


@pytest.mark.parametrize(("metric", "spans"), [("accuracy", 0.1), ("loss", 0.0)])
def test_two_validations_that_hardly_differ_look_alike(metric, spans):
    steps = [SimpleNamespace(loss=1.0, metrics={metric: 0.65 + i / 100}) for i in range(2)]
    panel = Panel(lambda lr=0.1: steps, lr=(0.0, 1.0))
    panel.run()
    (chart,) = (chart for chart in charts_of(panel._traces) if chart.title == f"validation {metric}")
    assert chart.limits[3] - chart.limits[2] == pytest.approx(max(spans, 0.0112))
