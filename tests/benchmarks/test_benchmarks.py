"""The benchmarks compare like with like, and every contender of theirs works."""

from pathlib import Path

import pandas as pd
import pytest
import tiny

from finetune_lessons.benchmarks import bars, measure, suite, training
from finetune_lessons.benchmarks.bars import FULL
from finetune_lessons.benchmarks.peft import CHANGES, OURS, THEIRS
from finetune_lessons.lab.reports.compare import load_results

KEPT = Path(__file__).parents[2] / "nbs" / "results" / "benchmarks.json"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", [method for method, library in CHANGES if library == THEIRS])
def test_both_sides_train_equally_many_parameters(method):
    ours, theirs = (CHANGES[method, library](tiny.tiny_model("bert")) for library in (OURS, THEIRS))
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert counts[0] == counts[1] > 66  # more than the head


def test_full_fine_tuning_trains_everything():
    assert all(p.requires_grad for p in CHANGES[FULL, OURS](tiny.tiny_model("bert")).parameters())


@pytest.fixture
def tiny_models(monkeypatch):
    "The suite on random models, little data and one start of a process."

    def encoder(name, seed=0):
        return tiny.tiny_model("bert", seed=seed, num_hidden_layers=6, max_position_embeddings=512), tokenizer()

    def tokenizer():
        return tiny.tiny_tokenizer(model_max_length=512)

    for module in (measure, suite):
        monkeypatch.setattr(module, "load_encoder", encoder)
    monkeypatch.setattr(suite, "load_causal_lm", lambda name: (tiny.tiny_model("llama", "causal_lm"), tokenizer()))
    monkeypatch.setattr(suite, "STEPS", 2)
    monkeypatch.setattr(suite, "COLD", {"Run": "pass", "Trainer": "pass"})
    monkeypatch.setattr(suite, "GROWTH", {name: (sizes[:2], f) for name, (sizes, f) in suite.GROWTH.items()})


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_suite_measures_what_is_kept(tiny_models, tmp_path, capsys):
    suite.bench_all(rounds=1, path=tmp_path / "benchmarks.json")
    made, kept = load_results(tmp_path / "benchmarks.json"), load_results(KEPT)
    assert set(made.columns) == set(kept.columns) and made.attrs["config"].keys() == kept.attrs["config"].keys()
    pairs = [set(zip(table["work"], table["by"], strict=True)) for table in (made, kept)]
    assert pairs[0] == pairs[1]
    assert (made["speed"] > 0).all()


def test_what_is_kept_was_measured_often_enough():
    kept = load_results(KEPT)
    beside = kept[kept["at"].isna()]
    assert (beside.groupby(["work", "by"])["round"].nunique() >= 5).all()
    for name, (sizes, _) in suite.GROWTH.items():
        assert set(kept.loc[kept["work"] == name, "at"]) == set(sizes)


@pytest.mark.parametrize(("work", "ours"), [("full fine-tuning", "Run"), ("generation, LoRA on smollm2", "LoRA here")])
def test_relative_numbers_are_those_of_one_round(work, ours):
    table = load_results(KEPT)
    found = suite.relative(table, work)
    rows = table[table["work"] == work].set_index(["by", "round"])["speed"]
    assert ours not in found and len(found) >= 5
    for (round, other), ratio in found.stack().items():
        assert ratio == pytest.approx(rows[ours, round] / rows[other, round])


def of_one_round(ratio, precision="bf16", processor="Some CPU"):
    "A table in which every `Run` is so many times as fast as what it is measured beside."
    speeds = {(bar.work, by): s for bar in bars.BARS for by, s in ((bar.ours, ratio), (bar.theirs, 1.0))}
    rows = [{"work": w, "by": by, "round": r, "speed": s} for (w, by), s in speeds.items() for r in (0, 1)]
    table = pd.DataFrame(rows)
    table.attrs.update(config={"precision": precision}, machine={"cpu": processor})
    return table


def test_each_bar_is_kept_beside_the_processor_that_reached_it(tmp_path, capsys):
    path = tmp_path / "bars.csv"
    bars.keep(of_one_round(10.0), path)
    assert capsys.readouterr().out == ""
    bars.keep(of_one_round(1.0, "fp32", "Another CPU"), path)
    below = capsys.readouterr().out
    assert below.count("below its bar") == 3 and "tuned Trainer: 1.0 instead of 1.25" in below
    bars.keep(of_one_round(2.0), path)
    assert "Trainer: 2.0 instead of 3.9" in capsys.readouterr().out
    kept = pd.read_csv(path)
    assert set(kept["processor"]) == {"Some CPU", "Another CPU"} and len(kept) == len(bars.BARS) + 3
    assert set(kept[kept["processor"] == "Some CPU"]["measured"]) == {2.0}


def test_the_bars_that_are_kept_are_those_of_the_code():
    kept = pd.read_csv(KEPT.with_name("bars.csv"))
    asked = {(*bar[:3], bar.at_least) for bar in bars.BARS}
    assert set(kept[["work", "ours", "theirs", "at_least"]].itertuples(index=False, name=None)) <= asked


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_trainings_are_measured_in_turns_and_over_seeds(tiny_models, monkeypatch, capsys):
    monkeypatch.setattr(training, "load_encoder", measure.load_encoder)
    monkeypatch.setattr(training, "EXAMPLES", 64)
    training.bench_training(rounds=1, steps=1, epochs=1, seeds=2)
    *said, first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert "median of 2 seeds" in " ".join(said)
    assert [row[:32].strip() for row in (first, second, third, fourth)] == list(training.TRAININGS)
    assert "1.00 (1.00-1.00)" in first and all(row.count("(") == 3 for row in (first, second, third, fourth))
