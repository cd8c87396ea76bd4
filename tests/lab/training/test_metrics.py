"""Numbers over examples: the same as the libraries' own, however the batches fall."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from finetune_lessons.lab.training.metrics import (
    classification_metrics,
    expected_calibration_error,
    multi_label_metrics,
    regression_metrics,
)


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


THREE = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3)


@given(rows=st.lists(THREE, min_size=1, max_size=30))
def test_metrics_of_several_classes_are_those_of_scikit_learn(rows):
    labels, predictions = np.array(rows, dtype=float).transpose(2, 0, 1)
    found = multi_label_metrics(labels, predictions.astype(int))
    for average in ("micro", "macro"):
        expected = f1_score(labels, predictions, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(expected)
    assert found["exact_match"] == pytest.approx(accuracy_score(labels, predictions))


def test_missing_decisions_and_numbers_count_for_nothing():
    labels = np.array([[1.0, np.nan], [0.0, 1.0]])
    found = multi_label_metrics(labels, np.array([[1, 1], [0, 1]]))
    assert found == {"f1_micro": 1.0, "f1_macro": 1.0, "exact_match": 1.0}
    numbers = regression_metrics(np.array([1.0, np.nan, 4.0]), np.array([1.0, 9.0, 3.0]))
    assert numbers["mse"] == 0.5 and numbers["mae"] == 0.5
