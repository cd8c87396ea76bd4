"""A run asked for by a name that it does not have says which one is meant."""

import inspect

import pytest
from tiny import tiny_run

from finetune_lessons.lab.training import setting_names
from finetune_lessons.lab.training.run import Run

ARGUMENTS = list(inspect.signature(Run).parameters)


@pytest.mark.parametrize(("theirs", "value", "ours"), [
    ("learning_rate", 1e-4, "lr"),
    ("num_train_epochs", 1, "epochs"),
    ("per_device_train_batch_size", 8, "batch_size"),
    ("gradient_accumulation_steps", 2, "grad_accum"),
    ("warmup_steps", 10, "warmup"),
    ("lr_scheduler_type", "cosine", "schedule"),
    ("eval_strategy", "epoch", "eval_every"),
    ("fp16", True, "precision"),
])  # fmt: skip
def test_a_name_of_trainer_is_told_as_that_of_run(theirs, value, ours):
    with pytest.raises(TypeError, match=rf"^Run does not know {theirs} \(write {ours}\)$"):
        tiny_run(**{theirs: value})


def test_all_wrong_names_are_told_at_once():
    with pytest.raises(TypeError) as error:
        tiny_run(learning_rate=1e-4, epoch=1, colour="red")
    said = str(error.value)
    assert said.startswith("Run does not know learning_rate (write lr), epoch (write epochs), colour; it knows model, ")
    assert said.endswith(", ".join(ARGUMENTS))


def test_a_run_is_refused_before_anything_is_looked_at():
    with pytest.raises(TypeError, match=r"Run does not know batchsize \(write batch_size\)"):
        Run(None, None, None, loss=None, batchsize=8)


def test_every_name_leads_to_an_argument():
    assert set(setting_names.OURS.values()) <= set(ARGUMENTS)
    assert not set(setting_names.OURS) & set(ARGUMENTS)


def test_a_name_is_only_taken_for_one_that_there_is():
    assert setting_names.meant("learning_rate", ["lr", "r"]) == "lr"
    assert setting_names.meant("learning_rate", ["colour"]) is None
    assert setting_names.meant("targets", ["target", "layers"]) == "target"
