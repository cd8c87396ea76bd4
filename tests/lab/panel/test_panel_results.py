"""The table of runs."""

import re

import pytest
from fake_runs import make_run, three_runs

from finetune_lessons.lab.panel.charts import charts_of
from finetune_lessons.lab.panel.panel import Panel


def order(panel):
    return [int(n) for n in re.findall(r"</svg> run (\d+)</th>", panel._view.results.table.value)]


def test_table_sorts_by_any_column_in_both_directions():
    panel = three_runs()
    results = panel._view.results
    assert order(panel) == [1, 2, 3]
    results.sort.value = "lr"
    assert order(panel) == [2, 1, 3]
    results.descending.value = True
    assert order(panel) == [3, 1, 2]
    results.sort.value = "loss"
    assert order(panel) == [2, 1, 3]


def test_a_run_without_the_sorted_value_comes_last():
    panel = three_runs()
    panel._traces[0].metrics = {}
    panel._view.results.show(panel._traces)
    panel._view.results.sort.value = "validation accuracy"
    for descending in (False, True):
        panel._view.results.descending.value = descending
        assert order(panel)[-1] == 1


def test_two_runs_are_compared_and_the_others_step_back():
    panel = three_runs()
    results = panel._view.results
    results.first.value, results.second.value = 1, 3
    assert "<td>0.2</td><td>0.3</td><td>+0.1</td>" in results.comparison.value
    opacities = [
        line.opacity for line in charts_of(panel._traces, panel._view.results.picked)[0].lines if not line.plain
    ]
    assert opacities[1] < opacities[0] == opacities[2] == 1


def test_one_run_is_removed_and_numbers_stay():
    panel = three_runs()
    panel._view.results.victim.value = 2
    panel._view.results.remove.click()
    assert list(panel.results.index) == order(panel) == [1, 3]
    panel.run(lr=0.4)
    assert list(panel.results.index) == [1, 3, 4]
    with pytest.raises(ValueError, match="there is no run 2"):
        panel.remove(2)


def test_the_table_leaves_out_what_all_runs_share_and_says_it_below():
    panel = Panel(make_run, lr=(0.0, 1.0), steps=[20, 30])
    panel.run(lr=0.1)
    assert '<th scope="col">steps</th>' in panel._view.results.table.value
    panel.run(lr=0.2)
    table = panel._view.results.table.value
    assert '<th scope="col">lr</th>' in table and '<th scope="col">steps</th>' not in table
    assert "The same in all runs: steps=20." in table
