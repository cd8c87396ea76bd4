"""The best weights are kept and come back, early stopping stops where it should, and more epochs can follow."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny import same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens, weights

from finetune_lessons.lab.training.best import early_stopping
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.schedules import SCHEDULES
from finetune_lessons.lab.training.steps import Step
from finetune_lessons.model_surgery import freeze, unfreeze

pytestmark = pytest.mark.usefixtures("one_thread")


def worsening(**settings) -> Run:
    "A run that is best early: its learning rate is far too high."
    usual = {"lr": 0.3, "schedule": "constant", "warmup": 0, "epochs": 4, "eval_every": 2, "keep_best": "loss"}
    return tiny_run(tiny_model("bert"), **usual | settings)


def best_by_hand(run: Run, metric: str, lower: bool) -> tuple[int, float, dict]:
    found = []
    for step in run:
        if step.metrics:
            found.append((step.index, step.metrics[metric], weights(run.model)))
    return min(found, key=lambda entry: entry[1] if lower else -entry[1])


@pytest.mark.parametrize(("metric", "lower"), [("loss", True), ("accuracy", False)])
def test_the_best_weights_are_those_of_the_best_validation(metric, lower):
    run = worsening(keep_best=metric)
    index, value, tensors = best_by_hand(run, metric, lower)
    assert (run.best.step, run.best.value) == (index, value) and index < len(run) - 1
    assert not same_bits(weights(run.model), tensors)
    run.best.load()
    assert same_bits(weights(run.model), tensors)
    assert run.evaluate()[metric] == pytest.approx(value, abs=1e-6)


def test_parameters_that_thawed_after_the_best_validation_come_back_as_they_were():
    model = unfreeze(freeze(tiny_model("bert")), "classifier")
    run = tiny_run(model, lr=0.03, schedule="constant", warmup=0, epochs=4, eval_every=2, keep_best="loss")
    found = []
    for step in run:
        if step.metrics:
            found.append((step.metrics["loss"], step.index, weights(model)))
        if step.index == 3:
            unfreeze(model)
            run.lr = 3.0
    value, index, tensors = min(found, key=lambda entry: entry[:2])
    assert index <= 3 and run.best.step == index
    run.best.load()
    assert same_bits(weights(model), tensors)


def test_a_resumed_run_knows_what_was_best(tmp_path):
    whole = worsening()
    list(whole)
    run = worsening()
    while run.index < 20:
        next(run)
    run.save(tmp_path / "run")
    again = Run.resume(tmp_path / "run", tiny_model("bert"), tiny_tokenizer(), tiny_tokens(), loss=run.loss)
    assert (again.best.step, again.best.value) == (run.best.step, run.best.value)
    list(again)
    for each in (whole, again):
        each.best.load()
    assert same_bits(weights(whole.model), weights(again.model))


@pytest.mark.parametrize(("settings", "says"), [
    ({"keep_best": "acuracy"}, "does not give 'acuracy'; it gives accuracy, precision, recall, f1, loss"),
    ({"keep_best": "loss", "eval_every": 0}, "measured on the way, but eval_every=0"),
    ({"keep_best": "loss", "data": tiny_data(8, 0, 8)}, "the data have no validation split"),
    ({"keep_best": 3}, "keep_best must be None or the name of a metric; given: 3"),
])  # fmt: skip
def test_a_metric_that_is_not_measured_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        tiny_run(**{"eval_every": None} | settings)


def test_nothing_validated_nothing_to_load():
    run = worsening()
    assert "nothing validated yet" in repr(run.best) and tiny_run().best is None
    with pytest.raises(ValueError, match="nothing has been validated yet"):
        run.best.load()


# early stopping


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_stopping_waits_as_long_as_it_is_told_to(patience):
    values = [step.metrics["loss"] for step in worsening(epochs=8) if step.metrics]
    best, expected = 0, len(values)
    for i, value in enumerate(values):
        best = i if value < values[best] else best
        if i - best >= patience:
            expected = i + 1
            break
    run = worsening(epochs=8)
    steps = list(early_stopping(run, patience))
    assert len(steps) == run.index == 2 * expected < len(run)


def test_stopping_goes_by_the_history_and_not_by_the_loop():
    left, straight = worsening(epochs=8), worsening(epochs=8)
    for step in early_stopping(left, 2):
        if step.index == 4:
            break
    list(early_stopping(left, 2))
    list(early_stopping(straight, 2))
    assert left.index == straight.index


SEQUENCES = st.lists(st.integers(0, 6).map(lambda n: n / 4), min_size=1, max_size=12)


class Replayed:
    "What of a run early stopping looks at, with these validations in the place of training: every second step has one."

    def __init__(self, values, metric="loss"):
        self.splits, self.config, self.steps, self.best = tiny_run().splits, {"eval_every": 2}, [], object()
        metrics = [found for value in values for found in ({}, {metric: value})]
        self._all = [Step(i, 0, 1.0, {}, 1e-3, 1.0, 1, 0.1, each) for i, each in enumerate(metrics)]

    def __iter__(self):
        for step in self._all[len(self.steps) :]:
            self.steps.append(step)
            yield step


def stopped_by_transformers(values, patience, min_delta, greater, creeps) -> int:
    "Validations until its callback stops, told of the best one as `Trainer` does, or only of gains above min_delta."
    args = SimpleNamespace(metric_for_best_model="m", greater_is_better=greater)
    state, control = SimpleNamespace(best_metric=None), SimpleNamespace(should_training_stop=False)
    callback = transformers.EarlyStoppingCallback(patience, min_delta)
    for i, value in enumerate(values, 1):
        callback.on_evaluate(args, state, control, {"eval_m": value})
        if control.should_training_stop:
            return i
        gain = 0 if state.best_metric is None else (value - state.best_metric) * (1 if greater else -1)
        if state.best_metric is None or gain > (0 if creeps else min_delta):
            state.best_metric = value
    return len(values)


@given(SEQUENCES, st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.3, 1.0]), st.sampled_from(["loss", "accuracy"]))
def test_stopping_is_that_of_the_callback_of_transformers(values, patience, min_delta, metric):
    "With a min_delta its mark must not creep: see the next test."
    run, greater = Replayed(values, metric), metric == "accuracy"
    steps = list(early_stopping(run, patience, metric, min_delta))
    assert len(steps) == 2 * stopped_by_transformers(values, patience, min_delta, greater, creeps=False)
    plain = list(early_stopping(Replayed(values, metric), patience, metric))
    assert len(plain) == 2 * stopped_by_transformers(values, patience, 0.0, greater, creeps=True)


def test_progress_that_is_slow_and_steady_does_not_stop_a_run():
    values = [1 - 0.03 * i for i in range(12)]
    assert len(list(early_stopping(Replayed(values), 3, min_delta=0.05))) == 24
    assert stopped_by_transformers(values, 3, 0.05, greater=False, creeps=True) == 4
    assert len(list(early_stopping(Replayed(values), 1, min_delta=0.05))) == 4


def test_stopping_keeps_the_best_weights_of_a_run_that_was_not_told_to(tmp_path):
    told, run = worsening(epochs=8), worsening(epochs=8, keep_best=None)
    list(early_stopping(told, 2))
    for step in early_stopping(run, 2):
        if step.index == 4:
            break
    run.save(tmp_path / "run")
    again = Run.resume(tmp_path / "run", tiny_model("bert"), tiny_tokenizer(), tiny_tokens(), loss=run.loss)
    for each in (run, again):
        list(early_stopping(each, 2))
        assert (each.best.step, each.best.value, each.index) == (told.best.step, told.best.value, told.index)
        each.best.load()
    told.best.load()
    assert same_bits(weights(run.model), weights(told.model))
    assert same_bits(weights(again.model), weights(told.model))


def test_stopping_claims_no_best_weights_where_validations_are_gone():
    run = worsening(keep_best=None)
    for step in run:
        if step.metrics:
            break
    next(early_stopping(run, 2))
    assert run.best is None


def test_stopping_refuses_nonsense():
    with pytest.raises(ValueError, match="patience is a number of validations, at least 1; given: 0"):
        next(early_stopping(worsening(), 0))
    with pytest.raises(ValueError, match="min_delta is a difference of the metric, at least 0; given: -0.1"):
        next(early_stopping(worsening(), min_delta=-0.1))
    with pytest.raises(ValueError, match="does not give 'bleu'"):
        next(early_stopping(worsening(), metric="bleu"))


# more epochs


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_more_epochs_start_the_schedule_anew_and_say_so(schedule, capsys):
    run = tiny_run(schedule=schedule, epochs=2, warmup=0.25)
    first = [step.lr for step in run]
    assert run.extend(1) is run and len(run) == 24
    assert "8 more steps; their schedule starts anew, up to lr=0.003" in capsys.readouterr().out
    more = [step.lr for step in run]
    assert more == [step.lr for step in tiny_run(schedule=schedule, epochs=1, warmup=0.25)] and max(more) == 3e-3
    assert run.done and run.index == 24 and [step.epoch for step in run.steps] == [i // 8 for i in range(24)]
    assert len(first) == 16


def test_epochs_added_before_the_end_come_after_it():
    early, late = tiny_run(), tiny_run()
    next(early)
    early.extend(0.5)
    list(early)
    list(late)
    list(late.extend(0.5))
    assert [step.loss for step in early.steps] == [step.loss for step in late.steps] and early.index == 20


def test_an_extended_run_is_resumed_to_the_same_bits(tmp_path):
    whole = tiny_run(epochs=1).extend(1)
    list(whole)
    run = tiny_run(epochs=1)
    list(run)
    run.extend(1)
    next(run)
    run.save(tmp_path / "run")
    again = Run.resume(tmp_path / "run", tiny_model("bert"), tiny_tokenizer(), tiny_tokens(), loss=run.loss)
    assert len(again) == 16
    list(again)
    assert same_bits(weights(again.model), weights(whole.model))


@pytest.mark.parametrize("epochs", [0, -1, math.nan, "2", True])
def test_more_epochs_are_a_number_above_zero(epochs):
    with pytest.raises(ValueError, match="epochs must be a number above 0"):
        tiny_run().extend(epochs)


# trackers


def test_a_tracker_is_a_function_of_the_numbers_of_a_step():
    rows = []
    run = tiny_run(epochs=1, eval_every=4).finish(log=rows.append)
    assert [row["index"] for row in rows] == list(range(8))
    assert [row["loss"] for row in rows] == [step.loss for step in run.steps]
    assert rows[3]["validation/accuracy"] == run.steps[3].metrics["accuracy"] and "validation/loss" not in rows[2]
    assert all(isinstance(value, int | float) for row in rows for value in row.values())


# what is said of texts


def test_texts_are_predicted_by_name_as_the_split_is_by_number():
    run = tiny_run(data=tiny_data(), precision="fp32")
    list(run)
    split = run.predict("test")
    found = run.predict(split["text"].tolist())
    assert found["prediction"].tolist() == [("negative", "positive")[i] for i in split["prediction"]]
    assert found["confidence"].to_numpy() == pytest.approx(split["confidence"].to_numpy(), abs=1e-5)
    assert list(found)[:1] == ["text"] and {"negative", "positive"} <= set(found)


def test_predicting_texts_changes_nothing():
    undisturbed, disturbed = tiny_run(data=tiny_data()), tiny_run(data=tiny_data())
    for _ in disturbed:
        disturbed.predict(["good film", "bad film"])
    assert [s.loss for s in undisturbed] == [s.loss for s in disturbed.steps]


# files


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which files are mapped")
def test_a_resumed_run_does_not_keep_its_file_open(tmp_path):
    run = tiny_run()
    next(run)
    run.save(tmp_path / "run")
    again = Run.resume(tmp_path / "run", tiny_model("bert"), tiny_tokenizer(), tiny_tokens(), loss=run.loss)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    again.save(tmp_path / "run")


def test_a_run_of_a_compiled_model_is_resumed_by_the_model_and_the_other_way_round(tmp_path):
    def model(compiled):
        return torch.compile(tiny_model("bert"), backend="eager") if compiled else tiny_model("bert")

    for compiled in (False, True):
        run = tiny_run(model(compiled))
        next(run)
        run.save(tmp_path / "run")
        again = Run.resume(tmp_path / "run", model(not compiled), tiny_tokenizer(), tiny_tokens(), loss=run.loss)
        assert next(again).loss == pytest.approx(next(run).loss, abs=1e-6)
        assert not [key for key in again.trained if "_orig_mod" in key]
