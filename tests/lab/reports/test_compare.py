"""A table that adds up and survives its file."""

import json
import multiprocessing
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_data, tiny_model, tiny_run

from finetune_lessons.lab.reports.compare import compare, load_results, save_results, summary
from finetune_lessons.lab.training import processor

pytestmark = pytest.mark.usefixtures("one_thread")


def make_run(seed, freeze=False):
    model = tiny_model("bert", seed=seed)
    model.bert.requires_grad_(not freeze)
    return tiny_run(model, tiny_data(32), seed=seed, epochs=1, eval_every=1)


METHODS = {"full": make_run, "head only": partial(make_run, freeze=True)}


@pytest.fixture(scope="module")
def table():
    torch.set_num_threads(1)
    return compare(METHODS, seeds=(0, 1, 2), split="test")


def test_one_row_a_run_with_all_that_was_measured(table):
    metrics, costs = ["accuracy", "precision", "recall", "f1", "loss"], ["seconds", "memory_mb"]
    assert list(table.columns) == ["method", "seed", *metrics, *costs, "trainable", "parameters"]
    assert sorted(zip(table["method"], table["seed"], strict=True)) == [(m, s) for m in METHODS for s in range(3)]
    full, head = tiny_model("bert").num_parameters(), 32 * 2 + 2
    assert set(table["parameters"]) == {full}
    assert set(table.loc[table["method"] == "head only", "trainable"]) == {head}
    assert set(table.loc[table["method"] == "full", "trainable"]) == {full}


def test_metrics_are_those_of_the_run_alone(table):
    run = make_run(1)
    for _ in run:
        pass
    row = table[(table["method"] == "full") & (table["seed"] == 1)].iloc[0]
    assert {name: row[name] for name in run.evaluate("test")} == run.evaluate("test")


def test_seconds_are_of_training_only():
    runs = []
    row = compare({"one": lambda seed: runs.append(make_run(seed)) or runs[-1]}, seeds=[0]).iloc[0]
    assert row["seconds"] == pytest.approx(runs[0].history["seconds"].sum())


def test_summary_is_mean_and_standard_deviation(table):
    short = summary(table)
    assert list(short.index) == ["full", "head only"]
    assert list(short.columns) == ["accuracy", "std", "seeds", "seconds", "memory_mb", "trainable"]
    for method, row in short.iterrows():
        values = table.loc[table["method"] == method]
        assert row["accuracy"] == pytest.approx(np.mean(values["accuracy"]))
        assert row["std"] == pytest.approx(np.std(values["accuracy"], ddof=1)) and row["seeds"] == 3
        assert row["seconds"] == np.median(values["seconds"])
    assert list(summary(table, "f1").columns)[0] == "f1"
    with pytest.raises(ValueError, match="no metric 'acuracy' in the table; its columns are method, seed, accuracy"):
        summary(table, "acuracy")


@pytest.mark.parametrize("arguments", [({}, (0,)), (METHODS, ())])
def test_nothing_to_compare_is_refused(arguments):
    with pytest.raises(ValueError, match="at least one method and one seed"):
        compare(*arguments)


# side by side


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def threads_of(run):
    return {"threads": torch.get_num_threads()}


def fails(seed):
    raise ValueError(f"no run of seed {seed}")


def test_side_by_side_the_table_is_the_same_to_the_bit(table, pool):
    found = compare(METHODS, seeds=(0, 1, 2), split="test", executor=pool)
    measured = ["seconds", "memory_mb"]
    pd.testing.assert_frame_equal(found.drop(columns=measured), table.drop(columns=measured), check_exact=True)
    assert (found[measured] > 0).all(axis=None)
    short, expected = (summary(each).drop(columns=measured) for each in (found, table))
    pd.testing.assert_frame_equal(short, expected, check_exact=True)


@pytest.mark.parametrize("here", [1, 2, 8])
def test_a_worker_has_its_share_of_the_cores_and_no_more_threads_than_here(here, pool, monkeypatch, capsys):
    monkeypatch.setattr(processor, "fitting_threads", lambda: 4)
    torch.set_num_threads(here)
    found = compare({"full": make_run}, seeds=(0, 1), measure=threads_of, executor=pool)
    assert set(found["threads"]) == {min(here, 2)}
    said = capsys.readouterr().out
    assert said == "" if here <= 2 else "with 2 of 4 threads, as there are 2 workers: compare(..., threads=2)" in said
    assert found.attrs["threads"] == min(here, 2)
    assert torch.get_num_threads() == here


