"""`finetune-lessons profile` counts each second once, and the arithmetic as one does by hand."""

import re
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from tiny import tiny_run
from torch import nn

from finetune_lessons.lab.cli import main
from finetune_lessons.lab.reports.profile import WATCHED, Profile, _find

pytestmark = pytest.mark.usefixtures("one_thread")

CODE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tiny import tiny_data, tiny_run
from finetune_lessons.lab import plot_runs
run = tiny_run(data=tiny_data(), eval_every=4)
figure = plot_runs({{"a run": [step for step in run] and run}})
figure.savefig("a.png")
"""


def test_a_notebook_is_profiled(tmp_path, capsys, monkeypatch):
    path = tmp_path / "11_lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(CODE)]), path)
    assert main(["profile", str(path), "--scale", "smoke"]) == 0
    printed = capsys.readouterr().out
    shares = {part.strip(): float(share) for part, share in re.findall(r"^(.+?) +[\d.]+ s +([\d.]+)%$", printed, re.M)}
    assert list(shares) == [*WATCHED, "all else"]
    assert sum(shares.values()) == pytest.approx(100, abs=0.6)
    for part in ("tokenisation", "batches", "forward", "backward", "evaluation", "plotting"):
        assert shares[part] > 0, part
    assert shares["loading models"] == 0
    assert re.search(r"reach \d+ GFLOP/s, \d+% of the \d+ GFLOP/s of a matrix product", printed)
    assert len(nbformat.read(path, 4).cells) == 1


def test_what_is_watched_exists():
    for names in WATCHED.values():
        for owner, attribute in map(_find, names):
            assert callable(getattr(owner, attribute))


def test_a_part_inside_another_counts_for_the_outer_one():
    profile = Profile()
    inner = profile._timed("forward", lambda: sum(range(10**5)))
    profile._timed("evaluation", inner)()
    assert profile.seconds["forward"] == 0 < profile.seconds["evaluation"]
    inner()
    assert profile.seconds["forward"] > 0


def test_the_seconds_of_what_failed_count_too():
    profile = Profile()
    with pytest.raises(ZeroDivisionError):
        profile._timed("forward", lambda: 1 / 0)()
    assert profile.seconds["forward"] > 0
    profile._timed("backward", lambda: None)()
    assert profile.seconds["backward"] > 0


def test_arithmetic_is_counted_as_by_hand():
    class OneProduct(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(200, 16), nn.Linear(16, 2)

        def forward(self, input_ids, attention_mask):
            return self.out(self.words(input_ids)) * attention_mask[..., None]

    def loss(model, batch):
        return model(batch["input_ids"], batch["attention_mask"]).square().mean()

    profile, run = Profile(), tiny_run(OneProduct(), loss=loss, epochs=1)
    counted = profile._counted(type(run)._backward)
    run._backward = lambda batches: counted(run, batches)
    list(run)
    places = [run.splits["train"].load(run._plan[i], torch.device("cpu"))["input_ids"].numel() for i in range(8)]
    there_and_back = 3 * 2 * 16 * 2  # y = Wx, and the gradients of W and x
    assert profile.work[0][0] == pytest.approx(there_and_back * places[1] / run.steps[1].tokens)
    assert [tokens for _, tokens, _ in profile.work] == [step.tokens for step in run.steps[2:]]


def test_nothing_trained_has_no_rate():
    profile = Profile()
    profile._started = 0.0
    assert "GFLOP" not in profile.report()
