"""What predictions are worth: numbers over examples."""

import math

import numpy as np


def classification_metrics(
    labels: np.ndarray,  # (examples,) class numbers
    predictions: np.ndarray,  # (examples,) class numbers
    classes: int,  # how many there are, seen here or not
) -> dict[str, float]:
    "Accuracy, precision, recall and F1: of class 1 where there are two classes, else the mean over the classes."
    from sklearn.metrics import precision_recall_fscore_support

    average = "binary" if classes == 2 else "macro"
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions, average=average, zero_division=0)
    accuracy = float((labels == predictions).mean())
    return {"accuracy": accuracy, "precision": float(precision), "recall": float(recall), "f1": float(f1)}


def multi_label_metrics(
    labels: np.ndarray,  # (examples, classes) 0..1, NaN where one is missing; from 0.5 on a yes
    predictions: np.ndarray,  # (examples, classes) 0 or 1
) -> dict[str, float]:
    "F1 over all decisions (micro) and as the mean over the classes (macro); the share of examples all right."
    from sklearn.metrics import f1_score

    known, truth = ~np.isnan(labels), labels >= 0.5
    by_class = [f1_score(t[k], p[k], zero_division=0) for t, p, k in zip(truth.T, predictions.T, known.T, strict=True)]
    return {
        "f1_micro": float(f1_score(truth[known], predictions[known], zero_division=0)),
        "f1_macro": float(np.mean(by_class)),
        "exact_match": float(((truth == predictions) | ~known).all(1).mean()),
    }


def regression_metrics(
    labels: np.ndarray,  # (examples,), or (examples, outputs); NaN where one is missing
    predictions: np.ndarray,  # likewise
) -> dict[str, float]:
    "Mean squared error, mean absolute error and Pearson's correlation (NaN where one side is constant)."
    known = ~np.isnan(labels)
    labels, predictions = labels[known], predictions[known]
    error = predictions - labels
    constant = labels.std() == 0 or predictions.std() == 0
    pearson = math.nan if constant else float(np.corrcoef(labels, predictions)[0, 1])
    return {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean()), "pearson": pearson}


def perplexity(loss: float) -> float:  # mean over tokens, in nats
    "How many tokens the model is undecided between, on average; beyond the floats it is merely large."
    return math.exp(min(loss, 700.0))


def expected_calibration_error(
    confidence: np.ndarray,  # (examples,) the probability that the model gave its prediction
    correct: np.ndarray,  # (examples,) whether the prediction was right
    bins: int = 10,  # of equal width on 0..1
) -> float:
    "Mean gap between confidence and accuracy, weighted by bin size (Guo et al. 2017, arXiv:1706.04599)."
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((confidence - correct)[which == b].sum()) for b in np.unique(which)]
    return float(sum(gaps) / len(which))
