"""Pairs pair what they say, the head is at its minimum, and the measures are their formulas."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from tiny import tiny_data, tiny_model, tiny_rows, tiny_tokenizer
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

from finetune_lessons.contrastive import (
    CosineRegression,
    alignment,
    class_pairs,
    class_triplets,
    embed,
    fit_head,
    plot_pairs,
    rated_pairs,
    retrieval,
    tokenize_pairs,
    uniformity,
)
from finetune_lessons.lab.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


def labelled(labels) -> Dataset:
    return Dataset.from_dict({"text": [f"text {i}" for i in range(len(labels))], "label": list(labels)})


def number(text: str) -> int:
    return int(text.split()[1])


LABELS = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(lambda more: [0, 0, 1, 1, 2, 2, *more])


# pairs


@given(LABELS, st.integers(1, 4), st.integers(0, 500))
def test_pairs_of_classes_are_as_many_alike_as_unlike_and_never_a_text_with_itself(labels, per_text, seed):
    found = class_pairs(labelled(labels), per_text, seed)
    assert found.column_names == ["text", "other", "score"]
    for text in set(found["text"]):
        rows = [(number(row["other"]), row["score"]) for row in found if row["text"] == text]
        assert sorted(score for _, score in rows) == [0.0] * per_text + [1.0] * per_text
        assert all(other != number(text) for other, _ in rows)
        assert all((labels[other] == labels[number(text)]) == (score == 1.0) for other, score in rows)
        alike = [other for other, score in rows if score == 1.0]
        assert len(set(alike)) == min(per_text, labels.count(labels[number(text)]) - 1)
    assert len(found) == 2 * per_text * len(labels)


@given(LABELS, st.integers(1, 3), st.integers(0, 500))
def test_triplets_have_a_positive_of_the_class_and_a_negative_of_another(labels, per_text, seed):
    found = class_triplets(labelled(labels), per_text, seed)
    assert len(found) == per_text * len(labels)
    for row in found:
        text, positive, negative = (number(row[name]) for name in ("text", "positive", "negative"))
        assert text != positive and labels[text] == labels[positive] == row["group"]
        assert labels[negative] == row["negative_group"] != row["group"]


@given(st.integers(2, 9), st.integers(1, 30), st.integers(0, 500))
def test_rated_pairs_have_the_nearness_of_their_ratings(rows, n, seed):
    ratings = np.random.default_rng(seed).uniform(-4, 4, rows)
    split = Dataset.from_dict({"text": [f"text {i}" for i in range(rows)], "intensity": ratings.tolist()})
    found = rated_pairs(split, n, seed=seed)
    assert len(found) == n
    for row in found:
        i, j = number(row["text"]), number(row["other"])
        assert i != j and row["score"] == pytest.approx(1 - abs(ratings[i] - ratings[j]) / 8) and 0 <= row["score"] <= 1


def test_pairs_are_those_of_their_seed():
    split = labelled([0, 1] * 10)
    for make in (class_pairs, class_triplets):
        assert make(split, 2, 0)[:] == make(split, 2, 0)[:] != make(split, 2, 1)[:]
    rated = split.rename_column("label", "intensity")
    assert rated_pairs(rated, 9, seed=0)[:] == rated_pairs(rated, 9, seed=0)[:] != rated_pairs(rated, 9, seed=1)[:]


@pytest.mark.parametrize(("call", "says"), [
    (lambda: class_pairs(labelled([0, 0, 1])), "two classes with two texts each, at least; given: 2 of class 0, 1 of"),
    (lambda: class_triplets(labelled([0, 0])), "two classes with two texts each, at least; given: 2 of class 0"),
    (lambda: class_pairs(labelled([0, 0, -100, 1, 1])), "row 2 has no label: leave such rows out"),
    (lambda: class_pairs(labelled([0, 0, 1, 1]), 0), "per_text is a number of partners, at least 1; given: 0"),
    (lambda: rated_pairs(labelled([1, 2]), 0, "label"), "at least 1 pair of at least 2 rows; given: 0 of 2"),
    (lambda: rated_pairs(labelled([0, 90]), 4, "label"), "'label' has numbers .* more than span=8 apart"),
    (lambda: rated_pairs(labelled([math.nan] * 3), 4, "label"), "'label' has numbers that are missing"),
])  # fmt: skip
def test_what_makes_no_pairs_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# the head


@pytest.mark.parametrize(("classes", "l2"), [(2, 1.0), (3, 0.1), (5, 10.0)])
def test_the_head_is_the_logistic_regression_of_scikit_learn(classes, l2):
    torch.manual_seed(0)
    y = torch.arange(40) % classes
    x = normalize(torch.randn(40, 6) + torch.nn.functional.one_hot(y, 6), dim=1)
    head = fit_head(x, y, l2)
    with torch.enable_grad():
        w, b = (p.detach().double().requires_grad_() for p in (head.weight, head.bias))
        loss = cross_entropy(x.double() @ w.T + b, y, reduction="sum") + l2 / 2 * w.square().sum()
        slopes = torch.autograd.grad(loss, (w, b))
    assert max(slope.abs().max() for slope in slopes) < 1e-4
    theirs = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=1000).fit(x.double().numpy(), y.numpy())
    if classes > 2:  # of two classes theirs has one row of weights
        assert_close(head(x).softmax(-1).double().numpy(), theirs.predict_proba(x.double().numpy()), rtol=0, atol=1e-4)
    assert (head(x).argmax(1).numpy() == theirs.predict(x.double().numpy())).mean() > 0.97
    assert not any(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize(("vectors", "labels", "says"), [
    (torch.ones(3, 2), [0, 0, 2], r"classes 0, 1, ... with a text each; given: \(3, 2\), \[0, 2\]"),
    (torch.ones(3, 2), [0, 0, 0], "with a text each"),
    (torch.ones(3, 2), [0, 1], "expected vectors"),
    (torch.ones(0, 2), [], "expected vectors"),
])  # fmt: skip
def test_the_head_refuses_what_does_not_fit(vectors, labels, says):
    with pytest.raises(ValueError, match=says):
        fit_head(vectors, labels)
    with pytest.raises(ValueError, match="l2 must be above 0; given: 0"):
        fit_head(torch.eye(2), [0, 1], l2=0)


# measures


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 500))
def test_retrieval_is_what_sorting_by_the_cosine_gives(queries, documents, seed):
    torch.manual_seed(seed)
    q, d, right = torch.randn(queries, 5), torch.randn(documents, 5), torch.randint(documents, (queries,))
    ranks = []
    for i in range(queries):
        cosines = {j: float(normalize(q[i], dim=0) @ normalize(d[j], dim=0)) for j in range(documents)}
        ranks.append(1 + sorted(cosines, key=lambda j: -cosines[j]).index(int(right[i])))
    found = retrieval(q, d, right)
    assert found["recall@1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert found["MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_vectors_that_are_all_alike_find_nothing():
    one = torch.ones(10, 4) + 1e-9 * torch.randn(10, 4)
    assert retrieval(one, one) == {"recall@1": 0.0, "MRR": 0.1}
    assert retrieval(torch.eye(4), torch.eye(4)) == {"recall@1": 1.0, "MRR": 1.0}


@pytest.mark.parametrize("given", [
    (torch.ones(2, 3), torch.ones(2, 4)), (torch.ones(3, 3), torch.ones(2, 3)), (torch.ones(0, 3), torch.ones(2, 3)),
    (torch.ones(2, 3), torch.ones(2, 3), [0, 2]), (torch.ones(2, 3), torch.ones(2, 3), [0]),
], ids=str)  # fmt: skip
def test_retrieval_refuses_what_does_not_fit(given):
    with pytest.raises(ValueError, match="expected queries and documents of one width"):
        retrieval(*given)


@given(st.integers(2, 7), st.integers(0, 500))
def test_alignment_and_uniformity_are_their_formulas(n, seed):
    torch.manual_seed(seed)
    x, y = torch.randn(n, 3), torch.randn(n, 3)
    u, v = (normalize(z.double(), dim=1) for z in (x, y))
    assert alignment(x, y) == pytest.approx(np.mean([float((a - b).norm() ** 2) for a, b in zip(u, v, strict=True)]))
    apart = [math.exp(-2 * float((u[i] - u[j]).norm() ** 2)) for i in range(n) for j in range(i)]
    assert uniformity(x) == pytest.approx(math.log(np.mean(apart)), abs=1e-4)
    assert alignment(x, x) == 0 and uniformity(x[:1].expand(n, -1)) == 0


def test_uniformity_is_that_of_several():
    with pytest.raises(ValueError, match="at least two vectors; given: 1"):
        uniformity(torch.ones(1, 3))


def test_the_picture_tells_in_words_what_it_shows():
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    picture = plot_pairs({"before": (x, torch.randn(6, 8)), "after": (x, x)}, [0, 1, 0, 1, 2, 2], ["a", "b", "c"])
    assert "after: alignment 0.00" in picture.alt and "100% of the texts lie nearest to their own" in picture.alt
    assert len(picture.axes) == 2 and len(picture.axes[0].lines) == 6


# few labels


def few_shot(labels, seed: int = 0) -> float:
    "Accuracy on other texts of a head, after training on pairs of texts with these labels."
    texts = Dataset.from_dict({"text": tiny_rows(len(labels))["text"], "label": labels})
    model, tokenizer = tiny_model("bert", seed=seed), tiny_tokenizer()
    data = tokenize_pairs(DatasetDict(train=class_pairs(texts, 4)), tokenizer)
    run = Run(model, tokenizer, data, loss=CosineRegression(), lr=5e-3, epochs=4, precision="fp32", eval_every=0)
    for _ in run:
        pass
    head = fit_head(embed(model, tokenizer, texts["text"][:]), labels)
    test = tiny_data(test=100)["test"]
    said = head(embed(model, tokenizer, test["text"][:])).argmax(1)
    return float((said == torch.tensor(test["label"][:])).float().mean())


def test_few_labels_teach_and_shuffled_ones_do_not():
    labels = tiny_rows(32)["label"]
    shuffled = [labels[i] for i in torch.randperm(32, generator=torch.Generator().manual_seed(1))]
    assert few_shot(labels) > 0.75
    assert 0.3 < few_shot(shuffled) < 0.7
