"""Lesson 52: searches over settings, on runs and on recorded curves; TPE, Reptile and first-order MAML; `choose`."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, weights
from torch.testing import assert_close

from finetune_lessons import method_search
from finetune_lessons.lab import LogRange, compare, save_model
from finetune_lessons.method_search import (
    Making,
    Parzen,
    Plan,
    Recorded,
    Task,
    adapted,
    asha,
    asha_next,
    brackets,
    choose,
    describe,
    draw_task,
    expected_best,
    fomaml_step,
    grid,
    head_logits,
    nearest,
    new_head,
    random_settings,
    reptile_step,
    rung_steps,
    rung_table,
    split_history,
    successive_halving,
    survivors,
    tpe_suggest,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = {"method": ["full", "LoRA", "adapters"], "lr": LogRange(1e-5, 1e-2)}


# spaces


def test_a_grid_has_every_combination_and_ranges_with_both_ends():
    found = grid({"method": ["a", "b"], "lr": LogRange(1e-4, 1e-2)}, points=3)
    assert [s["method"] for s in found] == ["a"] * 3 + ["b"] * 3
    assert [s["lr"] for s in found[:3]] == pytest.approx([1e-4, 1e-3, 1e-2])


def test_random_settings_are_different_spread_over_powers_of_ten_and_the_first_ones_stay():
    found = random_settings(SPACE, 300, seed=1)
    assert random_settings(SPACE, 7, seed=1) == found[:7]
    assert random_settings(SPACE, 7, seed=2) != found[:7]
    logs = np.log10([s["lr"] for s in found])
    assert -5 <= logs.min() and logs.max() <= -2
    assert np.histogram(logs, bins=3, range=(-5, -2))[0] == pytest.approx([100] * 3, abs=30)
    assert min(Counter(s["method"] for s in found).values()) > 70
    lists = {"a": [1, 2, 3], "b": ["x", "y"]}
    assert sorted(map(str, random_settings(lists, 6))) == sorted(map(str, grid(lists)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: grid({}), "a space is a dict"),
        (lambda: grid({"lr": 1e-3}), "'lr' needs a list of choices"),
        (lambda: grid({"lr": "1e-3"}), "'lr' needs a list of choices"),
        (lambda: grid({"lr": []}), "'lr' needs a list of choices"),
        (lambda: grid(SPACE, points=1), "at least 2"),
        (lambda: random_settings({"a": [1, 2]}, 3), "from 1 to 2"),
        (lambda: random_settings(SPACE, 0), "from 1 to inf"),
        (lambda: rung_steps(3, 2), "first <= longest"),
        (lambda: rung_steps(3, 27, 1), "eta >= 2"),
    ],
)
def test_a_space_or_a_ladder_that_is_none_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# halving


def curves(*finals, steps=(1, 2, 3, 6, 9, 18, 27), start=0.0):
    "make_run(i=...) of recorded runs whose score grows towards these ends."
    return lambda i: Recorded({s: start + finals[i] * s / 27 for s in steps})


def numbered(n):
    return [{"i": i} for i in range(n)]


def test_a_halving_written_out():
    finals = (0.1, 0.9, 0.3, 0.5, 0.6, 0.2, 0.7, 0.8, 0.4)
    rungs = list(successive_halving(curves(*finals), numbered(9), eta=3, first=3, longest=27))
    assert [rung.steps for rung in rungs] == [3, 9, 27]
    assert [sorted(rung.scores) for rung in rungs] == [list(range(9)), [1, 6, 7], [1]]
    assert [rung.kept for rung in rungs] == [(1, 7, 6), (1,), (1,)]
    assert [rung.spent for rung in rungs] == [27, 27 + 3 * 6, 27 + 18 + 18]
    assert rungs[0].stopped == (0, 2, 3, 4, 5, 8)
    assert rungs[-1].best == 1
    assert rungs[-1].run.index == 27
    assert rungs[-1].loss == pytest.approx(0.1)
    table = rung_table(rungs, numbered(9))
    assert list(table.index) == [1, 7, 6, 4, 3, 8, 2, 5, 0]
    assert list(table["steps"]) == [27, 9, 9] + [3] * 6


@pytest.mark.parametrize(
    ("finals", "tied"),
    [
        ((0.1, 0.9, 0.9, 0.2, 0.9, 0.3), (1, 2, 4)),  # two of three equal ones go on
        ((0.1, 0.9, 0.8, 0.2, 0.1, 0.3), ()),  # those that are equal all stay behind
        ((0.9, 0.9, 0.8, 0.2, 0.1, 0.3), ()),  # or all go on
        ((0.5,) * 6, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_those_among_whom_the_order_decided_are_named(finals, tied):
    rung = next(successive_halving(curves(*finals), numbered(6), eta=3, first=3, longest=27))
    assert rung.tied == tied and len(rung.kept) == 2


@given(
    scores=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    eta=st.integers(2, 4),
    first=st.integers(1, 3),
    rungs=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_each_rung_keeps_the_best_and_every_step_is_counted_once(scores, eta, first, rungs):
    longest = first * eta**rungs
    at = rung_steps(first, longest, eta)
    trained = Counter()

    class Counting(Recorded):
        def __next__(self):
            trained[self.scores[longest]] += 1
            return super().__next__()

    make = lambda i: Counting({s: scores[i] for s in at})  # noqa: E731
    found = list(successive_halving(make, numbered(len(scores)), eta, first, longest))
    assert [len(rung.scores) for rung in found] == [max(1, len(scores) // eta**k) for k in range(len(at))]
    assert found[-1].spent == sum(trained.values())
    assert scores[found[-1].best] == max(scores)
    for rung in found:
        assert not rung.stopped or max(rung.scores[i] for i in rung.stopped) <= min(rung.scores[i] for i in rung.kept)


def test_survivors_of_equal_scores_are_the_first_by_number_and_what_is_no_number_goes_first():
    assert survivors({3: 0.5, 1: 0.5, 2: 0.5, 0: 0.4}, 2) == (1, 2)
    assert survivors({0: math.nan, 1: -math.inf, 2: 0.1}, 3) == (2,)
    assert survivors({0: 0.1, 1: 0.2}, 3) == (1,)


def test_one_bracket_of_the_paper():
    assert brackets(81) == [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]  # arXiv:1603.06560, table 1


def test_asha_by_hand():
    done = [{0: 0.1, 1: 0.4, 2: 0.2}, {}, {}]
    assert asha_next(done, [{0, 1, 2}, set(), set()], 3) == (1, 1)  # the best of three
    assert asha_next(done, [{0, 1, 2}, {1}, set()], 3) is None  # it is on its way: begin with a new setting
    done = [{0: 0.1, 1: 0.4, 2: 0.2, 3: 0.5, 4: 0.0, 5: 0.3}, {1: 0.6}, {}]
    assert asha_next(done, [set(range(6)), {1}, set()], 3) == (3, 1)  # a later one is better, and 1 stays promoted
    done = [{i: i / 10 for i in range(9)}, {6: 0.7, 7: 0.6, 8: 0.9}, {}]
    assert asha_next(done, [set(range(9)), {6, 7, 8}, set()], 3) == (8, 2)  # from the top down
    done = [{i: i / 20 for i in range(12)}, {9: 0.5, 10: 0.6, 11: 0.9}, {}]
    assert asha_next(done, [set(range(12)), {9, 10, 11}, set()], 3) == (11, 2)  # before 8, which waits a rung below
    broken = [{0: -math.inf, 1: -math.inf, 2: -math.inf}, {}]
    assert asha_next(broken, [{0, 1, 2}, set()], 3) is None


def test_asha_of_one_and_of_two_workers():
    finals = (0.1, 0.9, 0.3, 0.5, 0.6, 0.2, 0.7, 0.8, 0.4)
    one = list(asha(curves(*finals), numbered(9), workers=1))
    assert [(job.setting, job.steps) for job in one[:5]] == [(0, 3), (1, 3), (2, 3), (1, 9), (3, 3)]
    assert one[-1].ended == sum(job.ended - job.began for job in one)
    two = list(asha(curves(*finals), numbered(9), workers=2))
    assert max(job.ended for job in two) < one[-1].ended
    assert [job.ended for job in two] == sorted(job.ended for job in two)
    assert {job.setting for job in two if job.rung == 0} == set(range(9))
    assert two[-1].setting == 1
    assert two[-1].steps == 27
    for job in two:  # a worker trains what is missing only
        assert job.ended - job.began == {3: 3, 9: 6, 27: 18}[job.steps]


# on runs


RATES = [{"lr": lr} for lr in (1e-4, 3e-3, 1e-3, 1e-2, 3e-4, 3e-2)]


def make_tiny(lr, schedule="constant", steps=18, **options):
    model = tiny_model("bert", seed=0)
    return tiny_run(model, lr=lr, schedule=schedule, epochs=steps / 16, batch_size=4, eval_every=0, warmup=0, **options)


def scores_of(rungs):
    return [(rung.scores, rung.kept, rung.spent) for rung in rungs]


def test_survivors_go_on_from_where_they_were_and_waiting_on_disk_changes_no_bit(tmp_path):
    made = []

    def make(lr):
        made.append(lr)
        return make_tiny(lr)

    by = {"first": 2, "longest": 18, "score": "loss"}
    here = list(successive_halving(make, RATES, 3, **by))
    assert len(made) == len(RATES)
    paused = list(successive_halving(make, RATES, 3, **by, folder=tmp_path / "runs"))
    assert scores_of(here) == scores_of(paused)
    best = here[-1].best
    assert [len(rung.scores) for rung in here] == [6, 2, 1]
    straight = make_tiny(**RATES[best])
    for _ in range(18):
        next(straight)
    assert same_bits(weights(straight.model), weights(here[-1].run.model))
    assert same_bits(weights(straight.model), weights(paused[-1].run.model))
    assert here[-1].scores[best] == -straight.evaluate("validation")["loss"]
    assert [f.name for f in (tmp_path / "runs").iterdir()] == [f"setting-{best}.safetensors"]


def test_a_search_over_records_of_runs_is_the_search_over_the_runs():
    at = (2, 6, 18)
    records = {}
    for setting in RATES:
        run, kept = make_tiny(**setting), {}
        for _ in run:
            if run.index in at:
                kept[run.index] = -run.evaluate("validation")["loss"]
        records[setting["lr"]] = kept
    trained = list(successive_halving(make_tiny, RATES, 3, 2, 18, "loss"))
    again = list(successive_halving(lambda lr: Recorded(records[lr]), RATES, 3, 2, 18))
    assert scores_of(trained) == scores_of(again)
    with pytest.raises(ValueError, match="nothing was recorded at step 3"):
        list(successive_halving(lambda lr: Recorded(records[lr]), RATES, 3, 3, 18))


def test_a_run_whose_loss_is_no_number_ends_there_and_the_search_goes_on():
    def make(lr):
        run = make_tiny(abs(lr))
        if lr < 0:
            with torch.no_grad():
                run.model.classifier.weight.fill_(math.nan)
        return run

    rungs = list(successive_halving(make, [{"lr": -1e-3}, {"lr": 1e-3}, {"lr": 1e-2}], 3, 2, 6))
    assert rungs[0].scores[0] == -math.inf
    assert rungs[-1].best != 0


def test_a_score_of_ones_own_and_a_metric_of_which_less_is_better():
    rungs = list(successive_halving(make_tiny, RATES[:3], 3, 2, 6, score=lambda run: -run.config["lr"]))
    assert rungs[-1].best == 0
    by_loss = list(successive_halving(make_tiny, RATES[:3], 3, 2, 6, score="loss"))
    assert max(by_loss[0].scores.values()) < 0
    with pytest.raises(ValueError, match="there is no metric 'acuracy'; there are accuracy"):
        list(successive_halving(make_tiny, RATES[:3], 3, 2, 6, score="acuracy"))


def test_a_rate_that_falls_to_another_end_is_refused_and_one_that_falls_to_the_last_rung_is_not():
    with pytest.raises(ValueError, match="falls towards step 18, and the search ends at step 6"):
        list(successive_halving(partial(make_tiny, schedule="linear"), RATES[:3], 3, 2, 6))
    assert list(successive_halving(partial(make_tiny, schedule="linear"), RATES[:3], 3, 2, 18))
    with pytest.raises(ValueError, match="18 steps cannot come to step 27"):
        list(successive_halving(make_tiny, RATES[:3], 3, 3, 27))


def test_a_setting_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="is there twice"):
        list(successive_halving(make_tiny, [*RATES, {"lr": 3e-3}], 3, 2, 18))
    with pytest.raises(ValueError, match="needs settings"):
        list(successive_halving(make_tiny, [], 3, 2, 18))


def test_nothing_is_trained_before_it_is_asked_for():
    made = []
    search = successive_halving(lambda **setting: made.append(setting) or make_tiny(**setting), RATES, 3, 2, 18)
    assert not made
    next(search)
    assert made == RATES


# TPE


def test_a_density_over_ln_x_sums_to_one_and_its_samples_follow_it():
    space = {"lr": LogRange(1e-5, 1e-2), "method": ["a", "b"]}
    parzen = Parzen([{"lr": 1e-3, "method": "a"}, {"lr": 2e-3, "method": "a"}, {"lr": 1e-5, "method": "b"}], space)
    x = np.linspace(math.log(1e-5), math.log(1e-2), 4001)
    density = {m: np.exp(parzen.log_density([{"lr": v, "method": m} for v in np.exp(x)])) for m in "ab"}
    total = {m: np.trapezoid(of, x) for m, of in density.items()}
    assert sum(total.values()) == pytest.approx(1, abs=1e-5)
    drawn = parzen.sample(4000, np.random.default_rng(0))
    assert np.mean([s["method"] == "a" for s in drawn]) == pytest.approx(total["a"], abs=0.03)
    upper = x > math.log(3e-4)
    share = sum(np.trapezoid(of[upper], x[upper]) for of in density.values())
    assert np.mean([s["lr"] > 3e-4 for s in drawn]) == pytest.approx(share, abs=0.03)
    assert all(1e-5 <= s["lr"] <= 1e-2 for s in drawn)


def worth(setting):
    return -abs(math.log(setting["lr"] / 1e-3)) + (setting["method"] == "LoRA")


def test_the_history_is_split_as_stated():
    history = [({"i": i}, value) for i, value in enumerate([0.3, 0.9, 0.1, math.nan, 0.9, *[0.2] * 16])]
    good, rest = split_history(history)
    assert [s["i"] for s in good] == [1, 4, 0]
    assert [s["i"] for s in rest] == [2, 3, *range(5, 21)]


def test_tpe_finds_more_than_chance():
    won = 0
    for seed in range(10):
        history, lucky = [], [worth(s) for s in random_settings(SPACE, 40, seed)]
        for _ in range(40):
            setting = tpe_suggest(history, SPACE, seed)
            history.append((setting, worth(setting)))
        won += max(value for _, value in history) > max(lucky)
        assert [s for s, _ in history[:10]] != [s for s, _ in history[10:20]]
    assert won >= 8


def test_tpe_repeats_no_setting_and_says_when_there_is_none_left():
    space, history = {"a": [1, 2, 3, 4], "b": ["x", "y", "z"]}, []
    for _ in range(12):
        setting = tpe_suggest(history, space, seed=0, startup=3)
        assert setting not in [s for s, _ in history]
        history.append((setting, float(setting["a"])))
    with pytest.raises(ValueError, match="all settings of the space have been tried"):
        tpe_suggest(history, space)


def test_the_same_history_and_seed_give_the_same_setting():
    history = [(s, worth(s)) for s in random_settings(SPACE, 15, seed=3)]
    assert tpe_suggest(history, SPACE, 1) == tpe_suggest(history, SPACE, 1)
    assert tpe_suggest(history, SPACE, 1) != tpe_suggest(history, SPACE, 2)
    assert tpe_suggest(history[:4], SPACE, 1) not in [s for s, _ in history]


# the winner's curse


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=5), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_expected_best_is_the_mean_over_all_draws(values, n):
    from itertools import product

    every = [max(drawn) for drawn in product(values, repeat=n)]
    assert expected_best(values, n)[-1] == pytest.approx(np.mean(every), abs=1e-12)


def test_the_expected_best_begins_with_the_mean_and_wants_numbers():
    assert expected_best([0.1, 0.5, 0.9])[0] == pytest.approx(0.5)
    assert len(expected_best([0.1, 0.5, 0.9])) == 3
    for wrong in ([], [math.nan], [[0.1]]):
        with pytest.raises(ValueError, match="a list of finite scores"):
            expected_best(wrong)


# meta-learning


def quadratic(a, c):
    return lambda theta: sum((a / 2 * (p - c) ** 2).sum() for p in theta)


THETA = (torch.tensor([1.0, -2.0]), torch.tensor([[0.5]]))


def test_reptile_on_quadratics_is_its_closed_form():
    a, centres, lr, steps, epsilon = 0.7, (1.0, 3.0, -2.0), 0.3, 4, 0.6
    ours = reptile_step(THETA, [quadratic(a, c) for c in centres], epsilon, lr, steps)
    shrunk = 1 - (1 - lr * a) ** steps
    for p, q in zip(THETA, ours, strict=True):
        assert_close(q, p + epsilon * shrunk * (np.mean(centres) - p), rtol=0, atol=1e-6)


def test_first_order_maml_on_quadratics_is_its_closed_form():
    a, lr, steps, beta = 0.7, 0.3, 4, 0.6
    pairs = [(1.0, 2.0), (3.0, -1.0)]
    ours = fomaml_step(THETA, [(quadratic(a, c), quadratic(a, d)) for c, d in pairs], beta, lr, steps)
    for p, q in zip(THETA, ours, strict=True):
        ends = [c + (1 - lr * a) ** steps * (p - c) for c, _ in pairs]
        gradient = torch.stack([a * (end - d) for end, (_, d) in zip(ends, pairs, strict=True)]).mean(0)
        assert_close(q, p - beta * gradient, rtol=0, atol=1e-6)


def test_adapting_is_torchs_sgd_and_leaves_the_start_alone():
    task = draw_task([torch.randn(9, 4), torch.randn(9, 4)], 3, 2)
    theta = new_head(4, 3, seed=1)
    theirs = [p.clone().requires_grad_() for p in theta]
    optimizer = torch.optim.SGD(theirs, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        task.support_loss(tuple(theirs)).backward()
        optimizer.step()
    before = [p.clone() for p in theta]
    for ours, p, kept, start in zip(adapted(theta, task.support_loss, 0.5, 3), theirs, theta, before, strict=True):
        assert_close(ours, p.detach())
        assert torch.equal(kept, start)
        assert not ours.requires_grad


def test_query_and_support_are_apart():
    with pytest.raises(ValueError, match="query and support are one set"):
        loss = quadratic(1, 1)
        fomaml_step(THETA, [(loss, loss)])
    x, y = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="share a text"):
        Task(x, y, torch.cat([torch.randn(1, 3), x[2:3]]), torch.tensor([0, 1]))
    Task(torch.cat([x, x]), torch.cat([y, y]), torch.randn(2, 3), torch.tensor([0, 1]))


def test_a_drawn_task_has_its_shots_of_each_class_and_the_seed_turns_the_classes():
    vectors = [torch.arange(60.0).reshape(30, 2), 1000 + torch.arange(60.0).reshape(30, 2)]
    tasks = [draw_task(vectors, 5, 20, seed) for seed in range(20)]
    for task in tasks:
        assert task.y.bincount().tolist() == [5, 5]
        assert task.y_query.bincount().tolist() == [20, 20]
        assert len({(row[0].item() >= 1000, label.item()) for row, label in zip(task.x, task.y, strict=True)}) == 2
        first = task.x[task.y == 0][0, 0] >= 1000
        assert ((task.x_query[task.y_query == 0][:, 0] >= 1000) == first).all()
    assert 3 < sum(bool(task.x[0, 0] >= 1000) for task in tasks) < 17
    assert torch.equal(draw_task(vectors, 5, 20, (1, 2)).x, draw_task(vectors, 5, 20, (1, 2)).x)
    with pytest.raises(ValueError, match="one has 30"):
        draw_task(vectors, 20, 20)


def test_a_new_head_says_nothing_yet():
    theta = new_head(6, 4, classes=3)
    assert_close(head_logits(theta, torch.randn(5, 6)), torch.zeros(5, 3))
    assert_close(theta[0].std(), torch.tensor(6**-0.5), rtol=0.5, atol=0)


# data sets


def described(**changes):
    return {"rows": 500.0, "classes": 2.0, "words": 20.0, "largest class": 0.5, "probe": 0.8} | changes


def test_the_nearest_data_set_counts_every_number_in_its_own_spread():
    known = {"long": described(words=400.0), "easy": described(probe=0.95), "same size": described(words=22.0)}
    assert nearest(described(), known)[0] == "same size"
    assert nearest(described(words=380.0), known)[0] == "long"
    assert nearest(described(probe=0.96), known)[0] == "easy"
    a, b = nearest(described(rows=1000.0), {"less": described(rows=250.0), "more": described(rows=3000.0)})
    assert a == "more"  # by the logarithm: three times, not a quarter
    assert b == "less"


def test_a_data_set_is_not_its_own_neighbour():
    with pytest.raises(ValueError, match="'here' is this data set"):
        nearest(described(), {"there": described(words=3.0), "here": described()})
    with pytest.raises(ValueError, match="no data set to be near to"):
        nearest(described(), {})


def test_a_description_counts_what_is_there():
    data = tiny_data(train=30, validation=12)
    found = describe(data, tiny_model("bert"), tiny_tokenizer())
    labels = np.array(data["train"]["label"][:])
    assert found["rows"] == 30
    assert found["classes"] == 2
    assert found["words"] == pytest.approx(np.mean([len(t.split()) for t in data["train"]["text"]]))
    assert found["largest class"] == pytest.approx(max(np.bincount(labels)) / 30)
    assert 0 <= found["probe"] <= 1


# choosing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A tiny encoder with its tokenizer, as `load_encoder` reads it."
    path = tmp_path_factory.mktemp("tiny")
    save_model(tiny_model("bert"), tiny_tokenizer(), path)
    return str(path)


TINY_PLAN = Plan((("probe", 1e-2), ("LoRA", 3e-3), ("adapters", 1e-2), ("prefix", 1e-2), ("full", 3e-3)), 2, 18)


@pytest.fixture(scope="module")
def chosen(folder):
    torch.set_num_threads(1)
    return choose(tiny_data(), plan=TINY_PLAN, model=folder)


def test_a_choice_is_what_a_halving_over_its_runs_finds(folder, chosen):
    making = Making(tiny_data(), folder, steps=18)
    records = {}
    for method, lr in TINY_PLAN.settings:
        run, kept = making(method, lr), {}
        for _ in run:
            if run.index in (2, 6, 18):
                kept[run.index] = run.evaluate("validation")["accuracy"]
        records[method] = kept
    five = [{"method": method, "lr": lr} for method, lr in TINY_PLAN.settings]
    rungs = list(successive_halving(lambda method, lr: Recorded(records[method]), five, 3, 2, 18))
    best = five[rungs[-1].best]
    assert (chosen.method, chosen.lr) == (best["method"], best["lr"])
    assert list(chosen.table["accuracy"]) == list(rung_table(rungs, five)["score"])
    assert chosen.table.iloc[0]["steps"] == 18
    assert chosen.table["seconds"].min() > 0


def test_the_same_plan_gives_the_same_choice_to_the_bit(folder, chosen):
    again = choose(tiny_data(), plan=chosen.plan, model=folder)
    columns = ["method", "lr", "steps", "accuracy", "give or take"]
    assert again.table[columns].equals(chosen.table[columns])
    assert again.level == chosen.level
    assert same_bits(weights(again.run.model), weights(chosen.run.model))
    assert chosen.run.evaluate("validation")["accuracy"] == chosen.table.iloc[0]["accuracy"]
    assert list(chosen.run.predict(["good film"]).columns[:2]) == ["text", "prediction"]


def test_a_choice_shows_its_evidence(chosen):
    said = repr(chosen)
    assert said.startswith(f"{chosen.method}, lr={chosen.lr:g}: {chosen.table.iloc[0]['accuracy']:.3f} of 16 ")
    assert "after 18 steps" in said
    assert "not told apart" in said or "it alone" in said


SECONDS = {"probe": (0.01, 0.1), "LoRA": (0.2, 1.0), "full": (0.3, 1.0)}


def planned(monkeypatch, budget, most=10_000, seconds=SECONDS):
    monkeypatch.setattr(method_search, "_seconds_of", lambda make_run, method, settings: seconds[method])
    pairs = [(method, lr) for method in seconds for lr in (1, 2)]
    return method_search.make_plan(None, budget, pairs, most)


@pytest.mark.parametrize("budget", [25, 40, 60, 100, 1000])
def test_a_plan_fits_into_the_budget_and_the_next_longer_one_does_not(monkeypatch, budget):
    plan = planned(monkeypatch, budget)

    def cost(longest):  # six settings, then the two slowest, then the slowest; three steps of each method are timed
        total, before, alive = 3 * 0.51, 0, [0.01, 0.01, 0.2, 0.2, 0.3, 0.3]
        for at in [longest] if longest <= 27 else sorted({max(27, longest // 9), max(81, longest // 3), longest}):
            if at > longest:
                continue
            total += sum(step * (at - before) + (0.1 if step == 0.01 else 1) for step in alive)
            alive, before = alive[-max(1, len(alive) // 3) :], at
        return total

    assert plan.seconds == pytest.approx(cost(plan.longest))
    assert plan.seconds <= budget
    longer = method_search._LONGEST[method_search._LONGEST.index(plan.longest) + 1]
    assert cost(longer) > budget
    assert (plan.first, plan.eta) == (max(plan.longest // 9, min(27, plan.longest)), 3)


def test_a_plan_is_no_longer_than_the_epochs_and_a_little_noise_of_the_clock_changes_nothing(monkeypatch):
    assert planned(monkeypatch, 1e6, most=100).longest == 108
    slower = {method: (step * 1.03, check * 0.97) for method, (step, check) in SECONDS.items()}
    assert planned(monkeypatch, 50) == replace(planned(monkeypatch, 50, seconds=slower), seconds=pytest.approx(40, 0.5))


def test_a_budget_that_is_too_small_says_what_is_needed(monkeypatch):
    with pytest.raises(ValueError, match=r"5 seconds are too few: 6 settings need about 15 here"):
        planned(monkeypatch, 5)


def test_a_budget_in_seconds_is_turned_into_steps_once(folder):
    found = choose(tiny_data(), 60, {"probe": (1e-2,), "full": (3e-3, 1e-2)}, epochs=1, model=folder)
    assert found.plan.longest == 9
    assert set(found.plan.measured) == {"probe", "full"}
    assert found.plan.seconds <= 60
    assert len(found.table) == 3


def test_data_that_cannot_be_chosen_for_are_refused(folder):
    rows = {"text": ["a b", "c d", "e f"], "label": [0.5, 1.5, 2.5]}
    numbers = DatasetDict(train=Dataset.from_dict(rows), validation=Dataset.from_dict(rows))
    with pytest.raises(ValueError, match="expected classes"):
        choose(numbers, model=folder)
    with pytest.raises(ValueError, match="no method 'lora'; there are probe, LoRA"):
        choose(tiny_data(), 60, {"lora": (1e-3,)}, model=folder)
    with pytest.raises(ValueError, match="no method 'lora'"):
        Making(tiny_data(), folder)("lora", 1e-3)


def test_every_method_trains_its_own_part_and_only_the_probe_is_cached(folder):
    making = Making(tiny_data(), folder)
    trained = {}
    for name in method_search.methods():
        run = making(name, 1e-3)
        trained[name] = {n for n, p in run.model.named_parameters() if p.requires_grad}
        assert (run.cache is not None) == (name == "probe")
        assert run.config["schedule"] == "constant"
        assert len(run) == 54
    assert {name.split(".")[0] for name in trained["probe"]} == {"classifier", "bert"}
    assert all("pooler" in name or "classifier" in name for name in trained["probe"])
    assert len(trained["full"]) == len(list(making("full", 1e-3).model.parameters()))
    assert all(name.endswith((".A", ".B")) or "classifier" in name for name in trained["LoRA"])
    assert making("full", 1e-3, seed=5).config["seed"] == 5


@pytest.mark.parametrize("arch", ["distilbert", "gpt2", "modernbert"])
def test_a_probe_of_any_architecture_is_what_stands_outside_the_layers(arch):
    model = method_search.head_only(tiny_model(arch))
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert not any(".0." in name or ".1." in name or "embed" in name or "wte" in name for name in trained)


def test_two_settings_are_told_apart_by_the_texts_on_which_they_differ():
    right = {(0, 9): np.array([True] * 20), (1, 9): np.array([True] * 15 + [False] * 5)}
    right |= {(2, 9): np.array([True] * 16 + [False] * 4), (3, 9): np.array([False] * 10 + [True] * 10)}
    assert method_search._told_apart(right, 0, 1, 9)  # 5 to 0
    assert not method_search._told_apart(right, 0, 2, 9)  # 4 to 0
    assert not method_search._told_apart(right, 1, 3, 9)  # 10 to 5
    assert not method_search._told_apart(right, 0, 0, 9)
    assert method_search._told_apart(right, 0, 4, 9)  # never scored there


def test_the_best_are_trained_again_in_processes_of_loky_with_the_same_result():
    from joblib.externals.loky import get_reusable_executor

    methods = {"3e-3": partial(again, lr=3e-3), "1e-2": partial(again, lr=1e-2)}
    here = compare(methods, seeds=(1, 2), threads=1)
    there = compare(methods, seeds=(1, 2), threads=1, executor=get_reusable_executor(max_workers=2))
    assert here[["method", "seed", "accuracy", "loss"]].equals(there[["method", "seed", "accuracy", "loss"]])


def again(seed, lr):
    return tiny_run(tiny_model("bert", seed=seed), tiny_data(), lr=lr, seed=seed, epochs=1)
