"""Scores add up: whatever the batches, and to what the metrics say of all examples at once."""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from finetune_lessons.lab.training.objective import Objective
from finetune_lessons.lab.training.scores import Result, Scores, forward, prediction_tables, summaries
from finetune_lessons.lab.training.tasks import Classification, Regression, Task, TokenClasses, Tokens

pytestmark = pytest.mark.usefixtures("one_thread")


@given(cuts=st.lists(st.integers(0, 30), max_size=4), kind=st.sampled_from(["classes", "regression", "tokens"]))
def test_scores_do_not_depend_on_the_batches(cuts, kind):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(30, {"classes": 3, "regression": 1, "tokens": 1}[kind], generator=rng)
    labels = {
        "classes": torch.randint(0, 3, (30,), generator=rng).index_fill(0, torch.tensor([4, 9]), -100),
        "regression": torch.randn(30, generator=rng).index_fill(0, torch.tensor([7]), math.nan),
        "tokens": torch.randint(0, 9, (30, 4), generator=rng),
    }[kind]
    tasks = {"classes": Classification("label"), "regression": Regression("label"), "tokens": Tokens("labels", True)}
    task = tasks[kind]
    loss = torch.rand(30, generator=rng)

    def scored(pieces):
        parts = []
        for piece in pieces:
            parts.append(Scores())
            shown = None if kind == "tokens" else logits[piece]
            parts[-1].add(task, Result({"labels": labels[piece]}, loss[piece].mean().item(), len(piece), shown))
        return pickle.loads(pickle.dumps(sum(parts, Scores()))).summary(task)

    pieces = [piece for piece in np.split(np.arange(30), sorted(cuts)) if len(piece)]
    assert scored(pieces) == pytest.approx(scored([np.arange(30)]), rel=1e-5)
    assert set(scored(pieces)) == set(task.metrics)


def test_examples_without_a_label_are_not_scored():
    scores, task = Scores(), Classification("label")
    shown = torch.tensor([[0.0, 1.0], [5.0, 0.0], [0.0, 1.0]])
    scores.add(task, Result({"labels": torch.tensor([1, -100, 0])}, 0.5, 2, shown))
    scores.add(task, Result({"labels": torch.tensor([-100])}, math.nan, 0, torch.tensor([[5.0, 0.0]])))
    assert scores.summary(task)["accuracy"] == 0.5 and scores.summary(task)["loss"] == 0.5


def test_a_mean_with_weights_is_averaged_by_their_sum():
    scores, task = Scores(), Task()
    scores.add(task, Result({}, 1.0, 0.5, None))
    scores.add(task, Result({}, 4.0, 1.5, None))
    assert scores.summary(task) == {"loss": 3.25}


def test_a_perplexity_beyond_the_floats_is_large():
    task = Tokens("labels", True)
    assert Scores(total_loss=1e9, terms=1).summary(task)["perplexity"] > 1e300
    assert math.isnan(Scores().summary(task)["perplexity"])


def test_classes_of_tokens_have_no_perplexity():
    assert Scores(total_loss=1.0, terms=1).summary(TokenClasses("labels", False)) == {"loss": 1.0}


def test_a_task_that_no_process_had_a_batch_of_is_left_out():
    parts = [{"a": Scores(total_loss=1.0, terms=1)}, {"a": Scores(total_loss=5.0, terms=3)}]
    assert summaries(parts, {"a": Task(), "b": Task()}) == {"a/loss": 1.5}


class Classifier(nn.Module):
    def forward(self, x):
        return type("Output", (), {"logits": x})


def test_forward_sees_the_logits_of_the_first_call_and_leaves_no_hook():
    model, first, second = Classifier(), torch.zeros(2, 3), torch.ones(2, 3)

    def twice(model, batch):
        return {"loss": model(first).logits.mean() + model(second).logits.mean(), "part": 3}

    batch = {"task": "", "index": torch.arange(2)}
    result = forward(model, Objective(twice, {"": Task()}), batch)
    assert (result.loss, result.terms) == (1.0, 2) and torch.equal(result.logits, first)
    with pytest.raises(ZeroDivisionError):
        forward(model, Objective(lambda model, batch: 1 / 0, {"": Task()}), batch)
    assert not model._forward_hooks


@pytest.mark.parametrize("logits", [None, torch.zeros(2, 1), torch.zeros(2, 3, 4)])
def test_predictions_need_logits_of_classes(logits):
    objective = Objective(lambda model, batch: model(logits) and torch.tensor(0.0), {"": Task()})
    result = forward(Classifier(), objective, {"task": "", "index": torch.arange(2)})
    with pytest.raises(ValueError, match="the labels are classes, so the logits must be"):
        list(prediction_tables([result], Classification("label")))


def test_a_language_model_predicts_no_classes():
    result = Result({"index": torch.arange(1)}, 0.0, 1, None)
    with pytest.raises(ValueError, match="this run learns the tokens of texts.*generate"):
        list(prediction_tables([result], Tokens("labels", True)))


# what the mean of a loss is over


def test_a_loss_may_count_for_itself_inside_a_partial_too():
    def loss(model, batch, weight=None):
        return None

    loss.terms = lambda batch, weight=1.0: torch.tensor(17) * weight
    assert Objective(loss, {}).terms({}) == {"": 17}
    assert Objective(partial(loss, weight=0.5), {}).terms({}) == {"": 8.5}
    assert Objective(partial(partial(loss, weight=0.5), weight=2.0), {}).terms({}) == {"": 34}


def test_a_count_is_not_given_what_it_does_not_take():
    def loss(model, batch, scale=1.0):
        return None

    loss.terms = lambda batch: 3
    assert Objective(partial(loss, scale=2.0), {}).terms({}) == {"": 3}
