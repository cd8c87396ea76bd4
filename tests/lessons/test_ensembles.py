"""Lesson 51: ensembles against scipy and scikit-learn, averages against torch, merging against cases solved by hand."""

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from tiny import ENCODERS, EVERY, tiny_data, tiny_model, tiny_tokenizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

from finetune_lessons.adapters import add_adapters
from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.distillation import Distillation
from finetune_lessons.ensembles import (
    SWA,
    Stack,
    add_ensemble_logits,
    along_line,
    ambiguity,
    average_logits,
    average_probabilities,
    average_weights,
    averaging,
    barrier,
    dare,
    disagreement,
    elected_mean,
    greedy_soup,
    member_logits,
    merge_methods,
    merge_models,
    merge_weights,
    method_vector,
    out_of_fold,
    spread,
    task_vector,
    trained_weights,
    trim,
    vote,
    vote_shares,
    weights_in_place,
    with_body,
)
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import activate, freeze, wrappers
from finetune_lessons.semi_supervised import EMA

RULES = ("arithmetic", "ties", "dare", "dare ties")

pytestmark = pytest.mark.usefixtures("one_thread")


def members(count=4, rows=30, classes=3, seed=0, size=2.0):
    draw = torch.Generator().manual_seed(seed)
    return [size * torch.randn(rows, classes, generator=draw) for _ in range(count)]


def labels_of(rows=30, classes=3, seed=1):
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


# averages of what members say

AVERAGES = (average_probabilities, average_logits)


@pytest.mark.parametrize("weights", [None, [1, 2, 0, 5], [0.1, 0.1, 0.1, 0.1]])
def test_the_mean_probability_is_that_of_scikit_learn(weights):
    f = members()
    p = np.average([one.softmax(-1) for one in f], axis=0, weights=weights)
    assert_close(average_probabilities(f, weights).exp(), torch.tensor(p).float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, [1, 2, 0, 5]])
def test_the_mean_of_logits_is_the_geometric_mean_of_the_probabilities(weights):
    f = members()
    p = np.exp(np.average([one.log_softmax(-1) for one in f], axis=0, weights=weights))
    p /= p.sum(-1, keepdims=True)
    assert_close(average_logits(f, weights).exp(), torch.tensor(p).float(), atol=1e-6, rtol=1e-5)
    raw = torch.tensor(np.average(torch.stack(f), axis=0, weights=weights)).float().softmax(-1)
    assert_close(average_logits(f, weights).exp(), raw, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("average", AVERAGES)
def test_one_member_and_equal_members_are_their_average(average):
    (f,) = members(1)
    for some in ([f], [f, f + 3.0, f - 100.0]):
        assert_close(average(some), f.log_softmax(-1), atol=1e-5, rtol=1e-5)


def test_probabilities_that_a_float_does_not_hold_are_averaged_in_log_space():
    f = [torch.tensor([[0.0, -300.0]]), torch.tensor([[0.0, -310.0]])]
    assert_close(average_probabilities(f)[0, 1].item(), -300.0 - np.log(2), atol=1e-3, rtol=0)


def test_one_member_has_a_veto_in_the_mean_of_logits_alone():
    certain = [torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.0, 0.0]])]
    assert_close(average_probabilities(certain).exp(), torch.tensor([[0.75, 0.25]]))
    assert_close(average_logits(certain).exp(), torch.tensor([[1.0, 0.0]]))
    assert_close(average_logits(certain, [0, 1]).exp(), torch.tensor([[0.5, 0.5]]))


def fixed(f):
    "An estimator that answers with these logits; a row is its own number."

    class Fixed(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def predict_proba(self, x):
            return f.double().softmax(-1).numpy()[x[:, 0]]

        def decision_function(self, x):
            g = f.double().numpy()[x[:, 0]]
            return g[:, 1] - g[:, 0] if g.shape[1] == 2 else f.double().log_softmax(-1).numpy()[x[:, 0]]

        def predict(self, x):
            return self.predict_proba(x).argmax(-1)

    return Fixed()


def test_votes_are_those_of_scikit_learn_where_there_is_no_tie():
    f, rows = members(5, classes=2), np.arange(30)[:, None]
    theirs = VotingClassifier([(str(i), fixed(one)) for i, one in enumerate(f)], voting="hard").fit(rows, rows % 2 == 0)
    assert vote(f).tolist() == theirs.predict(rows).astype(int).tolist()
    assert_close(vote_shares(f).sum(-1), torch.ones(30))


def test_of_tied_classes_the_more_probable_one_is_voted_for_and_a_majority_is_never_overruled():
    f = [torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]), torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.0, 0.0]])]
    assert vote(f).tolist() == [0, 1]
    sure = [torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.01]]), torch.tensor([[0.0, 0.01]])]
    assert vote(sure).tolist() == [1] and average_probabilities(sure).argmax(-1).tolist() == [0]


