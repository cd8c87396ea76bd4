"""Arguments under a wrong name: which of those that there are is meant."""

import difflib
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

OURS = {  # by the name that transformers' Trainer and its arguments have for it
    "bf16": "precision",
    "compute_loss_func": "loss",
    "data_seed": "seed",
    "eval_dataset": "data",
    "eval_steps": "eval_every",
    "eval_strategy": "eval_every",
    "evaluation_strategy": "eval_every",
    "fp16": "precision",
    "gradient_accumulation_steps": "grad_accum",
    "learning_rate": "lr",
    "load_best_model_at_end": "keep_best",
    "lr_scheduler_type": "schedule",
    "max_steps": "epochs",
    "metric_for_best_model": "keep_best",
    "model_name_or_path": "model",
    "num_train_epochs": "epochs",
    "optim": "optimizer",
    "optimizers": "optimizer",
    "per_device_eval_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "processing_class": "tokenizer",
    "torch_compile": "compile",
    "train_dataset": "data",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
}


def meant(
    name: str,
    known: Iterable[str],
) -> str | None:
    "Which of the known names the unknown one means: by what transformers calls it, else the most alike, if one is."
    known = list(known)
    if OURS.get(name) in known:
        return OURS[name]
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def knows_its_names(function: Callable[P, T]) -> Callable[P, T]:
    "The method, whose TypeError for a name that it does not have says the right one."
    known = list(signature(function).parameters)[1:]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if unknown := [name for name in kwargs if name not in known]:
            raise TypeError(_refusal(function.__qualname__.removesuffix(".__init__"), unknown, known))
        return function(*args, **kwargs)

    return call


def _refusal(called: str, unknown: list[str], known: list[str]) -> str:
    right = {name: meant(name, known) for name in unknown}
    named = ", ".join(f"{name} (write {here})" if here else name for name, here in right.items())
    return f"{called} does not know {named}" + ("" if all(right.values()) else f"; it knows {', '.join(known)}")
