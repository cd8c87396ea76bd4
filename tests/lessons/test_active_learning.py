"""Lesson 43: scores and picks against double loops, autograd and brute force; the loop; what a person labels."""

import copy
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EVERY, tiny_data, tiny_model, tiny_rows, tiny_tokenizer
from torch.testing import assert_close

from finetune_lessons.active_learning import (
    Oracle,
    View,
    against,
    alikeness,
    area,
    badge,
    badge_embedding,
    bald,
    best,
    cold_start,
    curve_table,
    entropy,
    k_centre,
    labels_needed,
    least_confident,
    look,
    margin,
    next_to_label,
    pick,
    plot_curves,
    rounds,
    strategies,
    teach_head,
    with_dropout,
)
from finetune_lessons.contrastive import embed, fit_head
from finetune_lessons.lab.panel.labelling import Labeller
from finetune_lessons.overfitting import set_dropout

pytestmark = pytest.mark.usefixtures("one_thread")

each = pytest.mark.parametrize("strategy", strategies())


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def some_p(texts, classes, seed=0, size=2.0):
    return (size * torch.randn(texts, classes, generator=draw(seed))).softmax(-1)


def blobs(texts=120, classes=3, width=6, seed=0):
    "Vectors of length 1 around a centre for each class, and the classes."
    labels = torch.arange(texts) % classes
    centres = torch.randn(classes, width, generator=draw(seed))
    return F.normalize(centres[labels] + 0.7 * torch.randn(texts, width, generator=draw(seed + 1)), dim=-1), labels