@pytest.mark.parametrize("function", [*AVERAGES, vote, vote_shares, spread, disagreement])
@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ([], "no member"),
        ([torch.zeros(3, 2), torch.zeros(4, 2)], "of the same rows and classes"),
        ([torch.zeros(3)], "real numbers \\(rows, classes\\)"),
        ([torch.zeros(3, 1)], "real numbers"),
        ([torch.zeros(3, 2).long()], "real numbers"),
        ([torch.zeros(3, 2), torch.full((3, 2), torch.nan)], "member 1 hold NaN"),
    ],
)
def test_what_cannot_be_averaged_is_refused(function, given_, sentence):
    with pytest.raises(ValueError, match=sentence):
        function(given_)


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 1, 1], [0, 0, 0, 0], [1, 1, 1, np.nan], [1, 1, 1, np.inf]])
@pytest.mark.parametrize("average", AVERAGES)
def test_weights_that_are_no_shares_are_refused(average, weights):
    with pytest.raises(ValueError, match="a weight of at least 0 for each of 4 members"):
        average(members(), weights)


# why it pays


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(2, 5), st.floats(0.1, 20), st.integers(0, 2**16))
def test_an_average_is_never_worse_than_its_members_on_average(count, rows, classes, size, seed):
    f, y = members(count, rows, classes, seed, size), labels_of(rows, classes, seed + 1)
    for average in AVERAGES:
        found = ambiguity(f, y, average)
        assert found["gain"] >= -1e-9
        assert found["gain"] == pytest.approx(found["members"] - found["ensemble"])
        nll = F.cross_entropy(average([one.double() for one in f]), y).item()
        assert found["ensemble"] == pytest.approx(nll)


def test_what_the_mean_of_logits_gains_is_the_spread_whatever_the_labels():
    f = members()
    for seed in range(3):
        gain = ambiguity(f, labels_of(seed=seed), average_logits)["gain"]
        assert gain == pytest.approx(spread(f).mean().item(), abs=1e-5)


def test_equal_members_gain_nothing_and_agree():
    (f,) = members(1)
    assert ambiguity([f, f], labels_of())["gain"] == pytest.approx(0, abs=1e-9)
    assert spread([f, f]).abs().max() < 1e-5 and not disagreement([f, f]).any()


def test_disagreement_is_counted_by_pairs():
    a, b, c = torch.eye(2)[[0, 0, 1, 1]], torch.eye(2)[[0, 1, 1, 1]], torch.eye(2)[[1, 1, 0, 0]]
    expected = torch.tensor([[0, 0.25, 1], [0.25, 0, 0.75], [1, 0.75, 0]], dtype=torch.float64)
    assert_close(disagreement([a, b, c]), expected)


# runs as members


