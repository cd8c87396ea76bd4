"""Numbers over examples: the same as the libraries' own, however the batches fall."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from tiny import tiny_model
from torch import nn

from finetune_lessons.lab.training.metrics import (
    Scores,
    classification_metrics,
    count_terms,
    expected_calibration_error,
    forward,
    prediction_tables,
    predicts_tokens,
    regression_metrics,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40),
    classes=st.sampled_from([2, 4]),
)
def test_classification_metrics_are_those_of_scikit_learn(pairs, classes):
    labels, predictions = np.array(pairs).T % classes
    average = {"average": "binary" if classes == 2 else "macro", "zero_division": 0}
    found = classification_metrics(labels, predictions, classes)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert found[name] == pytest.approx(score(labels, predictions, **average))


def test_regression_metrics():
    labels, predictions = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    found = regression_metrics(labels, predictions)
    assert found["mse"] == pytest.approx(1.25 / 3) and found["mae"] == pytest.approx(0.5)
    assert found["pearson"] == pytest.approx(np.corrcoef(labels, predictions)[0, 1])
    assert math.isnan(regression_metrics(labels, np.ones(3))["pearson"])


def test_calibration_error_by_hand():
    confidence, correct = [0.95, 0.95, 0.65, 0.55, 1.0], [True, False, True, False, True]
    # bins: .5-.6 |.55-0|*1, .6-.7 |.65-1|*1, .9-1 |(.95+.95+1)/3-2/3|*3
    assert expected_calibration_error(confidence, correct) == pytest.approx((0.55 + 0.35 + 0.9) / 5)
    assert expected_calibration_error(np.ones(4), np.ones(4)) == 0


@given(cuts=st.lists(st.integers(0, 30), max_size=4), kind=st.sampled_from(["classes", "regression", "tokens"]))
def test_scores_do_not_depend_on_the_batches(cuts, kind):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(30, {"classes": 3, "regression": 1, "tokens": 1}[kind], generator=rng)
    labels = {
        "classes": torch.randint(0, 3, (30,), generator=rng).index_fill(0, torch.tensor([4, 9]), -100),
        "regression": torch.randn(30, generator=rng),
        "tokens": torch.randint(0, 9, (30, 4), generator=rng),
    }[kind]
    loss = torch.rand(30, generator=rng)

    def scored(pieces):
        parts = []
        for piece in pieces:
            parts.append(Scores(tokens=kind == "tokens"))
            shown = None if kind == "tokens" else logits[piece]
            parts[-1].add({"labels": labels[piece]}, loss[piece].mean().item(), len(piece), shown)
        return pickle.loads(pickle.dumps(sum(parts, Scores()))).summary()

    pieces = [piece for piece in np.split(np.arange(30), sorted(cuts)) if len(piece)]
    assert scored(pieces) == pytest.approx(scored([np.arange(30)]), rel=1e-5)


def test_examples_without_a_label_are_not_scored():
    scores = Scores()
    scores.add({"labels": torch.tensor([1, -100, 0])}, 0.5, 2, torch.tensor([[0.0, 1.0], [5.0, 0.0], [0.0, 1.0]]))
    scores.add({"labels": torch.tensor([-100])}, math.nan, 0, torch.tensor([[5.0, 0.0]]))
    assert scores.summary()["accuracy"] == 0.5 and scores.summary()["loss"] == 0.5


def test_whole_numbers_with_one_output_are_a_regression():
    scores = Scores()
    scores.add({"labels": torch.tensor([5, 1])}, 1.0, 2, torch.tensor([[4.0], [1.0]]))
    assert scores.summary() == pytest.approx({"mse": 0.5, "mae": 0.5, "pearson": 1.0, "loss": 1.0})


def test_a_perplexity_beyond_the_floats_is_large():
    assert Scores(total_loss=1e9, terms=1, tokens=True).summary()["perplexity"] > 1e300
    assert math.isnan(Scores(tokens=True).summary()["perplexity"])


@pytest.mark.parametrize(("arch", "kind", "batch", "terms", "tokens"), [
    ("bert", "classifier", {"labels": torch.tensor([1, -100, 0])}, 2, False),
    ("bert", "classifier", {"index": torch.tensor([3, 4])}, 2, False),
    ("bert", "classifier", {"labels": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}, 4, False),
    ("bert", "masked_lm", {"labels": torch.tensor([[5, -100], [-100, 6]])}, 2, True),
    ("gpt2", "classifier", {"labels": torch.tensor([1, 0])}, 2, False),
    ("gpt2", "causal_lm", {"labels": torch.tensor([[5, -100, 7], [8, 6, -100]])}, 2, True),
    ("gpt2", "causal_lm", {"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}, 3, True),
    ("t5", "seq2seq", {"labels": torch.tensor([[5, -100], [8, 6]])}, 3, True),
])  # fmt: skip
def test_terms_of_the_mean(arch, kind, batch, terms, tokens):
    model = tiny_model(arch, kind)
    assert count_terms(model, None, batch) == terms
    assert predicts_tokens(model, batch) == tokens


def test_a_loss_may_count_for_itself():
    def loss(model, batch):
        return None

    loss.terms = lambda batch: torch.tensor(17)
    assert count_terms(nn.Linear(1, 1), loss, {}) == 17


class Classifier(nn.Module):
    def forward(self, x):
        return type("Output", (), {"logits": x})


def test_forward_sees_the_logits_of_the_first_call_and_leaves_no_hook():
    model, first, second = Classifier(), torch.zeros(2, 3), torch.ones(2, 3)

    def twice(model, batch):
        return {"loss": model(first).logits.mean() + model(second).logits.mean(), "part": 3}

    assert forward(model, twice, {}) == (1.0, first)
    with pytest.raises(ZeroDivisionError):
        forward(model, lambda model, batch: 1 / 0, {})
    assert not model._forward_hooks


@pytest.mark.parametrize("logits", [None, torch.zeros(2, 1), torch.zeros(2, 3, 4)])
def test_predictions_need_a_classifier(logits):
    seen = forward(Classifier(), lambda model, batch: model(logits) and torch.tensor(0.0), {})[1]
    with pytest.raises(ValueError, match="predict is for classifiers"):
        list(prediction_tables([({"index": torch.arange(2)}, 0.0, seen)]))
