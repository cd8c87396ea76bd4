"""A run whose steps another iterator takes."""

import pytest
from tiny import tiny_data, tiny_model, tiny_run, tiny_tokenizer

from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab import Guided, Run, compare, early_stopping, plot_runs


def five(run):
    while run.index < 5 and (step := next(run, None)):
        yield step


def test_whoever_takes_its_steps_takes_those_of_the_guide():
    straight = tiny_run()
    losses = [next(straight).loss for _ in range(5)]
    assert [step.loss for step in Guided(tiny_run(), five)] == losses
    assert [step.loss for step in Guided(tiny_run(), five).finish().steps] == losses
    (row,) = compare({"guided": lambda seed: Guided(tiny_run(seed=seed), five)}, seeds=(0,)).to_dict("records")
    assert row["loss"] == pytest.approx(straight.evaluate()["loss"], abs=1e-6)


def test_the_loop_may_be_left_and_entered_again():
    guided = Guided(tiny_run(), five)
    first = next(guided)
    for step in guided:
        assert step.index == 1
        break
    assert [step.index for step in guided] == [2, 3, 4] and guided.steps[0] == first
    assert next(guided, None) is None


def test_both_are_one_run():
    run = tiny_run()
    guided = Guided(run, five)
    guided.lr = run.lr / 2
    list(guided)
    assert guided.lr == run.lr and guided.index == run.index == 5 and guided.history.equals(run.history)
    run.extend(1, say=False)
    assert len(guided) == len(run)
    assert plot_runs(guided)


def test_a_run_that_ends_early_is_saved_as_it_ended(tmp_path):
    run = tiny_run(lr=0.3, schedule="constant", warmup=0, epochs=6, eval_every=2)
    Guided(run, early_stopping).finish(save=tmp_path / "run", save_every=100)
    assert 0 < run.index < len(run)
    again = Run.resume(tmp_path / "run", tiny_model("bert"), tiny_tokenizer(), tiny_data(), loss=classification_loss)
    assert again.index == run.index
