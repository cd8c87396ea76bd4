"""Why does my loss not fall? The likeliest cause first, with its evidence and the mend."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch

from finetune_lessons.lab.models.modes import buffers_kept
from finetune_lessons.lab.reports import causes, data_causes
from finetune_lessons.lab.reports.causes import Cause
from finetune_lessons.lab.reports.learning import not_finite, rate, rose
from finetune_lessons.lab.reports.trial import Outcome, Trial
from finetune_lessons.lab.training.learnt import learnt


class Diagnosis(tuple[Cause, ...]):
    "The causes that were found, the likeliest first; none for a run that learns as it is."

    tried = ""  # what the trial steps showed

    def __repr__(self) -> str:
        if not self:
            return f"Found nothing that would keep the loss from falling.{f' {self.tried}.' if self.tried else ''}"
        return "\n".join(
            f"{number}. {cause.name}\n   Seen: {cause.evidence}.\n   Mend: {cause.mend}."
            for number, cause in enumerate(self, 1)
        )


def diagnose(
    run: Any,  # a `Run`: before its first step, in the middle or at its end
) -> Diagnosis:
    """Why the loss of a run does not fall: the causes that can be seen, the likeliest first.

    Looks at what is trained, the data, the loss and its gradient, and takes a few steps on a few rows at several
    learning rates. All of that is undone: the run, its random numbers and its model are as before. Raises ValueError
    for what is no run, and for one of several processes.
    """
    if not all(hasattr(run, name) for name in ("splits", "objective", "optimizer", "steps")):
        raise ValueError(f"diagnose takes a Run; given: {type(run).__name__}")
    if run.processes.count > 1:
        raise ValueError("diagnose looks at a run of one process: make the same run in one, with a part of the data")
    with run.random_state.swapped_in(), buffers_kept(run.learner, unless=lambda: False), torch.no_grad():
        trial: list[Outcome] = []
        found = Diagnosis(_causes(run, trial))
    if trial:
        found.tried = str(trial[0])
    return found


def _causes(run: Any, tried: list[Outcome]) -> Iterator[Cause]:
    for look in (causes.nothing_trained, causes.no_labels, causes.zero_rate):
        if hopeless := list(look(run)):
            yield from hopeless
            return
    try:
        trial = Trial(run)
    except Exception as error:  # whatever somebody's loss raises
        yield Cause("The loss cannot be computed", f"{type(error).__name__}: {error}".rstrip("."), _MEND_THE_LOSS)
        return
    if hopeless := list(chain(not_finite(run, trial), causes.no_gradient(trial))):
        yield from hopeless
        return
    for look in (
        data_causes.constant_labels,
        data_causes.same_inputs,
        data_causes.hidden_by_mask,
        data_causes.cut_away,
    ):
        yield from look(run)
    for check in (causes.frozen_head, causes.softmax_twice, causes.chance_in_evaluation):
        yield from check(run, trial)
    if len(run.steps) >= 4 and learnt(run):
        yield from data_causes.validation_stays(run)
        return
    yield from causes.at_the_floor(run, trial)
    yield from data_causes.labels_unrelated(run)
    yield from causes.weight_decay(run)
    yield from list(rose(run, trial)) or rate(run, trial, tried)


_MEND_THE_LOSS = "Mend what the message names; a loss is called as loss(model, batch)"


__all__ = ["Cause", "Diagnosis", "diagnose"]
