"""The table of methods says what the reference results say."""

import json
import re
from pathlib import Path
from statistics import fmean, stdev

import pytest

from finetune_lessons.lab.reports.which_method import LESSONS, as_markdown, method_table

RESULTS = Path(__file__).parents[3] / "nbs/results"


def runs(file):
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))["runs"]


def test_each_row_is_what_its_lesson_measured():
    table = method_table(RESULTS)
    assert list(table["accuracy"]) == sorted(table["accuracy"], reverse=True)
    assert len(table) == sum(map(len, LESSONS.values()))
    elsewhere = runs("forgetting.json")
    full = {run["seed"]: run["step_ms"] for run in elsewhere if run["method"] == "full fine-tuning"}
    for lesson, names in LESSONS.items():
        for method, name in names.items():
            of, row = [run for run in runs(f"{lesson}.json") if run["method"] == method], table.loc[name]
            assert row["accuracy"] == pytest.approx(fmean(run["accuracy"] for run in of))
            assert row["spread"] == pytest.approx(stdev(run["accuracy"] for run in of))
            assert row["trained share"] == of[0]["trainable"] / of[0]["parameters"]
            if mine := [run for run in elsewhere if run["method"] == name]:
                assert row["probe lost"] == pytest.approx(fmean(run["probe lost"] for run in mine))
                assert row["time"] == pytest.approx(fmean(run["step_ms"] / full[run["seed"]] for run in mine))
            assert bool(mine) == (row["probe lost"] == row["probe lost"])
    assert {run["method"] for run in elsewhere} <= set(table.index)


def test_the_readme_has_the_table():
    table = method_table(RESULTS)
    text = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert as_markdown(table) in text
    for name, row in table.iterrows():
        (line,) = re.findall(rf"^\| {re.escape(name)} \|.*$", text, flags=re.MULTILINE)
        assert f"{row['accuracy']:.3f} ± {row['spread']:.3f}" in line


def test_results_of_another_recipe_are_refused(tmp_path):
    for file in (*(f"{lesson}.json" for lesson in LESSONS), "forgetting.json"):
        (tmp_path / file).write_text((RESULTS / file).read_text(encoding="utf-8"), encoding="utf-8")
    other = json.loads((tmp_path / "22.json").read_text(encoding="utf-8"))
    other["config"]["n_train"] = 500
    (tmp_path / "22.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(ValueError, match=r"22.json is of another recipe"):
        method_table(tmp_path)