def of_rows(labels, names=("no", "yes"), texts=None):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    texts = texts or [f"word{i}" for i in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def a_run(data, seed=0, arch="bert", **settings):
    model = tiny_model(arch, num_labels=len(data["train"].features["label"].names), seed=seed)
    settings = {"lr": 1e-3, "epochs": 1, "batch_size": 8, "eval_every": 0} | settings
    return Run(model, tiny_tokenizer(), data, loss=classification_loss, **settings)


def test_members_answer_for_the_same_rows_in_the_order_of_the_first_ones_classes():
    train = of_rows([0, 1] * 4)
    same = DatasetDict(train=train, test=of_rows([0, 1, 1, 0, 1]))
    turned = DatasetDict(train=of_rows([1, 0] * 4, ("yes", "no")), test=of_rows([1, 0, 0, 1, 0], ("yes", "no")))
    runs = [a_run(same, 0), a_run(turned, 1)]
    labels, (first, second) = member_logits(runs)
    assert labels.tolist() == [0, 1, 1, 0, 1]
    alone = torch.tensor(np.stack(runs[1].predict("test")["logits"].tolist()))
    assert_close(second, alone[:, [1, 0]])
    assert_close(first, torch.tensor(np.stack(runs[0].predict("test")["logits"].tolist())))


def test_rows_without_a_label_are_no_rows_of_a_member():
    data = DatasetDict(train=of_rows([0, 1] * 4), test=of_rows([0, None, 1]))
    labels, (f,) = member_logits([a_run(data)])
    assert labels.tolist() == [0, 1] and f.shape == (2, 2)


def test_members_of_other_rows_or_classes_are_refused():
    train = of_rows([0, 1] * 4)
    one = a_run(DatasetDict(train=train, test=of_rows([0, 1])))
    other_texts = a_run(DatasetDict(train=train, test=of_rows([0, 1], texts=["word5", "word6"])))
    other_labels = a_run(DatasetDict(train=train, test=of_rows([1, 1])))
    for other in (other_texts, other_labels):
        with pytest.raises(ValueError, match="member 1 has other rows in 'test' than member 0"):
            member_logits([one, other])
    names = ("bad", "good")
    named = a_run(DatasetDict(train=of_rows([0, 1] * 4, names), test=of_rows([0, 1], names)))
    with pytest.raises(ValueError, match="member 1 tells apart"):
        member_logits([one, named])
    with pytest.raises(ValueError, match="at least one member"):
        member_logits([])


# stacking


def test_out_of_fold_logits_are_of_runs_that_have_not_seen_the_row():
    data = tiny_data(train=24)
    asked = []

    def make_run(fold):
        assert set(fold) == {"train", "test"}
        asked.append((fold["train"]["text"][:], fold["test"]["text"][:]))
        return a_run(fold, seed=len(asked))

    f = out_of_fold(make_run, data, folds=3)
    assert f.shape == (24, 2)
    texts = data["train"]["text"][:]
    for fit, held in asked:
        assert not set(fit) & set(held) and set(fit) | set(held) == set(texts)
        labels = [data["train"]["label"][texts.index(text)] for text in held]
        assert labels.count(0) == labels.count(1) == 4
    assert sorted(itertools.chain(*(held for _, held in asked))) == sorted(texts)
    for number, (fit, held) in enumerate(asked, 1):
        fold = DatasetDict(
            train=data["train"].select([texts.index(t) for t in fit]),
            test=data["train"].select([texts.index(t) for t in held]),
        )
        run = a_run(fold, seed=number)
        for _ in run:
            pass
        expected = torch.tensor(np.stack(run.predict("test")["logits"].tolist()))
        assert_close(f[[texts.index(t) for t in held]], expected, atol=1e-6, rtol=1e-5)


def test_what_leaks_into_a_fold_is_refused():
    data = tiny_data(train=24)
    with pytest.raises(ValueError, match=r"made a run of 24 rows from data with 16"):
        out_of_fold(lambda fold: a_run(data), data, folds=3)
    twice = DatasetDict(train=of_rows([0, 1] * 6, texts=["same word"] * 2 + [f"word{i}" for i in range(10)]))
    with pytest.raises(ValueError, match="train"):
        for seed in range(9):
            out_of_fold(a_run, twice, folds=2, seed=seed)
    with pytest.raises(ValueError, match="1 rows of train have no label"):
        out_of_fold(a_run, DatasetDict(train=of_rows([0, 1, None, 1])))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("l2", [0.3, 2.0])
def test_a_stack_is_that_of_scikit_learn_on_the_same_predictions(classes, l2):
    f, y = members(3, 200, classes, size=1.5), labels_of(200, classes).numpy()
    f = [one + 2 * F.one_hot(torch.tensor(y), classes) * (i + 1) / 3 for i, one in enumerate(f)]
    rows = np.arange(200)[:, None]
    C = (2 if classes == 2 else 1) / l2  # theirs has one row of weights for two classes
    final = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
    theirs = StackingClassifier(
        [(str(i), fixed(one).fit(rows, y)) for i, one in enumerate(f)],
        final_estimator=final, stack_method="decision_function", cv="prefit",
    ).fit(rows, y)  # fmt: skip
    ours = Stack(f, y, l2)(f).softmax(-1)
    assert_close(ours, torch.tensor(theirs.predict_proba(rows)).float(), atol=2e-4, rtol=0)


def test_a_stack_wants_the_members_that_it_was_fitted_on():
    f, y = members(3, 40, 2), labels_of(40, 2)
    stack = Stack(f, y)
    with pytest.raises(ValueError, match="fitted on 3 numbers a row, given 2"):
        stack(f[:2])
    with pytest.raises(ValueError, match="a member is certain"):
        Stack([*f, torch.full((40, 2), -torch.inf)], y)
    assert_close(stack([one + 7 for one in f]), stack(f), atol=1e-4, rtol=0)


def test_an_ensemble_teaches_as_its_column():
    data, f = tiny_data(train=24), members(1, 24, 2)[0]
    taught = add_ensemble_logits(add_ensemble_logits(data, f + 1), f)
    assert_close(torch.tensor(taught["train"]["teacher_logits"][:]), f)
    assert "teacher_logits" not in taught["test"].column_names
    run = Run(tiny_model("bert"), tiny_tokenizer(), taught, loss=Distillation(), epochs=1, batch_size=8)
    assert all({"hard", "soft"} <= set(step.parts) for step in run)
    for wrong in (f[:5], f[0], f * torch.nan):
        with pytest.raises(ValueError, match="finite logits for each of 24 rows"):
            add_ensemble_logits(data, wrong)


# averages of weights


def vectors(count=3, seed=0, near=0.1):
    "Weights near a common beginning, and that."
    draw = torch.Generator().manual_seed(seed)
    base = {"a.weight": torch.randn(4, 3, generator=draw), "a.bias": torch.randn(4, generator=draw)}
    some = [{n: x + near * torch.randn(x.shape, generator=draw) for n, x in base.items()} for _ in range(count)]
    return base, some


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_the_mean_of_weights_is_the_mean():
    _, some = vectors()
    for weights in (None, [1, 2, 5]):
        found = average_weights(some, weights)
        for name in found:
            expected = np.average([s[name] for s in some], axis=0, weights=weights)
            assert_close(found[name], torch.tensor(expected).float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mean_of_one_and_of_equal_ones_is_itself_to_the_bit(dtype):
    _, (one, *_) = vectors()
    one = {name: x.to(dtype) for name, x in one.items()}
    assert same(average_weights([one]), one) and same(average_weights([one] * 3), one)
    assert same(average_weights([one] * 2, [0.3, 0.7]), one)


def test_members_that_did_not_start_from_the_same_numbers_are_refused():
    (
        _,
        (one, *_),
    ) = vectors()
    other = {"a.weight": -one["a.weight"] + 0.5, "a.bias": one["a.bias"]}
    with pytest.raises(ValueError, match=r"a.weight of members 0 and 1 .* cosine of -\d.*with one seed"):
        average_weights([one, other])
    with pytest.raises(ValueError, match="did not start from the same"):
        greedy_soup([one, other], lambda weights: 0.0)
    assert average_weights([one, other], alike=-1)
    turned = {"a.weight": one["a.weight"], "a.bias": -one["a.bias"]}  # a bias may turn
    assert average_weights([one, turned])


def test_members_of_other_names_or_shapes_are_refused():
    _, (one, *_) = vectors()
    with pytest.raises(ValueError, match="only one of members 0 and 1 has a.bias"):
        average_weights([one, {"a.weight": one["a.weight"]}])
    with pytest.raises(ValueError, match=r"a.weight is \(4, 3\) in member 0 and \(5, 3\) in member 1"):
        average_weights([one, {"a.weight": torch.ones(5, 3), "a.bias": one["a.bias"]}])
    with pytest.raises(ValueError, match="given: none"):
        average_weights([])


def test_models_with_different_new_heads_are_refused_and_those_with_one_head_are_not():
    bodies = [tiny_model("bert", seed=0) for _ in range(3)]
    torch.manual_seed(5)
    torch.nn.init.normal_(bodies[2].classifier.weight, std=0.2)
    weights = [trained_weights(model) for model in bodies]
    average_weights(weights[:2])
    with pytest.raises(ValueError, match="classifier.weight of members 0 and 2"):
        average_weights(weights)


def test_trained_weights_are_copies_of_what_is_trained():
    model = freeze(tiny_model("bert"))
    with pytest.raises(ValueError, match="nothing is trained"):
        trained_weights(model)
    model.classifier.requires_grad_(True)
    model.bert.pooler.requires_grad_(True)
    found = trained_weights(model)
    assert list(found) == [name for name, p in model.named_parameters() if p.requires_grad]
    model.classifier.weight.data += 1
    assert not torch.equal(found["classifier.weight"], model.classifier.weight)
    assert all(name.startswith("bert.pooler") for name in trained_weights(model, exclude="classifier"))
    with pytest.raises(ValueError, match="'class' leaves out nothing"):
        trained_weights(model, exclude=["class"])


def test_weights_are_in_place_inside_and_gone_outside_even_after_an_error():
    model = tiny_model("bert")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    other = {name: x + 1 for name, x in trained_weights(model).items()}
    with pytest.raises(RuntimeError, match="in the middle"), weights_in_place(model, other):
        assert all(torch.equal(p, other[name]) for name, p in model.named_parameters())
        raise RuntimeError("in the middle")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    for wrong in ({"nothing": torch.ones(2)}, {"classifier.weight": torch.ones(5, 32)}):
        with pytest.raises(ValueError, match="has no"), weights_in_place(model, wrong):
            pass


def greedy_by_hand(some, score):
    ranked = sorted(range(len(some)), key=lambda i: score(some[i]), reverse=True)
    soup = ranked[:1]
    for i in ranked[1:]:
        names = some[0]
        now, more = ({n: sum(some[j][n] for j in js) / len(js) for n in names} for js in (soup, [*soup, i]))
        soup = [*soup, i] if score(more) >= score(now) - 1e-7 else soup
    return soup


@pytest.mark.parametrize("seed", range(8))
def test_a_greedy_soup_keeps_what_makes_it_no_worse(seed):
    base, some = vectors(5, seed, near=0.3)
    goal = vectors(1, seed + 100)[0]

    def score(weights):
        return -sum((weights[n] - base[n] - 0.05 * goal[n]).square().sum().item() for n in base)

    soup, chosen = greedy_soup(some, score)
    assert chosen == greedy_by_hand(some, score)
    assert score(soup) >= max(map(score, some)) - 1e-9
    assert same(soup, average_weights([some[i] for i in chosen]))


def test_a_greedy_soup_keeps_what_changes_nothing():
    _, some = vectors(4)
    assert greedy_soup(some, lambda weights: 1.0)[1] == [0, 1, 2, 3]


def test_the_line_between_two_and_its_barrier():
    _, (a, b, _) = vectors()
    ts = [-0.5, 0, 0.25, 1, 1.5]
    sums = along_line(a, b, lambda w: w["a.bias"].sum().item(), ts)
    expected = [((1 - t) * a["a.bias"] + t * b["a.bias"]).sum().item() for t in ts]
    assert sums == pytest.approx(expected, abs=1e-5)
    seen = []
    along_line(a, b, lambda w: seen.append(w) or 0.0, [0, 1])
    assert same(seen[0], a) and same(seen[1], b)
    assert barrier([0, 0.5, 1], [1.0, 2.5, 2.0]) == pytest.approx(1.0)
    assert barrier([0, 0.5, 1], [1.0, 1.0, 2.0]) == pytest.approx(0)


# averages on the way


def steps(model, count=7, seed=0):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=draw))
        yield model


