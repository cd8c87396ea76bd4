"""Lesson 52 beside optuna: brackets, who is stopped, the densities of TPE, and a study in a file."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from test_method_search import SPACE, worth

from finetune_lessons.lab import LogRange
from finetune_lessons.method_search import Parzen, Recorded, asha_next, brackets, random_settings, split_history

optuna = pytest.importorskip("optuna")
tpe = pytest.importorskip("optuna.samplers._tpe.sampler")
parzen = pytest.importorskip("optuna.samplers._tpe.parzen_estimator")
journal = pytest.importorskip("optuna.storages.journal")
optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize(("longest", "most"), [(27, 4), (81, 5), (30, 4)])
def test_brackets_are_those_of_optunas_hyperband(longest, most):
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=longest, reduction_factor=3)
    study = optuna.create_study(study_name="named", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.report(0, 1) or trial.should_prune() or 0.0, n_trials=1)
    ours = brackets(longest, eta=3)
    assert [n for n, _ in ours] == pruner._trial_allocation_budgets
    assert len(ours) == most
    assert [first for _, first in ours][-1] == longest


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


def in_optuna(space):
    return {
        name: optuna.distributions.FloatDistribution(given.low, given.high, log=True) if isinstance(given, LogRange)
        else optuna.distributions.CategoricalDistribution(tuple(given))
        for name, given in space.items()
    }  # fmt: skip


def internal(settings, space):
    return {n: np.array([d.to_internal_repr(s[n]) for s in settings]) for n, d in in_optuna(space).items()}


def their_parzen(settings, space):
    parameters = parzen._ParzenEstimatorParameters(1.0, True, False, tpe.default_weights, True)
    return parzen._ParzenEstimator(internal(settings, space), in_optuna(space), parameters)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 24])
def test_the_densities_are_optunas(n):
    seen = random_settings(SPACE, n, seed=1) if n else []
    asked = random_settings(SPACE, 50, seed=2)
    ours, theirs = Parzen(seen, SPACE).log_density(asked), their_parzen(seen, SPACE).log_pdf(internal(asked, SPACE))
    assert np.abs(ours - theirs).max() < 1e-9


@pytest.mark.parametrize("n", [10, 11, 21, 25])
def test_of_optunas_candidates_the_rule_picks_the_one_that_optuna_picks(n):
    "One fixed history; optuna draws the candidates, and both rank them."
    history = [(s, worth(s)) for s in random_settings(SPACE, n, seed=3)]
    sampler = tpe.TPESampler(multivariate=True, seed=0)
    study = optuna.create_study(study_name="fixed", direction="maximize", sampler=sampler)
    for setting, value in history:
        study.add_trial(optuna.trial.create_trial(params=setting, distributions=in_optuna(SPACE), value=value))
    candidates = []

    class Seen(parzen._ParzenEstimator):
        def sample(self, rng, size):
            candidates.append(super().sample(rng, size))
            return candidates[-1]

    study.sampler._parzen_estimator_cls = Seen
    trial = study.ask(in_optuna(SPACE))
    drawn = [
        {"method": SPACE["method"][int(m)], "lr": float(lr)}
        for m, lr in zip(candidates[0]["method"], candidates[0]["lr"], strict=True)
    ]
    good, rest = split_history(history)
    assert len(good) == tpe.default_gamma(n)
    ratio = Parzen(good, SPACE).log_density(drawn) - Parzen(rest, SPACE).log_density(drawn)
    assert drawn[ratio.argmax()] == trial.params


def stored(file):
    return optuna.storages.JournalStorage(journal.JournalFileBackend(str(file)))


def worker(file, seed):
    study = optuna.create_study(study_name="shared", storage=stored(file), direction="maximize", load_if_exists=True,
                                sampler=optuna.samplers.RandomSampler(seed=seed),
                                pruner=optuna.pruners.SuccessiveHalvingPruner(1, reduction_factor=3))  # fmt: skip

    def objective(trial):
        value = trial.suggest_float("value", 0, 1)
        run = Recorded({steps: value * steps for steps in (1, 3, 9)})
        for _ in run:
            if run.index in run.scores:
                trial.report(run.evaluate()["accuracy"], run.index)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return run.evaluate()["accuracy"]

    study.optimize(objective, n_trials=10)
    return len(study.trials)


def test_two_processes_share_a_study_in_a_file(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(worker, [tmp_path / "study.log"] * 2, (0, 1)))
    study = optuna.load_study(study_name="shared", storage=stored(tmp_path / "study.log"))
    assert [trial.number for trial in study.trials] == list(range(20))
    assert len({trial.params["value"] for trial in study.trials}) == 20  # two seeds, and nobody tries what others tried
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert 8 <= len(pruned) < 20 and study.best_value == max(trial.value or 0 for trial in study.trials)
    assert worker(tmp_path / "study.log", seed=2) == 30  # opened again, it goes on
