"""Which curves are drawn, and how."""

from finetune_lessons.lab.panel.charts import charts_of
from finetune_lessons.lab.panel.panel import Panel


def test_a_run_that_diverges_does_not_flatten_the_others():
    panel = Panel(lambda up=False: [1.0 + i * (1e6 if up else -0.01) for i in range(50)], up=False)
    panel.run(up=False)
    panel.run(up=True)
    assert charts_of(panel._traces)[0].limits[3] < 10
    assert "run 2 ↑" in panel._view.plot.value