def test_threads_are_those_asked_for_in_a_worker_and_here(pool, tmp_path):
    arguments = {"seeds": (0,), "measure": threads_of, "threads": 2}
    tables = [compare({"full": make_run}, executor=executor, **arguments) for executor in (None, pool)]
    assert [table["threads"].item() for table in tables] == [2, 2] and torch.get_num_threads() == 1
    measured = ["seconds", "memory_mb"]
    pd.testing.assert_frame_equal(*(table.drop(columns=measured) for table in tables), check_exact=True)
    save_results(tmp_path / "11.json", tables[0])
    assert load_results(tmp_path / "11.json").attrs["machine"]["threads"] == 2


class AtOnce(Executor):
    "An executor that tells nothing of its workers, as that of dask."

    def submit(self, call, /, *arguments, **named):
        future = Future()
        future.set_result(call(*arguments, **named))
        return future


def test_an_executor_that_does_not_tell_its_workers_gets_one_thread_each(monkeypatch, capsys):
    monkeypatch.setattr(processor, "fitting_threads", lambda: 4)
    torch.set_num_threads(2)
    found = compare({"full": lambda seed: make_run(seed)}, seeds=(0,), measure=threads_of, executor=AtOnce())
    assert found["threads"].item() == 1
    assert "1 of 2 threads" in capsys.readouterr().out


def test_loky_takes_functions_of_a_notebook_too(table):
    loky = pytest.importorskip("joblib.externals.loky")
    executor = loky.get_reusable_executor(2)
    found = compare({"full": lambda seed: make_run(seed)}, seeds=(0,), split="test", executor=executor)
    executor.shutdown()
    assert found["loss"].item() == table["loss"].iloc[0]


def test_the_executor_of_dask_makes_the_same_table(table):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            executor = client.get_executor()
            found = compare({"full": lambda seed: make_run(seed)}, seeds=(0,), split="test", executor=executor)
    assert found["loss"].item() == table["loss"].iloc[0]


def test_what_fails_in_a_worker_is_raised_here_and_the_rest_is_not_begun(pool):
    with pytest.raises(ValueError, match="no run of seed 0"):
        compare({"fails": fails}, seeds=range(40), executor=pool)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"mine": lambda seed: make_run(seed)}, "'mine' cannot be sent to a process: .*lambda.*functools.partial"),
        ({"good": make_run, "mine": partial(make_run, freeze=threads_of.__code__)}, "'mine' cannot be"),
    ],
)
def test_a_method_that_cannot_be_sent_is_named(methods, message, pool):
    with pytest.raises(ValueError, match=message):
        compare(methods, executor=pool)


def test_a_function_of_a_notebook_is_named(pool, monkeypatch):
    notebook = ModuleType("__main__")
    exec("def make_run(seed): pass", vars(notebook))
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    with pytest.raises(ValueError, match="'cell' cannot be sent to a process: it is defined in a notebook"):
        compare({"cell": notebook.make_run}, executor=pool)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThreadPoolExecutor(2), "threads of one process share its memory.*get_context\\('spawn'\\)"),
        (lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")), "a forked process cannot"),
        (lambda: 2, "executor is a concurrent.futures.Executor, such as .*; given: 2"),
    ],
)
def test_an_executor_that_cannot_do_it_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        compare(METHODS, executor=make())


@pytest.mark.parametrize("threads", [0, 1.5, "two", True])
def test_threads_that_are_no_number_are_refused(threads):
    with pytest.raises(ValueError, match="threads is a number of at least 1"):
        compare(METHODS, threads=threads)


def test_results_survive_their_file(table, tmp_path):
    path = tmp_path / "results" / "11.json"
    save_results(path, table, data="movies", lr=1e-4)
    again = load_results(path)
    pd.testing.assert_frame_equal(again, table, atol=1e-6)
    assert again.attrs["config"] == {"data": "movies", "lr": 1e-4} and again.attrs["seeds"] == [0, 1, 2]
    assert again.attrs["versions"]["torch"] == version("torch")
    assert {"cpu", "threads", "gpu", "python"} == set(again.attrs["machine"])
    assert json.loads(path.read_text())["runs"][0]["method"] == "full"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"runs": 3}'])
def test_a_file_without_results_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "11.json").write_text(content)
    with pytest.raises(ValueError, match="11.json"):
        load_results(tmp_path / "11.json")