def test_swa_is_that_of_torch():
    model = torch.nn.Linear(3, 4)
    ours, theirs = SWA(model), AveragedModel(model)
    for _ in steps(model):
        ours.update(model)
        theirs.update_parameters(model)
    for name, p in theirs.module.named_parameters():
        assert_close(ours.weights()[name], p.detach(), atol=1e-6, rtol=1e-5)


def test_ema_begins_with_the_start_and_that_of_torch_with_the_first_step():
    model = torch.nn.Linear(3, 4)
    ours = EMA(model, decay=0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for count, _ in enumerate(steps(model), 1):
        ours.update(model)
        theirs.update_parameters(model)
        if count == 1:
            first = {name: p.detach().clone() for name, p in model.named_parameters()}
        for name, p in theirs.module.named_parameters():
            apart = 0.9**count * (start[name] - first[name])
            assert_close(ours.weights()[name] - p.detach(), apart, atol=1e-6, rtol=1e-5)
    assert apart.abs().max() > 1e-3


def test_swa_takes_no_decay():
    model = torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match="it takes no decay"):
        SWA(model).update(model, 0.9)


def test_averaging_updates_after_the_steps_that_are_asked_for():
    run = a_run(tiny_data(train=80))
    average, seen = SWA(run.model), []
    for step in averaging(run, average, every=3, start=0.5):
        if step.index in (5, 8):
            seen.append(trained_weights(run.model))
    assert run.done and int(average.updates) == 2 and len(seen) == 2
    expected = average_weights(seen)
    for name, x in average.weights().items():
        assert_close(x, expected[name], atol=1e-6, rtol=1e-5)


