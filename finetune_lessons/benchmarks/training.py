"""A `Run` beside other training loops: `finetune-lessons bench training`."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from finetune_lessons.benchmarks.measure import BATCH_SIZE, LR, Measurement
from finetune_lessons.benchmarks.measure import in_turns, spread, timed, tuned, with_run, with_trainer
from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.training.tokenising import tokenize
from finetune_lessons.lab.data.datasets import load_data
from finetune_lessons.lab.reports.memory import PeakMemory
from finetune_lessons.lab.models.loading import load_encoder
from finetune_lessons.lab.training import processor
from finetune_lessons.lab.training.run import Run

EXAMPLES = 2000


def bench_training(
    rounds: int = 5,
    steps: int | None = 30,  # batches that a measurement trains on; None: all of an epoch
    epochs: int = 2,  # of the trainings on all examples whose test accuracy is shown
    seeds: int = 5,  # of them
) -> None:
    "Measure a `Run` with its defaults beside the plain loop and transformers' Trainer, and print the table."
    used = EXAMPLES if steps is None else min(EXAMPLES, steps * BATCH_SIZE)
    print(f"minilm on {EXAMPLES} movies, batches of {BATCH_SIZE}. Speed: median of {rounds} rounds of {used} examples")
    print(f"(lowest to highest), and round by round against Run. Accuracy: on the test split after {epochs} epochs,")
    print(f"median of {seeds} seeds (lowest to highest). On {processor.name()}.")
    tokenizer = load_encoder("minilm")[1]
    data = tokenize(load_data("movies", n_train=EXAMPLES), tokenizer)
    part = data | {"train": data["train"].select(range(used))}
    measured = in_turns({name: partial(train, part, 1) for name, train in TRAININGS.items()}, rounds)
    accuracy = {
        name: [_test_accuracy(train(data, epochs, seed=seed).model, tokenizer, data) for seed in range(seeds)]
        for name, train in TRAININGS.items()
    }
    _print_table(measured, accuracy)


def _plain_loop(data: Any, epochs: int, seed: int = 0) -> Measurement:
    "What a newcomer writes: fp32, shuffled batches, padding to the longest of the batch."
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding, get_linear_schedule_with_warmup

    model, tokenizer = load_encoder("minilm", seed=seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def train() -> None:
        for _ in range(epochs):
            for batch in loader:
                batch = batch.to(device)
                loss = model(**batch).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    with PeakMemory() as memory:
        torch.manual_seed(seed)
        rows = data["train"].select_columns(["input_ids", "attention_mask", "label"])
        loader = DataLoader(rows, batch_size=BATCH_SIZE, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
        model.to(device).train()  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
        total = epochs * len(loader)
        schedule = get_linear_schedule_with_warmup(optimizer, round(0.1 * total), total)
        seconds = timed(train)
    return Measurement(epochs * len(rows) / seconds, memory.megabytes, model)


TRAININGS: dict[str, Callable[..., Measurement]] = {
    "Run": with_run,
    "plain fp32 loop": _plain_loop,
    "Trainer": with_trainer,
    "Trainer, tuned": lambda data, epochs, seed=0: with_trainer(data, epochs, seed=seed, **tuned()),
}


def _test_accuracy(model: Any, tokenizer: Any, data: Any) -> float:
    return Run(model, tokenizer, data, loss=classification_loss).evaluate("test")["accuracy"]


def _print_table(measured: dict[str, list[Measurement]], accuracy: dict[str, list[float]]) -> None:
    first = next(iter(measured.values()))
    print(f"{'':32} {'examples/s':>17} {'Run is faster by':>19} {'peak MB':>8} {'accuracy':>24}")
    for name, found in measured.items():
        speed = spread([m.speed for m in found], ".0f")
        ratio = spread([run.speed / m.speed for run, m in zip(first, found, strict=True)], ".2f")
        memory = statistics.median(m.memory for m in found)
        print(f"{name:32} {speed:>17} {ratio:>19} {memory:8.0f} {spread(accuracy[name], '.4f'):>24}")
