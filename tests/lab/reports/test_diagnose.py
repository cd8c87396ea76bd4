"""Each broken run is named for what is broken, no healthy one is, and both are afterwards as they were before."""

import json
import subprocess
import sys

import pytest
import torch
from broken_runs import BROKEN, HEALTHY, trained, two_tasks
from tiny import classification, same_bits, tiny_data, tiny_model, tiny_run, weights

from finetune_lessons.lab.reports.causes import Cause
from finetune_lessons.lab.reports.diagnose import Diagnosis, diagnose
from finetune_lessons.lab.reports.trial import Outcome, Trial
from finetune_lessons.lab.training.learnt import learnt
from finetune_lessons.lab.training.random_state import to_json
from finetune_lessons.multitask import DynamicWeightAverage, GradNorm, MultiTask

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_named_first_for_what_is_broken(name):
    found = diagnose(BROKEN[name]())
    assert found and found[0].name.startswith(name.partition(",")[0]), found
    assert any(letter.isdigit() for letter in found[0].evidence)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_gives_no_alarm(name):
    assert not diagnose(HEALTHY[name]()), name


# what is left behind


def everything(run):
    "All that a run holds, as bits."
    state = run.optimizer.state_dict()
    moments = {f"{n}.{k}": torch.as_tensor(v) for n, of in state["state"].items() for k, v in of.items()}
    modes = {name: module.training for name, module in run.learner.named_modules()}
    rates = [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups]
    numbers = json.dumps([to_json(run.random_state.state), run.index, run.config, run.extended, rates])
    return weights(run.learner) | moments, (modes, numbers, run.steps, run.scaler.state_dict())


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("name", ["bert", "two tasks", "SGD", "a low rate for long", "llama writes"])
def test_the_run_is_as_it_was(name, steps):
    run = HEALTHY[name]()
    for _ in range(steps):
        next(run)
    (bits, rest), process = everything(run), torch.get_rng_state()
    diagnose(run)
    bits_now, rest_now = everything(run)
    assert same_bits(bits, bits_now) and rest == rest_now
    assert torch.equal(process, torch.get_rng_state())


@pytest.mark.parametrize("weighting", [GradNorm(["tone", "size"]), DynamicWeightAverage(["tone", "size"])])
def test_what_a_loss_remembers_is_as_it_was(weighting):
    run = two_tasks(weighting=weighting, sampling="together")
    for _ in range(3):
        next(run)
    before = remembered(run)
    diagnose(run)
    assert isinstance(run.loss, MultiTask) and same_bits(before, remembered(run))


def remembered(run):
    "With a number for what is not known yet: NaN is unlike itself."
    return {name: tensor.nan_to_num(-1.0) for name, tensor in weights(run.learner).items()}


def test_the_curve_is_that_of_a_run_that_was_not_looked_at():
    run, other = tiny_run(), tiny_run()
    for _ in range(3):
        next(run)
        diagnose(run)
    assert [step.loss for step in trained(run).steps] == [step.loss for step in trained(other).steps]


def test_gradients_that_somebody_keeps_stay():
    run = tiny_run()
    weight = run.model.classifier.weight
    weight.grad = torch.full_like(weight, 3.0)
    diagnose(run)
    assert torch.equal(weight.grad, torch.full_like(weight, 3.0))


def test_an_interrupt_leaves_the_run_as_it_was(monkeypatch):
    run = tiny_run(lr=1e-7)
    bits, _ = everything(run)
    calls = []

    def interrupted(*given, **named):
        calls.append(given)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return backward(*given, **named)

    backward = Trial._backward
    monkeypatch.setattr(Trial, "_backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        diagnose(run)
    assert len(calls) == 25 and same_bits(bits, everything(run)[0])


# what is said


def test_what_is_no_run_is_refused():
    with pytest.raises(ValueError, match="diagnose takes a Run; given: BertForSequenceClassification"):
        diagnose(tiny_model("bert"))


def test_a_loss_that_raises_is_said_with_its_error():
    def loss(model, batch):
        return classification(model, {**batch, "labels": batch["nonsense"]})

    (cause,) = diagnose(tiny_run(loss=loss))
    assert cause.name == "The loss cannot be computed" and cause.evidence == "KeyError: 'nonsense'"


def test_the_diagnosis_reads_as_text_here_and_in_a_notebook():
    from IPython.lib.pretty import pretty

    found = Diagnosis([Cause("Too low", "1 of 2", "Do this"), Cause("Else", "3", "Do that")])
    assert repr(found) == pretty(found) == (
        "1. Too low\n   Seen: 1 of 2.\n   Mend: Do this.\n2. Else\n   Seen: 3.\n   Mend: Do that."
    )  # fmt: skip
    assert "Found nothing" in repr(Diagnosis()) and str(found[0]) == "Too low: 1 of 2. Do this."


def test_a_healthy_run_is_told_what_was_tried():
    found = diagnose(tiny_run())
    assert not found and "16 steps take the loss of 16 training texts from 0.7" in repr(found)


def test_the_mend_of_a_rate_mends_it():
    for lr in (1e-7, 3.0):
        (cause,) = diagnose(tiny_run(lr=lr))
        mended = float(cause.mend.partition("lr=")[2].rstrip(".").split(",")[0])
        assert not diagnose(tiny_run(lr=mended)), cause


def test_a_fall_of_a_loss_that_is_no_number_is_none():
    assert Outcome(1.0, 0.5, float("nan"), 8).fall == -float("inf")
    assert Outcome(1.0, 0.5, 0.25, 8).fall == 0.5


def test_a_trial_of_another_optimizer_takes_its_own():
    class Own(torch.optim.SGD):
        def __init__(self, groups, rate):
            super().__init__(groups, lr=rate)

    run = tiny_run(optimizer=lambda groups, lr: Own(groups, rate=lr), lr=1e-3)
    assert Trial(run).train().fall > 0  # by AdamW


# whether it has learnt


class Taken:
    "A run of which only the losses are known."

    def __init__(self, *losses):
        self.steps = [type("Step", (), {"loss": loss}) for loss in losses]


WAVES = [0.05 * (-1) ** i for i in range(40)]
CURVES = {
    "falls": ([2 - i / 40 + wave for i, wave in enumerate(WAVES)], True),
    "falls in its noise": ([2 - i / 4000 + wave for i, wave in enumerate(WAVES)], False),
    "stays": ([0.7 + wave for wave in WAVES], False),
    "rises": ([0.7 + i / 40 for i in range(40)], False),
    "rises, and comes back": ([0.7, 5, 20, 30, 12, 8, 4, 2, 1, 0.9, 0.8, *[0.72 + wave for wave in WAVES]], False),
    "three steps down": ([0.7, 0.6, 0.5], True),
    "three steps up": ([0.5, 0.6, 0.7], False),
    "nothing yet": ([], True),
}


@pytest.mark.parametrize("name", CURVES)
def test_learnt_is_a_loss_that_fell_by_more_than_its_noise(name):
    losses, expected = CURVES[name]
    assert learnt(Taken(*losses)) is expected


def test_learnt_of_real_runs():
    assert learnt(trained(tiny_run(epochs=6))) and not learnt(trained(tiny_run(lr=1e-8, epochs=6)))


def test_the_lab_gives_it_and_loads_nothing_of_the_panel():
    code = "import sys; from finetune_lessons.lab import diagnose; print('ipywidgets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_several_processes_are_refused(monkeypatch):
    run = tiny_run(data=tiny_data(16))
    monkeypatch.setattr(run.processes, "count", 2, raising=False)
    with pytest.raises(ValueError, match="one process"):
        diagnose(run)