def test_averaging_changes_nothing_about_the_run():
    data = tiny_data(train=40)
    plain, watched = a_run(data), a_run(data)
    losses = [step.loss for step in plain]
    assert [step.loss for step in averaging(watched, EMA(watched.model, 0.5))] == losses


def test_an_average_that_would_be_its_beginning_is_refused_with_one_that_would_not():
    run = a_run(tiny_data(train=80))
    with pytest.raises(ValueError, match=r"10 updates with decay 0.999 .* still 99% its beginning.*0.794"):
        next(averaging(run, EMA(run.model, 0.999)))
    for decay in (0.794, 0.92):  # a tenth, and less than a half
        next(averaging(run, EMA(run.model, decay)))
    next(averaging(run, SWA(run.model)))
    whole = a_run(tiny_data(train=80))
    with pytest.raises(ValueError, match="after 2 updates with decay 0.9 "):
        next(averaging(whole, EMA(whole.model, 0.9), every=5))
    with pytest.raises(ValueError, match="after 3 updates with decay 0.9 "):
        next(averaging(whole, EMA(whole.model, 0.9), start=0.7))
    for wrong in ({"every": 0}, {"start": 1.0}, {"start": -0.1}):
        with pytest.raises(ValueError, match="every is a number of steps"):
            next(averaging(run, SWA(run.model), **wrong))


# merging


def of_numbers(*numbers):
    return {"w": torch.tensor(numbers, dtype=torch.float64)}


