"""What all benchmarks share: one training measured, and several of them in turns."""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.reports.memory import PeakMemory
from finetune_lessons.lab.models.loading import load_encoder
from finetune_lessons.lab.training.precision import fastest_precision
from finetune_lessons.lab.training.run import Run

if TYPE_CHECKING:
    import pandas as pd

BATCH_SIZE, LR = 32, 1e-4
K = TypeVar("K")
Change = Callable[[Any], Any]  # of a model, in place; returns it


class Measurement(NamedTuple):
    speed: float  # examples a second of the work itself, without loading and tokenising
    memory: float  # MB, of the work and what it sets up, above what the loaded model took
    model: Any


def with_run(
    data: Any, epochs: int = 1, change: Change = lambda model: model, seed: int = 0, **settings: Any
) -> Measurement:
    "Train with a `Run` and its defaults."
    model, tokenizer = load_encoder("minilm", seed=seed)
    with PeakMemory() as memory:
        model = change(model)
        run = Run(
            model, tokenizer, data, loss=classification_loss, lr=LR, epochs=epochs, batch_size=BATCH_SIZE,
            eval_every=0, seed=seed, **settings,
        )  # fmt: skip
        seconds = timed(lambda: [None for _ in run])
    return Measurement(epochs * len(data["train"]) / seconds, memory.megabytes, model)


def with_trainer(
    data: Any, epochs: int = 1, change: Change = lambda model: model, seed: int = 0, **settings: Any
) -> Measurement:
    "Train with transformers' Trainer and its defaults, but for the batch size, the learning rate and its files."
    model, tokenizer = load_encoder("minilm", seed=seed)
    with PeakMemory() as memory, tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(change(model), tokenizer, data, folder, num_train_epochs=epochs, seed=seed, **settings)
        seconds = timed(trainer.train)
    return Measurement(epochs * len(data["train"]) / seconds, memory.megabytes, model)


def make_trainer(model: Any, tokenizer: Any, data: Any, folder: str, **settings: Any) -> Any:
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    arguments = TrainingArguments(
        folder, per_device_train_batch_size=BATCH_SIZE, per_device_eval_batch_size=BATCH_SIZE, learning_rate=LR,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **settings,
    )  # fmt: skip
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model, arguments, collator, train_dataset=data["train"], eval_dataset=data.get("validation"))
    trainer.remove_callback(PrinterCallback)
    return trainer


def by_round(
    table: "pd.DataFrame",  # of a suite: a row for each round of each contender of each work
    work: str,
    column: str = "speed",
) -> "pd.DataFrame":
    "What was measured in one work: a row a round, a column a contender."
    return table[table["work"] == work].pivot(index="round", columns="by", values=column)


def tuned(
    precision: str | None = None,  # None: the faster one here
) -> dict[str, Any]:
    "The options that make a Trainer fast here: batches by length, a fused optimizer, bf16 where it is faster."
    if precision is None:
        precision = fastest_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu")).precision
    return {"bf16": precision == "bf16", "train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"}


def in_turns(
    contenders: Mapping[K, Callable[[], Measurement]],
    rounds: int,  # each measures all, in an order of its own; one more before them warms up
) -> dict[K, list[Measurement]]:
    found: dict[K, list[Measurement]] = {name: [] for name in contenders}
    rng = random.Random(0)
    for round in range(rounds + 1):
        for name in rng.sample(list(contenders), len(contenders)):
            measured = contenders[name]()
            if round:
                found[name].append(measured._replace(model=None))
    return found


def timed(work: Callable[[], object]) -> float:
    "Seconds."
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def spread(values: list[float], digits: str) -> str:
    low, middle, high = (format(f(values), digits) for f in (min, statistics.median, max))
    return f"{middle} ({low}-{high})"
