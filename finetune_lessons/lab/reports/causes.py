"""What in the run, its model or its loss keeps it from learning: each function looks for one cause."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from finetune_lessons.lab.models.new_modules import new_modules
from finetune_lessons.lab.reports.trial import Trial
from finetune_lessons.lab.training.columns import Column
from finetune_lessons.lab.training.sampling import Rows
from finetune_lessons.lab.training.scores import forward
from finetune_lessons.lab.training.tasks import Classification, MultiLabel, Tokens


@dataclass(frozen=True)
class Cause:
    "What keeps a loss from falling."

    name: str  # in a few words
    evidence: str  # in numbers
    mend: str  # in a sentence

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. {self.mend}."


# what makes any training useless


def nothing_trained(run: Any) -> Iterator[Cause]:
    trained = [p for p in run.learner.parameters() if p.requires_grad]
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    known = sum(id(p) in held for p in trained)
    if not trained:
        total = sum(p.numel() for p in run.learner.parameters())
        yield Cause(
            "Nothing is trained",
            f"of the model's {total:,} parameters none requires a gradient",
            "Unfreeze what is to learn, parameter.requires_grad_(True), and make a new Run",
        )
    elif known < len(trained):
        yield Cause(
            "The optimizer does not hold what is to be trained",
            f"it holds {known} of the {len(trained)} tensors that require a gradient",
            "Change the model before you make the Run, and let optimizer= take all the groups that it is given",
        )
    if broken := [n for n, p in run.learner.named_parameters() if not p.detach().isfinite().all()]:
        yield Cause(
            "The weights are broken",
            f"{len(broken)} of the model's tensors hold NaN or infinite numbers, the first is {broken[0]}",
            "Load the model anew, and take a tenth of the learning rate",
        )


def no_labels(run: Any) -> Iterator[Cause]:
    train = run.splits["train"]
    for name, split in train.splits.items():
        rows = np.random.default_rng(0).permutation(len(split))[:64]
        batches = [train.load(Rows(name, rows[i : i + 1]), torch.device("cpu")) for i in range(len(rows))]
        idle = sum(sum(run.objective.terms(batch).values()) == 0 for batch in batches)
        if 2 * idle >= len(batches):
            of_tokens = isinstance(train.tasks[name], Tokens)
            yield Cause(
                "The answers are masked away" if of_tokens else "The labels are missing",
                f"{idle} of {len(batches)} training texts have no label that counts: all are -100"
                + ("" if of_tokens else " or empty"),
                "Mask the prompt alone, and cut texts such that their answers are kept"
                if of_tokens
                else "Look at the column of labels: -100 and NaN mean that there is none",
            )


def zero_rate(run: Any) -> Iterator[Cause]:
    peaks = [group["initial_lr"] for group in run.optimizer.param_groups]
    if max(peaks) == 0:
        yield Cause(
            "The learning rate is zero",
            f"the optimizer was made with lr=0, though the run's is {run.lr:g}",
            "Let optimizer= pass on the lr that it is given",
        )
    elif rate_sum(run) == 0:
        yield Cause(
            "The learning rate is zero in every step",
            f"schedule={run.config['schedule']!r} with warmup={run.config['warmup']:g} leaves 0 of the peak rate in "
            f"each of the {len(run)} steps",
            "Take a shorter warm-up, such as warmup=0.1, or more epochs",
        )


def rate_sum(run: Any) -> float:
    "The factors of the learning rate, summed over all steps: how many steps at the peak rate the run amounts to."
    schedule = run._schedule
    chosen = np.unique(np.linspace(0, len(run) - 1, 500).astype(int))
    return float(np.mean([schedule.factor(int(index)) for index in chosen]) * len(run))


def no_gradient(trial: Trial) -> Iterator[Cause]:
    try:
        gradients = trial.gradients()
    except ValueError as error:
        yield Cause("A step cannot be taken", str(error).rstrip("."), "Mend what the message names")
        return
    silent = [name for name, norm in gradients.items() if norm == 0]
    if len(silent) == len(gradients):
        yield Cause(
            "No gradient arrives",
            f"the loss is {trial.before:.3g}, and its gradient is 0 for all {len(gradients)} trained tensors",
            "Let the loss depend on the model's outputs by functions that have a slope: no argmax, round or detach",
        )


# model and loss


def frozen_head(run: Any, trial: Trial) -> Iterator[Cause]:
    modules = dict(run.model.named_modules())
    for path in new_modules(run.model):
        own = list(modules[path].parameters()) if path in modules else []
        if own and not any(p.requires_grad for p in own) and _is_at_chance(run, trial):
            yield Cause(
                "The head is frozen",
                f"{path} has {sum(p.numel() for p in own):,} parameters, none of them trained, and the model guesses: "
                f"its loss is {trial.before:.3g}, that of {_outputs(run)} equal chances {math.log(_outputs(run)):.3g}",
                f"Train it too: model.get_submodule({path!r}).requires_grad_(True)",
            )


def _outputs(run: Any) -> int:
    outputs = getattr(run.model, "num_labels", None)
    return outputs if isinstance(outputs, int) and outputs > 1 else 2


def _is_at_chance(run: Any, trial: Trial) -> bool:
    tasks = list(run.tasks.values())
    return len(tasks) == 1 and isinstance(tasks[0], Classification) and trial.before > 0.8 * math.log(_outputs(run))


def softmax_twice(run: Any, trial: Trial) -> Iterator[Cause]:
    for batch in trial.batches[:1]:
        task = run.tasks.get(batch["task"])  # none of a batch of all tasks
        if not isinstance(task, Classification | MultiLabel):
            continue
        result = trial.evaluated(batch, lambda model, some: forward(model, run.objective, some))
        if result.logits is None:
            continue
        labels, logits = batch["labels"].cpu(), result.logits
        several = isinstance(task, MultiLabel)
        loss = F.binary_cross_entropy_with_logits if several else F.cross_entropy
        once, twice = (
            float(loss(logits, labels)),
            float(loss(logits.sigmoid() if several else logits.softmax(-1), labels)),
        )
        if math.isclose(result.loss, twice, rel_tol=1e-3) and not math.isclose(result.loss, once, rel_tol=1e-3):
            yield Cause(
                f"The loss takes the {'sigmoid' if several else 'softmax'} twice",
                f"it is {result.loss:.4g} where the cross-entropy of the logits is {once:.4g}, and that of their "
                f"probabilities {twice:.4g}",
                "Give the loss the logits, as the model puts them out",
            )


def chance_in_evaluation(run: Any, trial: Trial) -> Iterator[Cause]:
    losses = []
    for seed in (0, 1):
        with run.random_state.swapped_in():
            torch.manual_seed(seed)
            losses.append(trial.loss())
    if not math.isclose(*losses, rel_tol=1e-3):
        active: set[str] = set()
        hooks = [
            module.register_forward_pre_hook(lambda m, _, name=name: active.add(name) if m.training and m.p else None)
            for name, module in run.model.named_modules() if isinstance(module, torch.nn.Dropout)
        ]  # fmt: skip
        try:
            trial.loss()
        finally:
            for hook in hooks:
                hook.remove()
        where = f"; {len(active)} modules drop, the first is {min(active)}" if active else ""
        yield Cause(
            "Dropout is active in evaluation",
            f"the same texts have a loss of {losses[0]:.4g} and of {losses[1]:.4g}{where}",
            "Leave model.train() out of the loss: the run sets the mode of the model, training and evaluation",
        )


def weight_decay(run: Any) -> Iterator[Cause]:
    steps = rate_sum(run)
    for group in run.optimizer.param_groups:
        each = group["initial_lr"] * group.get("weight_decay", 0)
        if each >= 0.01 and each * steps > 1:
            yield Cause(
                "Weight decay shrinks the weights faster than they learn",
                f"it takes {each:.1%} of each weight in a step at the peak rate, over all {len(run)} steps "
                f"{1 - math.exp(-each * steps):.0%}",
                "Take weight_decay=0.01",
            )
            return


def at_the_floor(run: Any, trial: Trial) -> Iterator[Cause]:
    for name, task in run.tasks.items():
        if not isinstance(task, Classification):
            continue
        labels = Column("", task.column or "", run.splits["train"].splits[name]).numbers()
        counts = np.unique(labels[labels >= 0], return_counts=True)[1]
        shares = counts / counts.sum()
        entropy = float(-(shares * np.log(shares)).sum())
        if len(run.tasks) == 1 and trial.before < 0.02 * math.log(_outputs(run)):
            yield Cause(
                "The loss is at its floor already",
                f"it is {trial.before:.3g}, where guessing among {_outputs(run)} classes costs "
                f"{math.log(_outputs(run)):.3g}",
                "There is nothing left to learn from these texts; look at the validation split",
            )
        elif len(counts) > 1 and shares.max() >= 0.97:
            yield Cause(
                "Nearly all labels are the same",
                f"{shares.max():.1%} of the training texts have one class, and whoever always says that has a loss of "
                f"{entropy:.3g} already",
                "Weigh the rare class in the loss, or draw it more often, and look at F1 in place of accuracy",
            )