def test_trim_keeps_the_largest_of_the_whole_vector():
    vector = {"a": torch.tensor([[3.0, -0.1], [0.2, -4.0]]), "b": torch.tensor([0.3, 0.0])}
    assert_close(trim(vector, 0.5)["a"], torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
    assert_close(trim(vector, 0.5)["b"], torch.tensor([0.3, 0.0]))
    assert same(trim(vector, 1.0), vector)
    assert trim(vector, 0.01)["a"].count_nonzero() == 1 and not trim(vector, 0.01)["b"].any()


def test_ties_is_the_case_solved_by_hand():
    "Two vectors, all kept: the sign of 3 - 1, of -2 - 2, of 1 - 4, of a tie, of one alone."
    a, b = of_numbers(3, -2, 1, 5, 2), of_numbers(-1, -2, -4, -5, 0)
    assert_close(elected_mean([a, b])["w"], torch.tensor([3.0, -2, -4, 0, 2]).double())
    base = of_numbers(1, 1, 1, 1, 1)
    models = [{"w": base["w"] + v["w"]} for v in (a, b)]
    merged = merge_weights(base, models, how="ties", density=1.0, scale=0.5)
    assert_close(merged["w"], torch.tensor([2.5, 0, -1, 1, 2]).double())
    merged = merge_weights(base, models, how="ties", density=0.4)  # of five: 3 and 5; -4 and -5
    assert_close(merged["w"], 1 + torch.tensor([3.0, 0, -4, 0, 0]).double())


def test_weights_of_ties_count_before_the_election_and_divide():
    a, b, c = of_numbers(3, 1), of_numbers(-2, 3), of_numbers(1, -9)
    found = elected_mean([a, b, c], [1, 2, 1])["w"]  # sums 0 and -2
    assert_close(found, torch.tensor([0.0, -9.0]).double())
    found = elected_mean([a, b, c], [2, 1, 1])["w"]  # sums 5 and -4
    assert_close(found, torch.tensor([(2 * 3 + 1) / 3, -9.0]).double())


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_with_equal_weights_ties_is_that_of_peft_up_to_its_weights_and_zeros(density):
    draw = torch.Generator().manual_seed(0)
    each = [torch.randn(50, generator=draw, dtype=torch.float64) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = merge_utils.ties(each, torch.ones(3, dtype=torch.float64), density)
    ours = elected_mean([trim({"w": x}, density) for x in each])["w"]
    assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_the_departures_of_peft_and_of_mergekit():
    a = torch.tensor([1.0, -2.0, 4.0]).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        halved = merge_utils.ties([a, a], torch.tensor([0.5, 0.5]).double(), 1.0)
        tie = merge_utils.ties([a, -a], torch.ones(2).double(), 1.0)
    assert_close(halved, a / 2)  # the divisor counts entries
    assert_close(elected_mean([{"w": a}, {"w": a}], [0.5, 0.5])["w"], a)
    assert_close(tie, a.abs())  # a sum of 0 elects +
    assert not elected_mean([{"w": a}, {"w": -a}])["w"].any()
    kept = torch.tensor([1.0, 0.0, 4.0]).double()  # the L1 norm stays: 7 / 5 in the place of 1 / density
    assert_close(kept * a.abs().sum() / kept.abs().sum(), torch.tensor([1.4, 0, 5.6]).double())


def test_dare_keeps_each_entry_with_its_probability_and_the_vector_on_average():
    x = {"a": torch.full((200, 300), 2.0), "b": torch.ones(1000)}
    found = dare(x, 0.25, seed=3)
    assert set(found["a"].unique().tolist()) == {0.0, 8.0} and set(found["b"].unique().tolist()) == {0.0, 4.0}
    assert found["a"].mean().item() == pytest.approx(2, abs=0.06)
    assert same(found, dare(x, 0.25, seed=3)) and not same(found, dare(x, 0.25, seed=4))
    assert same(dare(x, 1.0), x)
    rows = found["b"][:1000] > 0
    assert not torch.equal(rows, found["a"].flatten()[:1000] > 0)  # each tensor draws anew


def test_models_draw_apart_in_dare():
    base, ones = {"w": torch.zeros(2000)}, {"w": torch.ones(2000)}
    merged = merge_weights(base, [ones, ones], how="dare", density=0.5)["w"]
    shares = [(merged == value).double().mean().item() for value in (0, 2, 4)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


def test_arithmetic_adds_the_vectors():
    base, some = vectors(2)
    merged = merge_weights(base, some, [0.4, -0.3], scale=2.0)
    for name, x in base.items():
        expected = x + 2 * (0.4 * (some[0][name] - x) - 0.3 * (some[1][name] - x))
        assert_close(merged[name], expected, atol=1e-6, rtol=1e-6)
    both = merge_weights(base, some)
    assert_close(both["a.bias"], some[0]["a.bias"] + some[1]["a.bias"] - base["a.bias"])


@pytest.mark.parametrize("how", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_of_one_at_weight_one_is_itself_to_the_bit(how, dtype):
    base, (one,) = (vectors(1)[0], vectors(1)[1])
    base, one = ({name: x.to(dtype) for name, x in of.items()} for of in (base, one))
    assert same(merge_weights(base, [one], [1.0], how, density=None if how == "arithmetic" else 1.0), one)
    assert same(merge_weights(base, [base], [1.0], how), base)


@pytest.mark.parametrize(("how", "density"), [("ties", 0.2), ("dare", 0.1), ("dare ties", 0.1)])
def test_the_usual_densities_are_those_of_the_papers(how, density):
    base, some = vectors(2, near=0.5)
    assert same(merge_weights(base, some, how=how), merge_weights(base, some, how=how, density=density))


def test_what_cannot_be_merged_is_refused():
    base, some = vectors(2)
    for call, sentence in (
        (
            lambda: merge_weights(base, some, how="slerp"),
            "how is one of arithmetic, .*; given: 'slerp'",
        ),
        (lambda: merge_weights(base, some, density=0.5), "arithmetic keeps every entry"),
        (lambda: merge_weights(base, some, [1.0]), "a finite weight for each of 2"),
        (lambda: merge_weights(base, some, [1.0, np.nan]), "a finite weight for each of 2"),
        (lambda: merge_weights(base, []), "at least one model"),
        (lambda: merge_weights(base, some, how="ties", density=0.0), "above 0 and at most 1"),
        (lambda: merge_weights(base, some, how="dare", density=1.5), "above 0 and at most 1"),
        (lambda: merge_weights(base, [{"a.weight": base["a.weight"]}]), "only one of members 0 and 1 has a.bias"),
        (lambda: task_vector({"w": torch.ones(3)}, {"w": torch.ones(4)}), r"w is \(4,\) in member 0 and \(3,\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def moved(model, seed, size=0.02):
    model = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=draw))
    return model


@pytest.mark.parametrize("arch", EVERY)
def test_bodies_of_every_architecture_are_merged_and_each_task_keeps_its_head(arch):
    base = tiny_model(arch).eval()
    one, other = moved(base, 1), moved(base, 2)
    alone = merge_models(base, [one], [1.0])
    for name, p in alone.base_model.named_parameters():
        assert torch.equal(p, dict(one.base_model.named_parameters())[name])
    body = {id(p) for p in base.base_model.parameters()}
    heads = [name for name, p in base.named_parameters() if id(p) not in body]
    assert all(torch.equal(dict(alone.named_parameters())[n], dict(base.named_parameters())[n]) for n in heads)
    merged = merge_models(base, [one, other], [0.5, 0.5])
    given_back = with_body(one, merged)
    for name, p in given_back.named_parameters():
        of = one if name in heads else merged
        assert torch.equal(p, dict(of.named_parameters())[name])
    whole = merge_models(base, [one], heads=True)
    assert all(torch.equal(p, dict(one.named_parameters())[name]) for name, p in whole.named_parameters())


def test_models_that_do_not_fit_are_refused():
    base = tiny_model("bert")
    larger = tiny_model("bert")
    larger.resize_token_embeddings(base.config.vocab_size + 2)
    with pytest.raises(ValueError, match="word_embeddings.weight is"):
        merge_models(base, [larger])
    with pytest.raises(ValueError, match="methods added"):
        merge_models(base, [add_lora(tiny_model("bert"))])
    named = tiny_model("bert", id2label={0: "bad", 1: "good"})
    merge_models(base, [named])
    with pytest.raises(ValueError, match="class by class"):
        merge_models(base, [named], heads=True)


def test_a_row_of_the_embedding_must_be_the_same_token_in_all():
    base = tiny_model("bert")
    words = [tiny_tokenizer() for _ in range(3)]
    words[1].add_tokens(["one"])
    words[2].add_tokens(["two"])
    models, size = [moved(base, 1), moved(base, 2)], base.config.vocab_size + 1
    for model in (base, *models):
        model.resize_token_embeddings(size)
    merge_models(base, models, tokenizers=[words[1]] * 3)
    with pytest.raises(ValueError, match="another token in each model"):
        merge_models(base, models, tokenizers=[words[1], words[1], words[2]])


# merging of methods


def with_loras(arch="bert", names=("a", "b"), seed=0, **settings):
    "A model with LoRAs and heads that have learnt something."
    model = tiny_model(arch, seed=seed, dropout=False).eval()
    for i, name in enumerate(names):
        add_lora(model, name=name, seed=i, **({"r": 2 + i} | settings))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for wrapper in wrappers(model):
            for p in wrapper.own_parameters().values():
                p.add_(0.3 * torch.randn(p.shape, generator=draw))
    return model


def asked(model, *names):
    activate(model, *names)
    ids = torch.tensor([[2, 7, 8, 9, 10, 3], [2, 40, 41, 42, 43, 3]])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("arch", EVERY)
def test_a_merged_lora_is_both_at_once(arch):
    model = with_loras(arch, modules_to_save=[])
    both = asked(model, {"a": 0.7, "b": 0.3})
    merge_methods(model, ["a", "b"], [0.7, 0.3])
    assert_close(asked(model, "merged"), both, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(asked(model, "a"), both, atol=1e-3)


def test_heads_that_are_linear_are_merged_as_both_at_once():
    model = with_loras()
    both = asked(model, {"a": 0.7, "b": 0.3})
    merge_methods(model, ["a", "b"], [1.4, 0.6], scale=0.5)
    assert {w.name for w in wrappers(model) if w.enabled} == {"merged"}
    assert_close(asked(model, "merged"), both, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("settings_", [{}, {"use_rslora": True}, {"lora_alpha": 5}, {"target_modules": "all-linear"}])
@pytest.mark.parametrize("arch", ENCODERS)
def test_a_merge_of_one_lora_at_weight_one_is_itself_to_the_bit(arch, settings_):
    model = with_loras(arch, **settings_)
    alone = asked(model, "a")
    merge_methods(model, ["a"], [1.0])
    assert torch.equal(asked(model, "merged"), alone)
    merge_methods(model, ["a"], [1.0], how="dare", density=1.0, name="again")
    assert_close(asked(model, "again"), alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("how", RULES)
def test_the_products_are_merged_by_the_rule(how):
    model = with_loras(r=3)
    each = [method_vector(model, name) for name in ("a", "b")]
    path = "bert.encoder.layer.0.attention.self.query"
    layer = next(w for w, p in wrappers(model, "a").items() if p == path)
    assert_close(each[0][path], (layer.s * layer.B @ layer.A).double().detach(), atol=1e-6, rtol=1e-6)
    zero = {name: torch.zeros_like(x) for name, x in each[0].items()}
    density = None if how == "arithmetic" else 0.6
    expected = merge_weights(zero, each, [0.6, 0.4], how, density, scale=0.8, seed=2)
    merge_methods(model, ["a", "b"], [0.6, 0.4], how, density, scale=0.8, seed=2, r=32)
    found = method_vector(model, "merged")
    assert set(found) == set(expected)
    for name in found:
        assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_a_smaller_rank_keeps_the_largest_singular_values_and_says_what_it_loses():
    model = with_loras()
    expected = method_vector(model, "a")
    with pytest.warns(UserWarning, match=r"rank 1 keeps \d\d% of the squared norm"):
        merge_methods(model, ["a"], r=1)
    for path, product in method_vector(model, "merged").items():
        if product.ndim > 1 and "classifier" not in path:
            U, S, V = torch.linalg.svd(expected[path])
            assert_close(product, S[0] * torch.outer(U[:, 0], V[0]), atol=1e-5, rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_methods(model, ["a"], r=2, name="enough")


def test_layers_that_one_lora_alone_has_are_merged_too():
    model = tiny_model("bert", dropout=False).eval()
    add_lora(model, r=2, target_modules=["query"], name="a")
    add_lora(model, r=3, target_modules=["query", "value"], name="b")
    with torch.no_grad():
        for wrapper in wrappers(model):
            for p in wrapper.own_parameters().values():
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    both = asked(model, {"a": 0.5, "b": 0.5})
    merge_methods(model, ["a", "b"], [0.5, 0.5])
    assert_close(asked(model, "merged"), both, atol=2e-5, rtol=1e-4)
    ranks = {p.rpartition(".")[2]: len(w.A) for w, p in wrappers(model, "merged").items() if "self" in p}
    assert ranks == {"query": 5, "value": 3}


def test_means_of_a_and_b_apart_are_another_model():
    model = with_loras(r=2)
    loras = [{p: w for w, p in wrappers(model, n).items() if hasattr(w, "A")} for n in ("a", "b")]
    path = next(iter(loras[0]))
    a, b = (found[path] for found in loras)
    apart = a.s * ((a.B + b.B) / 2) @ ((a.A + b.A) / 2)
    together = (a.s * a.B @ a.A + b.s * b.B @ b.A) / 2
    assert (apart - together).norm() > 0.3 * together.norm()
    factors = [{"A": w.A.detach(), "B": w.B.detach()} for w in (a, b)]
    with pytest.raises(ValueError, match="merge_methods"):
        average_weights(factors)


def test_methods_that_cannot_be_merged_are_refused():
    model = with_loras()
    add_adapters(model, name="adapter")
    for names, sentence in (
        (["a", "adapter"], "'adapter' is a .*Average the logits instead"),
        ([], "names of the LoRAs"),
        (["a", "a"], "each once"),
        (["a", "c"], "nothing called 'c'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            merge_methods(model, names)
    other = tiny_model("bert")
    add_lora(other, name="a")
    add_lora(other, name="b", modules_to_save=[])
    with pytest.raises(ValueError, match="with the same modules_to_save"):
        merge_methods(other, ["a", "b"])
    assert {w.name for w in wrappers(other)} == {"a", "b"}
