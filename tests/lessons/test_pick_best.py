"""The best of a table is told apart from the others where the seeds allow it, and nowhere else."""

import math

import numpy as np
import pandas as pd
import pytest

from finetune_lessons import optimizers
from finetune_lessons.optimizers import pick_best, standing


def scores(**methods: list[float]) -> pd.DataFrame:
    return pd.DataFrame([{"method": name, "seed": seed, "accuracy": score, "loss": 1 - score}
                         for name, values in methods.items() for seed, score in enumerate(values)])  # fmt: skip


def test_the_best_is_told_apart_where_the_seeds_allow_it():
    pick = pick_best(scores(a=[0.80, 0.82, 0.81], b=[0.84, 0.86, 0.85], c=[0.85, 0.83, 0.86]))
    assert (pick.best, pick.level) == ("b", ("c",))
    assert repr(pick) == "b; not told apart from it: c"
    assert pick.table["told_apart"].to_dict() == {"b": False, "c": False, "a": True}
    assert repr(pick_best(scores(a=[0.80, 0.82], b=[0.84, 0.86]))) == "b; it alone"


def test_a_method_stands_better_level_or_worse_beside_a_base():
    table = scores(a=[0.80, 0.82, 0.81], b=[0.84, 0.86, 0.85], c=[0.85, 0.83, 0.86])
    assert [standing(table, *two) for two in ("ba", "ab", "cb", "bc")] == ["better", "worse", "level", "level"]
    assert [standing(table, *two, "loss") for two in ("ba", "ab")] == ["better", "worse"]


@pytest.mark.parametrize("name", ["ece", "calibration error"])
def test_of_a_calibration_error_the_lowest_is_the_best(name):
    table = scores(a=[0.80, 0.82, 0.81], b=[0.84, 0.86, 0.85]).rename(columns={"loss": name})
    assert pick_best(table, name).best == "b" and standing(table, "b", "a", name) == "better"


def test_seeds_are_pairs():
    luck = np.array([0.70, 0.80, 0.90])
    pick = pick_best(scores(a=list(luck), b=list(luck + [0.010, 0.011, 0.012])))
    assert (pick.best, pick.level) == ("b", ())
    shuffled = scores(a=list(luck), b=list(luck[::-1] + [0.010, 0.011, 0.012]))
    assert pick_best(shuffled).level == ("a",)


def test_of_a_loss_the_lowest_is_the_best():
    table = scores(a=[0.80, 0.82, 0.81], b=[0.84, 0.86, 0.85])
    assert pick_best(table, "loss").best == "b"
    assert (pick_best(table, "loss").table["behind"] >= 0).all()


@pytest.mark.parametrize("seeds", [2, 3, 10, 15])
def test_chance_tells_two_equal_methods_apart_once_in_twenty_times(seeds):
    random, told = np.random.default_rng(seeds), 0
    for _ in range(300):
        luck = random.normal(size=seeds)
        both = {name: list(luck + random.normal(size=seeds)) for name in "ab"}
        told += not pick_best(scores(**both)).level
    assert 4 <= told <= 30


def test_the_quantiles_are_those_of_students_t():
    stats = pytest.importorskip("scipy.stats")
    assert list(optimizers._T95) == [pytest.approx(stats.t.ppf(0.975, n - 1), abs=1e-3) for n in range(2, 11)]


@pytest.mark.parametrize(
    ("table", "metric", "message"),
    [
        (scores(a=[0.8, 0.9]), "f1", "no column f1; the table has method, seed, accuracy, loss"),
        (scores(a=[0.8], b=[0.9]), "accuracy", "at least two"),
        (scores(a=[0.8, 0.9], b=[0.9, 0.8, 0.7]), "accuracy", "the same seeds"),
        (scores(a=[0.8, math.nan], b=[0.9, 0.8]), "accuracy", "a number for each"),
        (pd.concat([scores(a=[0.8, 0.9])] * 2), "accuracy", "same seed twice"),
    ],
)
def test_tables_that_compare_nothing_are_refused(table, metric, message):
    with pytest.raises(ValueError, match=message):
        pick_best(table, metric)
