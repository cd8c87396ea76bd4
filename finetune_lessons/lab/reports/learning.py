"""Whether the learning rate lets a run learn: by the steps that it took, and by a few on trial."""

import math
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from finetune_lessons.lab.reports.causes import Cause, rate_sum
from finetune_lessons.lab.reports.trial import STEPS, Outcome, Trial
from finetune_lessons.lab.training.learnt import learnt
from finetune_lessons.lab.training.scores import forward

ENOUGH = 0.05  # of the loss, that a trial should take away
LITTLE = 0.1  # of the loss, below which a whole run is one that has not learnt
FEW = 4  # steps at the peak rate
HIGHEST = 10.0  # rate that is tried


def not_finite(run: Any, trial: Trial) -> Iterator[Cause]:
    if not math.isfinite(trial.before):
        yield Cause(
            "The loss is no finite number",
            f"it is {trial.before} on {trial.texts} training texts, though all weights are finite numbers",
            "Look for a logarithm of 0 or a division by 0 in the loss, and for labels that are NaN",
        )


def rose(run: Any, trial: Trial) -> Iterator[Cause]:
    "What the steps say that were taken."
    losses = [step.loss for step in run.steps]
    if len(losses) < 8 or learnt(run):
        return
    late, highest = statistics.fmean(losses[-len(losses) // 4 :]), max(losses)
    spread = _spread_of_outputs(run, trial)
    if late > 1.1 * losses[0] or (highest > 2 * losses[0] and losses[0] > 0) or spread < 1e-3:
        same = f"; it says the same of every text now (its outputs differ by {spread:.1e})" if spread < 1e-3 else ""
        yield Cause(
            "The learning rate is too high",
            f"with lr={run.lr:.3g} the loss went from {losses[0]:.3g} over {highest:.3g} (step "
            f"{losses.index(highest)}) to {late:.3g}{same}",
            f"Load the model anew, for what is lost does not come back, and take lr={run.lr / 10:.2g}",
        )


def _spread_of_outputs(run: Any, trial: Trial) -> float:
    "The standard deviation of the outputs over texts, as a share of their size; infinity where that cannot be seen."
    if len(run.tasks) > 1:
        return math.inf
    results = [
        trial.evaluated(batch, lambda model, some: forward(model, run.objective, some)) for batch in trial.batches
    ]
    if any(result.logits is None for result in results):
        return math.inf
    logits = torch.cat([result.logits for result in results if result.logits is not None])
    return float(logits.std(0).mean() / logits.abs().mean().clamp(min=1e-12)) if len(logits) > 1 else math.inf


def rate(
    run: Any,
    trial: Trial,
    tried: list[Outcome],  # takes what is tried, the run's own rate first
) -> Iterator[Cause]:
    "By a few steps at the run's rate and, if these do not take the loss down, at others."
    own = trial.train()
    tried.append(own)
    steps = rate_sum(run)
    whole = 1 - (1 - min(max(own.fall, 0.0), 0.99)) ** (steps / STEPS)  # what all steps will take away
    if whole >= LITTLE and steps >= FEW:
        return
    if own.fall >= ENOUGH:
        yield Cause(
            "There are too few steps",
            f"the run has {len(run)}, worth {steps:.3g} at the peak rate; {own}",
            "Take more epochs or smaller batches",
        )
        return
    for settings, name, mend in _impediments(run, trial):
        free = trial.train(**settings)
        if free.fall >= max(ENOUGH, own.fall + ENOUGH):
            yield Cause(name, f"{own}, and without that {free.change}", mend)
            return
    for search in (_lower, _higher) if own.fall < 0 else (_higher, _lower):
        if max(outcome.fall for outcome in tried) < ENOUGH:
            tried.extend(search(trial, own))
    most = max(outcome.fall for outcome in tried)
    enough = [outcome for outcome in tried if outcome.fall >= max(most / 2, ENOUGH)] or tried
    yield from _verdict(run, min(enough, key=lambda outcome: outcome.rate), tried)  # the most careful one


def _lower(trial: Trial, own: Outcome) -> Iterator[Outcome]:
    return map(trial.train, (0.1, 0.01, 0.001))


def _higher(trial: Trial, own: Outcome) -> Iterator[Outcome]:
    "Ten times the rate, and again, until that helps no more."
    before, factor = own, 10.0
    while trial.peak * factor <= HIGHEST:
        outcome = trial.train(factor)
        yield outcome
        if outcome.fall == -math.inf or (before.fall >= ENOUGH and outcome.fall < before.fall):
            return
        before, factor = outcome, factor * 10


def _impediments(run: Any, trial: Trial) -> Iterator[tuple[dict[str, bool], str, str]]:
    limit = run.config["max_grad_norm"]
    norm = math.sqrt(sum(norm**2 for norm in trial.gradients().values()))
    if norm > 2 * limit:
        yield (
            {"clipped": False},
            f"The gradient is clipped to nothing: it has a norm of {norm:.3g}, and max_grad_norm is {limit:.3g}",
            "Take max_grad_norm=1.0",
        )
    rates = [m.p for m in run.model.modules() if isinstance(m, torch.nn.Dropout)]
    if rates and max(rates) >= 0.3:
        yield (
            {"dropout": False},
            f"Dropout leaves too little: it drops {max(rates):.0%} of the activations",
            "Take the usual 10%: in the model's configuration, before it is loaded",
        )


def _verdict(run: Any, best: Outcome, tried: list[Outcome]) -> Iterator[Cause]:
    own = tried[0]
    if best.fall < ENOUGH:
        rates = sorted(outcome.rate for outcome in tried)
        yield Cause(
            "The loss falls at no learning rate",
            f"{own}; {len(tried)} rates from {rates[0]:.3g} to {rates[-1]:.3g} were tried, such as {best.change}",
            "Look at the loss: does it compare the model's outputs with the labels of the same texts?",
        )
    elif best.rate < own.rate:
        yield Cause(
            "The learning rate is too high",
            f"{own}, a tenth of that rate or less {best.change}",
            f"Take lr={best.rate:.2g}, and a model that is loaded anew",
        )
    else:
        yield Cause(
            "The learning rate is too low",
            f"{own}, a higher rate {best.change}; the run has {len(run)} steps",
            f"Take lr={best.rate:.2g}",
        )
