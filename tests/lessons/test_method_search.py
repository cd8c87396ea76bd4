"""Lesson 52: searches over settings, on runs and on recorded curves; TPE, Reptile and first-order MAML; `choose`."""

import math
from collections import Counter
from functools import partial

import numpy as np
import optuna
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import TPESampler, default_gamma, default_weights
from torch.testing import assert_close

from finetune_lessons import method_search
from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab import LogRange, Run
from finetune_lessons.method_search import (
    METHODS,
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

optuna.logging.set_verbosity(optuna.logging.WARNING)
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


@pytest.mark.parametrize(("longest", "most"), [(27, 4), (81, 5), (30, 4)])
def test_brackets_are_those_of_optunas_hyperband(longest, most):
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=longest, reduction_factor=3)
    study = optuna.create_study(study_name="named", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.report(0, 1) or trial.should_prune() or 0.0, n_trials=1)
    ours = brackets(longest, eta=3)
    assert [n for n, _ in ours] == pruner._trial_allocation_budgets
    assert len(ours) == most
    assert [first for _, first in ours][-1] == longest


def test_one_bracket_of_the_paper():
    assert brackets(81) == [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]  # arXiv:1603.06560, table 1


@pytest.mark.parametrize("seed", range(5))
def test_optuna_stops_whom_asha_does_not_send_on(seed):
    "One worker, one trial after the other: optuna decides once, when a trial comes to a rung; so does the rule here."
    eta, at, final = 3, [1, 3, 9, 27], np.random.default_rng(seed).permutation(40) / 40
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=eta)
    study = optuna.create_study(study_name=f"named {seed}", direction="maximize", pruner=pruner,
                                sampler=optuna.samplers.RandomSampler(seed=0))  # fmt: skip

    def objective(trial):
        for step in range(1, 28):
            trial.report(final[trial.number] * step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return final[trial.number]

    study.optimize(objective, n_trials=len(final))
    done, reached = [{} for _ in at], []
    for i, value in enumerate(final):
        for rung, steps in enumerate(at):
            done[rung][i] = value * steps
            best = sorted(done[rung], key=lambda j: -done[rung][j])[: max(1, len(done[rung]) // eta)]
            if i not in best:
                break
        reached.append(steps)
    stopped = [t.last_step for t in study.trials]
    assert stopped == reached
    sent = asha_next(done[:2], [set(done[0]), set()], eta)
    assert sent == (max(done[0], key=done[0].get), 1)


def test_asha_by_hand():
    done = [{0: 0.1, 1: 0.4, 2: 0.2}, {}, {}]
    assert asha_next(done, [{0, 1, 2}, set(), set()], 3) == (1, 1)  # the best of three
    assert asha_next(done, [{0, 1, 2}, {1}, set()], 3) is None  # it is on its way: begin with a new setting
    done = [{0: 0.1, 1: 0.4, 2: 0.2, 3: 0.5, 4: 0.0, 5: 0.3}, {1: 0.6}, {}]
    assert asha_next(done, [set(range(6)), {1}, set()], 3) == (3, 1)  # a later one is better, and 1 stays promoted
    done = [{i: i / 10 for i in range(9)}, {6: 0.7, 7: 0.6, 8: 0.9}, {}]
    assert asha_next(done, [set(range(9)), {6, 7, 8}, set()], 3) == (8, 2)  # from the top down
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


def tiny_run(tiny, lr, schedule="constant", epochs=9, dropout=0.1):
    model, tokenizer, data = tiny
    torch.manual_seed(0)
    made = type(model)(model.config)
    made.load_state_dict(model.state_dict())
    return Run(made, tokenizer, data, loss=classification_loss, lr=lr, epochs=epochs, batch_size=4, schedule=schedule,
               eval_every=0, warmup=0, seed=0)  # fmt: skip