def a_view(texts=40, classes=3, seed=0, known=6):
    x, y = blobs(texts, classes, seed=seed)
    noisy = F.normalize(x + 0.2 * torch.randn(4, *x.shape, generator=draw(seed + 2)), dim=-1)
    rows = torch.randperm(texts, generator=draw(seed + 3))[: texts // 2]
    rows = torch.cat([torch.arange(classes), rows[rows >= classes]])[:known]
    return teach_head(x, classes, passes=noisy)(rows, y[rows])


# the oracle


def test_each_text_counts_once_and_validation_labels_count_too():
    oracle = Oracle([0, 1, 2, 0, 1], budget=4)
    assert oracle.ask([4, 0]).tolist() == [1, 0] and (oracle.spent, oracle.left) == (2, 2)
    assert oracle.ask(torch.tensor([0, 2])).tolist() == [0, 2] and (oracle.spent, oracle.left) == (3, 1)
    oracle.ask([1, 1])
    assert (oracle.spent, oracle.left, len(oracle)) == (4, 0, 5)


def test_nothing_is_given_beyond_the_budget_and_a_refusal_costs_nothing():
    oracle = Oracle([0, 1, 2, 0, 1], budget=3)
    oracle.ask([0, 1])
    with pytest.raises(ValueError, match="2 labels more are asked for, and 1 of 3 are left"):
        oracle.ask([0, 2, 3])
    assert oracle.spent == 2 and oracle.ask([3]).tolist() == [0]


def test_without_a_budget_all_texts_can_be_asked():
    assert Oracle([0, 1, 0]).left == 3 and Oracle([0, 1, 0], budget=9).left == 3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Oracle([0, 1], budget=0), "at least 1 label"),
        (lambda: Oracle([0, 1]).ask([2]), "from 0 to 1"),
        (lambda: Oracle([0, 1]).ask([-1]), "from 0 to 1"),
        (lambda: Oracle([0, -100, 1]).ask([0, 1]), "text 1 has no label"),
    ],
)
def test_an_oracle_refuses(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# scores


def modal(p, name):
    "What modAL 0.4.2.1 computes, in its own terms: its sets are the n largest (the n smallest margins)."
    p = p.double().numpy()
    if name == "least confident":
        return 1 - np.max(p, axis=1)
    if name == "margin":
        part = np.partition(-p, 1, axis=1)
        return -(-part[:, 0] + part[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(p > 0, p * np.log(p), 0).sum(1)


@pytest.mark.parametrize(("name", "score"), [("least confident", least_confident), ("margin", margin),
                                             ("entropy", entropy)])  # fmt: skip
@pytest.mark.parametrize("classes", [2, 5])
def test_scores_and_sets_are_those_of_modal(name, score, classes):
    p = some_p(300, classes)
    p[0] = F.one_hot(torch.tensor(1), classes).float()  # certain
    theirs = modal(p, name)
    assert_close(score(p).double(), torch.from_numpy(theirs), atol=1e-6, rtol=1e-6)
    assert set(best(score(p), 25).tolist()) == set(np.argpartition(-theirs, 24)[:25].tolist())


@given(st.integers(0, 10**6), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_for_two_classes_the_three_rank_alike(seed, texts):
    p = some_p(texts, 2, seed).double()
    orders = [score(p).argsort(descending=True).tolist() for score in (least_confident, margin, entropy)]
    assert orders[0] == orders[1] == orders[2]


def test_for_more_classes_the_three_differ():
    p = torch.tensor([[0.50, 0.49, 0.01], [0.45, 0.30, 0.25], [0.48, 0.26, 0.26]])
    assert [int(score(p).argmax()) for score in (least_confident, margin, entropy)] == [1, 0, 1]
    p = torch.tensor([[0.5, 0.5, 0.0], [0.60, 0.20, 0.20]])
    assert [int(score(p).argmax()) for score in (least_confident, margin, entropy)] == [0, 0, 1]


def test_scores_by_hand():
    p = torch.tensor([[0.7, 0.1, 0.2], [0.0, 0.5, 0.5]])
    assert_close(least_confident(p), torch.tensor([0.3, 0.5]))
    assert_close(margin(p), torch.tensor([-0.5, 0.0]))
    assert_close(entropy(p)[1], torch.tensor(2.0).log())
    assert entropy(torch.eye(3)).tolist() == [0, 0, 0]


def test_bald_is_a_double_loop_and_the_mean_divergence_from_the_mean():
    p = some_p(7 * 30, 4).view(7, 30, 4)
    p[2, 5] = torch.tensor([0, 1, 0, 0])
    found = bald(p)
    for text in range(30):
        mean = [sum(float(p[k, text, c]) for k in range(7)) / 7 for c in range(4)]
        of_mean = -sum(q * math.log(q) for q in mean if q > 0)
        of_each = 0.0
        for k in range(7):
            of_each -= sum(float(q) * math.log(float(q)) for q in p[k, text] if q > 0) / 7
        assert float(found[text]) == pytest.approx(of_mean - of_each, abs=1e-6)
    assert (found > 0).all()


def test_bald_asks_for_disagreement_and_not_for_doubt():
    doubt = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    dispute = torch.tensor([[0.99, 0.01], [0.01, 0.99]])
    scores = bald(torch.stack([doubt, dispute], dim=1))
    assert float(scores[0]) == 0 and float(scores[1]) > 0.6


@pytest.mark.parametrize("p", [some_p(5, 3).expand(4, -1, -1), torch.full((3, 5, 2), 0.5)])
def test_passes_that_agree_are_refused(p):
    with pytest.raises(ValueError, match="every score is 0"):
        bald(p)


@pytest.mark.parametrize("p", [some_p(5, 3), some_p(5, 3).unsqueeze(0)])
def test_one_pass_is_refused(p):
    with pytest.raises(ValueError, match="two passes or more"):
        bald(p)


def test_the_best_come_first_and_equal_ones_in_their_order():
    assert best(torch.tensor([0.1, 0.5, 0.5, 0.9, 0.5]), 3).tolist() == [3, 1, 2]
    assert best(torch.tensor([0.5, 0.5]), 2).tolist() == [0, 1]


@pytest.mark.parametrize(("scores", "sentence"), [([0.2] * 4, "all 4 texts have the score 0.2"),
                                                  ([0.1, math.nan, 0.2], "text 1 has a score")])  # fmt: skip
def test_scores_that_tell_nothing_are_refused(scores, sentence):
    with pytest.raises(ValueError, match=sentence):
        best(torch.tensor(scores), 2)


# dropout


WITH_DROPOUT = [arch for arch in EVERY if arch not in ("llama", "qwen2", "modernbert")]


@pytest.mark.parametrize("arch", WITH_DROPOUT)
def test_passes_with_dropout_disagree_on_every_architecture(arch):
    model, texts = tiny_model(arch), tiny_rows(9)["text"]
    p = with_dropout(model, tiny_tokenizer(), texts, passes=3)
    assert p.shape == (3, 9, 2) and not torch.equal(p[0], p[1]) and bald(p).max() > 0
    assert_close(p.sum(-1), torch.ones(3, 9))


@pytest.mark.parametrize("arch", EVERY)
def test_a_model_without_dropout_is_refused(arch):
    with pytest.raises(ValueError, match="drops nowhere"):
        with_dropout(tiny_model(arch, dropout=False), tiny_tokenizer(), tiny_rows(3)["text"])


def test_passes_hang_on_their_seed_alone_and_leave_all_as_it_was():
    model, texts = tiny_model("bert"), tiny_rows(8)["text"]
    model.eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = with_dropout(model, tiny_tokenizer(), texts, 3, seed=1)
    assert torch.equal(before, torch.get_rng_state()) and not model.training
    torch.rand(3)
    assert torch.equal(one, with_dropout(model, tiny_tokenizer(), texts, 3, seed=1))
    assert not torch.equal(one, with_dropout(model, tiny_tokenizer(), texts, 3, seed=2))


def test_with_next_to_no_dropout_a_pass_is_what_the_model_says():
    model, texts = set_dropout(tiny_model("bert"), 1e-9), tiny_rows(8)["text"]
    view = look(model, tiny_tokenizer(), texts, [0])
    assert_close(with_dropout(model, tiny_tokenizer(), texts, 2, batch_size=3)[1], view.p, atol=1e-5, rtol=1e-4)
    vectors = with_dropout(model, tiny_tokenizer(), texts, 2, vectors=True)
    assert_close(vectors[0], embed(model, tiny_tokenizer(), texts), atol=1e-5, rtol=1e-4)


# k-centre, and the cold start


def farthest_first(x, known, n):
    "By brute force: all distances anew for each text."
    known = list(known)
    for _ in range(n):
        apart = [min(float((a - x[k]).double().norm()) for k in known) if i not in known else -1
                 for i, a in enumerate(x)]  # fmt: skip
        known.append(int(np.argmax(apart)))
    return known[-n:]


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_k_centre_is_brute_force(seed, labelled, n):
    x = torch.randn(25, 4, generator=draw(seed))
    known = torch.randperm(25, generator=draw(seed))[:labelled]
    assert k_centre(x, known, n).tolist() == farthest_first(x, known.tolist(), n)


def test_k_centre_covers_within_twice_the_best_radius():
    x = torch.randn(12, 2, generator=draw(4)).double()
    radius = lambda rows: float(torch.cdist(x, x[list(rows)]).amin(1).max())  # noqa: E731
    found = radius([0, *k_centre(x, [0], 2).tolist()])
    assert found <= 2 * min(radius([0, *rows]) for rows in combinations(range(1, 12), 2)) + 1e-9


def test_k_centre_takes_no_text_twice_even_where_all_are_alike():
    assert sorted(k_centre(torch.ones(5, 3), [2], 4).tolist()) == [0, 1, 3, 4]


def test_k_centre_without_a_label_is_refused():
    with pytest.raises(ValueError, match="cold_start"):
        k_centre(torch.ones(3, 2), [], 1)


def test_a_cold_start_has_one_text_of_each_cluster_and_the_one_in_its_middle():
    centres = 10 * torch.eye(4)
    x = torch.cat([centre + 0.5 * torch.randn(20, 4, generator=draw(i)) for i, centre in enumerate(centres)])
    rows = cold_start(x, 4)
    assert sorted((rows // 20).tolist()) == [0, 1, 2, 3]
    for row in rows.tolist():
        own = x[row // 20 * 20 : row // 20 * 20 + 20]
        assert (own - own.mean(0)).norm(dim=1).argmin() == row % 20


def test_a_cold_start_takes_no_text_twice():
    x = torch.cat([torch.zeros(6, 2), torch.ones(6, 2) + 0.01 * torch.randn(6, 2, generator=draw())])
    assert len(cold_start(x, 8).unique()) == 8
    assert cold_start(x, 8).tolist() == cold_start(x, 8).tolist()


@pytest.mark.parametrize("n", [0, 13])
def test_a_cold_start_of_no_text_or_of_too_many_is_refused(n):
    with pytest.raises(ValueError, match="from 1 to the 12 texts"):
        cold_start(torch.randn(12, 2, generator=draw()), n)


# BADGE


@pytest.mark.parametrize("classes", [2, 4])
def test_badge_embedding_is_the_gradient_of_the_last_layer(classes):
    h = torch.randn(6, 5, generator=draw())
    head = torch.nn.Linear(5, classes)
    p, rows = head(h).softmax(-1), []
    for vector, chances in zip(h, p, strict=True):
        head.zero_grad()
        F.cross_entropy(head(vector), chances.argmax()).backward()
        rows.append(head.weight.grad.flatten().clone())
    assert_close(badge_embedding(p, h).detach(), torch.stack(rows), atol=1e-6, rtol=1e-5)


def test_badge_embedding_is_short_where_the_model_is_sure():
    p, h = torch.tensor([[0.99, 0.01], [0.55, 0.45]]), torch.ones(2, 3)
    sure, doubtful = badge_embedding(p, h).norm(dim=1)
    assert sure < doubtful


def test_badge_begins_with_the_longest_and_draws_by_squared_distance():
    p, h = some_p(4, 3), torch.randn(4, 5, generator=draw(1))
    g = badge_embedding(p, h).double()
    first = int(g.norm(dim=1).argmax())
    apart = (g - g[first]).square().sum(1)
    found = torch.zeros(4)
    for seed in range(3000):
        rows = badge(p, h, 2, draw(seed))
        assert int(rows[0]) == first
        found[rows[1]] += 1
    assert_close(found.double() / 3000, apart / apart.sum(), atol=0.03, rtol=0)
    assert found[first] == 0


def test_badge_keeps_the_distance_from_all_that_are_picked():
    h = torch.tensor([[9.0, 0], [0, 5.0], [0, 5.0], [0, 5.0], [9.0, 0], [9.0, 0]])
    p = torch.full((6, 2), 0.5)
    for seed in range(20):
        assert {tuple(h[row].tolist()) for row in badge(p, h, 2, draw(seed)).tolist()} == {(9.0, 0.0), (0.0, 5.0)}
        assert sorted(badge(p, h, 6, draw(seed)).tolist()) == list(range(6))  # duplicates, once nothing else is left


def test_badge_remembers_the_first_when_it_has_picked_a_second():
    h = torch.tensor([[9.0, 0], [9.0, 0], [0, 8.0], [0, 8.0], [-5.0, -5.0]])
    for seed in range(20):
        assert len({tuple(h[row].tolist()) for row in badge(torch.full((5, 2), 0.5), h, 3, draw(seed)).tolist()}) == 3


# strategies


@each
def test_a_strategy_picks_so_many_different_texts_without_a_label(strategy):
    view = a_view()
    for n in (1, 5, len(view.free)):
        rows = pick(strategy, view, n, draw())
        assert rows.shape == (n,) and len(rows.unique()) == n and not torch.isin(rows, view.known).any()
        assert torch.equal(rows, pick(strategy, view, n, draw()))


@pytest.mark.parametrize(("strategy", "score"), [
    ("least confident", lambda view: least_confident(view.p)), ("margin", lambda view: margin(view.p)),
    ("entropy", lambda view: entropy(view.p)), ("BALD", lambda view: bald(view.passes))])  # fmt: skip
def test_no_free_text_has_a_larger_score_than_one_that_is_picked(strategy, score):
    view = a_view()
    rows, scores = pick(strategy, view, 7), score(view)
    others = view.free[~torch.isin(view.free, rows)]
    assert scores[rows].min() >= scores[others].max()


def test_k_centre_and_badge_of_a_view_are_those_of_its_vectors():
    view = a_view()
    assert pick("k-centre", view, 4).tolist() == farthest_first(view.vectors, view.known.tolist(), 4)
    among_free = badge(view.p[view.free], view.vectors[view.free], 4, draw(3))
    assert pick("BADGE", view, 4, draw(3)).tolist() == view.free[among_free].tolist()


def test_random_picks_each_text_as_often():
    view, counts = a_view(12, known=3), torch.zeros(12)
    for seed in range(2000):
        counts[pick("random", view, 3, draw(seed))] += 1
    assert counts[view.known].sum() == 0
    assert_close(counts[view.free] / 2000, torch.full((9,), 1 / 3), atol=0.05, rtol=0)


def test_free_are_the_others_in_their_order():
    assert View(torch.ones(5, 2), torch.tensor([3, 0]), torch.ones(5, 2)).free.tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("strategy", "n", "sentence"),
    [
        ("doubt", 3, "no strategy 'doubt'; there are: random"),
        ("margin", 0, "from 1 to the 34"),
        ("margin", 35, "from 1 to the 34"),
        (lambda view, n, draw: view.known[:n], 3, "without a label; picked"),
        (lambda view, n, draw: view.free[[0, 0, 1]], 3, "3 different texts"),
        (lambda view, n, draw: view.free[:2], 3, "3 different texts"),
    ],
)
def test_pick_refuses(strategy, n, sentence):
    with pytest.raises(ValueError, match=sentence):
        pick(strategy, a_view(), n)


def test_bald_without_passes_says_what_it_needs():
    x, y = blobs()
    with pytest.raises(ValueError, match="with_dropout"):
        pick("BALD", teach_head(x, 3)(torch.arange(6), y[:6]), 2)


# the loop


@each
def test_rounds_add_a_batch_until_the_budget_is_spent(strategy):
    x, y = blobs()
    noisy = F.normalize(x + 0.2 * torch.randn(3, *x.shape, generator=draw(9)), dim=-1)
    oracle, spent, before = Oracle(y, budget=31), [], []
    for view in rounds(strategy, oracle, teach_head(x, 3, passes=noisy), [0, 1, 2, 3], batch=10):
        assert oracle.spent == len(view.known) == len(view.known.unique())
        assert view.known.tolist()[: len(before)] == before
        before = view.known.tolist()
        spent.append(oracle.spent)
    assert spent == [4, 14, 24, 31]


def test_rounds_end_where_no_text_is_left():
    x, y = blobs(20)
    assert [len(view.known) for view in rounds("margin", Oracle(y), teach_head(x, 3), range(6), batch=8)] == [6, 14, 20]


@each
def test_a_validation_set_comes_out_of_the_budget_and_is_never_picked(strategy):
    x, y = blobs(60)
    noisy = F.normalize(x + 0.2 * torch.randn(3, *x.shape, generator=draw(9)), dim=-1)
    oracle, validation = Oracle(y, budget=40), range(40, 60)
    oracle.ask(validation)
    views = [*rounds(strategy, oracle, teach_head(x, 3, passes=noisy), range(6), batch=9, held_out=validation)]
    assert [len(view.known) for view in views] == [6, 15, 20] and oracle.spent == 40
    assert views[-1].known.max() < 40 and views[-1].free.max() < 40


def test_each_round_is_a_new_model_of_the_labels_so_far():
    x, y = blobs()
    for view in rounds("margin", Oracle(y, 30), teach_head(x, 3, l2=0.3), range(9), batch=7):
        alone = fit_head(x[view.known], y[view.known], 0.3)
        assert_close(view.p, alone(x).softmax(-1), atol=1e-5, rtol=1e-4)
        assert_close(view.model(x).softmax(-1), view.p)


@pytest.mark.parametrize("strategy", ["random", "BADGE"])
def test_the_same_seed_asks_for_the_same_texts(strategy):
    x, y = blobs()
    last = [[*rounds(strategy, Oracle(y, 30), teach_head(x, 3), range(6), 8, seed)][-1].known.tolist()
            for seed in (0, 0, 1)]  # fmt: skip
    assert last[0] == last[1] != last[2]


def test_labels_of_shuffled_texts_teach_nothing():
    x, y = blobs(300)
    y = y[torch.randperm(300, generator=draw(8))]
    for strategy in ("random", "margin", "BADGE"):
        *_, view = rounds(strategy, Oracle(y, 120), teach_head(x, 3), range(20), 20)
        assert (view.p.argmax(-1)[view.free] == y[view.free]).float().mean() < 0.45


def test_a_class_without_a_label_has_no_probability_and_breaks_no_strategy():
    x, y = blobs(60, 4)
    known = (y < 3).nonzero().squeeze(1)[:9]
    noisy = F.normalize(x + 0.2 * torch.randn(3, *x.shape, generator=draw(9)), dim=-1)
    view = teach_head(x, 4, passes=noisy)(known, y[known])
    assert (view.p[:, 3] == 0).all() and torch.isfinite(view.p).all()
    assert_close(view.p[:, :3], fit_head(x[known], y[known], 0.1)(x).softmax(-1), atol=1e-5, rtol=1e-4)
    for strategy in strategies():
        assert len(pick(strategy, view, 6, draw())) == 6


def test_labels_of_one_class_are_refused_with_the_mend():
    x, _ = blobs()
    with pytest.raises(ValueError, match=r"are of: \[1\].*cold_start"):
        teach_head(x, 3)(torch.arange(4), torch.ones(4, dtype=torch.long))
    with pytest.raises(ValueError, match="at least two of 2 classes"):
        teach_head(x, 2)(torch.arange(3), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("arch", EVERY)
def test_a_fine_tuned_classifier_is_looked_at_on_every_architecture(arch):
    model, texts = tiny_model(arch), tiny_data(20)["train"]["text"][:]
    before = copy.deepcopy(model.state_dict())
    view = look(model.train(), tiny_tokenizer(), texts, [0, 3])
    assert view.p.shape == (20, 2) and view.vectors.shape[0] == 20 and view.passes is None and model.training
    for strategy in ("random", "margin", "k-centre", "BADGE"):
        assert len(pick(strategy, view, 5, draw())) == 5
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_look_with_passes_can_be_asked_by_bald():
    model = set_dropout(tiny_model("bert"), 0.3)
    view = look(model.train(), tiny_tokenizer(), tiny_rows(12)["text"], [1], passes=3)
    assert torch.equal(view.p, look(model.eval(), tiny_tokenizer(), tiny_rows(12)["text"], [1]).p), "no dropout in p"
    assert view.passes.shape == (3, 12, 2) and len(pick("BALD", view, 4)) == 4


# curves


def test_the_area_is_the_mean_accuracy_on_the_way():
    assert area([10, 20, 40], [0.5, 0.7, 0.8]) == pytest.approx((10 * 0.6 + 20 * 0.75) / 30)
    assert area([10, 90], [0.6, 0.6]) == pytest.approx(0.6)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_area_is_that_of_numpy(accuracy, seed):
    n = np.cumsum(np.random.default_rng(seed).integers(1, 50, len(accuracy)))
    assert area(n, accuracy) == pytest.approx(np.trapezoid(accuracy, n) / (n[-1] - n[0]), abs=1e-9)


def test_labels_needed_go_along_the_line_to_where_the_goal_is_first_reached():
    n, a = [10, 20, 30, 40], [0.5, 0.7, 0.6, 0.9]
    assert labels_needed(n, a, 0.6) == pytest.approx(15)
    assert labels_needed(n, a, 0.75) == pytest.approx(35)
    assert labels_needed(n, a, 0.5) == 10 and labels_needed(n, a, 0.1) == 10
    assert labels_needed(n, a, 0.7) == 20
    assert labels_needed(n, a, 0.95) == math.inf


@pytest.mark.parametrize(("n", "a"), [([10], [0.5]), ([10, 10], [0.5, 0.6]), ([20, 10], [0.5, 0.6]),
                                      ([10, 20], [0.5]), ([10, 20], [0.5, math.nan])])  # fmt: skip
def test_what_is_no_curve_is_refused(n, a):
    for function in (area, lambda n, a: labels_needed(n, a, 0.5)):
        with pytest.raises(ValueError, match="numbers of labels that grow"):
            function(n, a)


def test_alikeness_is_the_mean_of_all_pairs():
    x = torch.randn(9, 4, generator=draw())
    cosines = [float(F.cosine_similarity(x[i], x[j], dim=0)) for i, j in combinations(range(9), 2)]
    assert alikeness(x) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert alikeness(torch.ones(3, 2)) == pytest.approx(1)
    with pytest.raises(ValueError, match="two texts"):
        alikeness(x[:1])


def a_table():
    curves = {"random": [0.5, 0.60, 0.70], "margin": [0.5, 0.65, 0.703], "late": [0.5, 0.55, 0.72]}
    return pd.DataFrame([{"method": name, "seed": seed, "labels": n, "accuracy": a + 0.01 * seed}
                         for name, curve in curves.items() for seed in (0, 1)
                         for n, a in zip((10, 20, 30), curve, strict=True)]).sample(frac=1, random_state=0)  # fmt: skip


def test_wins_ties_and_losses_are_counted_pair_by_pair_behind_the_common_start():
    found = against(a_table())
    assert found.loc["margin"].tolist() == [2, 2, 0] and found.loc["late"].tolist() == [2, 0, 2]
    assert against(a_table(), tie=0)["tie"].sum() == 0 and "random" not in found.index
    with pytest.raises(ValueError, match="no method 'chance'"):
        against(a_table(), base="chance")


def test_the_table_of_curves_has_a_row_a_method_and_seed():
    found = curve_table(a_table(), goal=0.6).set_index(["method", "seed"])
    assert len(found) == 6 and found.loc[("random", 0), "area"] == pytest.approx(0.6)
    assert found.loc[("random", 0), "needed"] == pytest.approx(20)
    assert found.loc[("margin", 0), "needed"] == pytest.approx(10 + 10 * 0.1 / 0.15)
    assert "needed" not in curve_table(a_table())


def test_the_picture_of_curves_says_where_they_end():
    figure = plot_curves({"news": a_table(), "movies": a_table()})
    assert "margin 0.71" in figure.alt and "at 30 labels" in figure.alt and len(figure.axes) == 2
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()][0] == "random, worst to best"


# a person


def texts_and_vectors():
    x, y = blobs(60, 2)
    return [f"text {i}" for i in range(60)], x, y


def test_without_labels_of_two_classes_it_asks_for_centres():
    texts, x, _ = texts_and_vectors()
    assert next_to_label(texts, x, {}, 5) == [texts[row] for row in cold_start(x, 5).tolist()]
    again = next_to_label(texts, x, {"text 3": "yes"}, 5)
    assert "text 3" not in again and len(set(again)) == 5


@pytest.mark.parametrize("strategy", ["random", "margin", "entropy", "k-centre", "BADGE"])
def test_with_labels_it_asks_by_the_strategy(strategy):
    texts, x, y = texts_and_vectors()
    rows = [5, 0, 17, 8, 3]
    labels = {texts[row]: ["no", "yes"][int(y[row])] for row in rows}
    asked = next_to_label(texts, x, labels, 6, strategy, asked=["text 1"])
    assert len(set(asked)) == 6 and not {*asked} & {*labels, "text 1"}
    if strategy == "margin":
        p = fit_head(x[rows], y[rows], 0.1)(x).softmax(-1)
        assert asked == [texts[row] for row in best(margin(p), 60).tolist() if row not in (*rows, 1)][:6]
    if strategy == "k-centre":
        left = [row for row in range(60) if row != 1]
        assert asked == [texts[left[row]] for row in farthest_first(x[left], [left.index(r) for r in rows], 6)]


def test_the_last_texts_are_asked_and_a_double_once():
    texts, x, _ = texts_and_vectors()
    twice, vectors = texts[:4] + texts[:4], torch.cat([x[:4], x[:4]])
    labels = {"text 0": "no", "text 1": "yes"}
    assert sorted(next_to_label(twice, vectors, labels, 10)) == ["text 2", "text 3"]
    with pytest.raises(ValueError, match="all texts have been asked"):
        next_to_label(twice, vectors, labels, 10, asked=["text 2", "text 3"])


def test_vectors_of_other_texts_are_refused():
    texts, x, _ = texts_and_vectors()
    with pytest.raises(ValueError, match="a vector for each of 60 texts"):
        next_to_label(texts, x[:50], {})


def test_labels_of_texts_outside_the_pool_do_not_count():
    texts, x, _ = texts_and_vectors()
    assert next_to_label(texts, x, {"elsewhere": "no", "text 1": "yes"}, 3) == next_to_label(
        texts, x, {"text 1": "yes"}, 3
    )


def test_a_person_labels_twice_and_the_second_ten_follow_from_the_first(tmp_path):
    rows = tiny_rows(60)
    truth, file = dict(zip(rows["text"], rows["label"], strict=True)), tmp_path / "labels.csv"
    x = embed(tiny_model("bert"), tiny_tokenizer(), rows["text"])
    asked = []
    for _ in range(3):
        labels = Labeller(asked, ["bad", "good"], file).labels if asked else {}
        asked += next_to_label(rows["text"], x, labels, 10, "BADGE", asked)
        labeller = Labeller(asked, ["bad", "good"], file)
        assert len(labeller.keys) == len(asked) - 10
        while len(labeller.keys) < len(asked):
            labeller.keys += str(truth[labeller.texts[len(labeller.keys)]] + 1)
    assert len(set(asked)) == 30 == len(labeller.labels)
    assert all(["bad", "good"].index(label) == truth[text] for text, label in labeller.labels.items())
