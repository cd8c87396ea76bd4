"""A `Run` beside other training loops: `finetune-lessons bench training`."""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from finetune_lessons.lab.batches import model_inputs, tokenize
from finetune_lessons.lab.datasets import load_data
from finetune_lessons.lab.memory import PeakMemory
from finetune_lessons.lab.models import load_encoder
from finetune_lessons.lab.run import Run

EXAMPLES, BATCH_SIZE, LR = 2000, 32, 1e-4


class Measurement(NamedTuple):
    speed: float  # examples a second of the training itself, without loading, tokenising and evaluating
    memory: float  # MB, of the training and what it sets up, above what the loaded model took
    model: Any


def bench_training(
    rounds: int = 5,  # each measures all four, in an order of its own; one more before them warms up
    steps: int | None = 30,  # batches that a measurement trains on; None: all of an epoch
    epochs: int = 2,  # of the one training, on all examples, whose test accuracy is shown
) -> None:
    "Measure a `Run` with its defaults beside the plain loop and transformers' Trainer, and print the table."
    used = EXAMPLES if steps is None else min(EXAMPLES, steps * BATCH_SIZE)
    print(f"minilm on {EXAMPLES} movies, batches of {BATCH_SIZE}. Speed: median of {rounds} rounds of {used} examples")
    print(f"(lowest to highest), and round by round against Run. Accuracy: on the test split after {epochs} epochs.")
    tokenizer = load_encoder("minilm")[1]
    data = tokenize(load_data("movies", n_train=EXAMPLES), tokenizer)
    part = data | {"train": data["train"].select(range(used))}

    measured: dict[str, list[Measurement]] = {name: [] for name in TRAININGS}
    rng = random.Random(0)
    for round in range(rounds + 1):
        for name in rng.sample(list(TRAININGS), len(TRAININGS)):
            measurement = TRAININGS[name](part, 1)
            if round:
                measured[name].append(measurement._replace(model=None))
    accuracy = {name: _test_accuracy(train(data, epochs).model, tokenizer, data) for name, train in TRAININGS.items()}
    _print_table(measured, accuracy)


def _run(data: Any, epochs: int) -> Measurement:
    model, tokenizer = load_encoder("minilm")
    with PeakMemory() as memory:
        run = Run(model, tokenizer, data, loss=_loss, lr=LR, epochs=epochs, batch_size=BATCH_SIZE, eval_every=0)
        seconds = timed(lambda: [None for _ in run])
    return Measurement(epochs * len(data["train"]) / seconds, memory.megabytes, model)


def _plain_loop(data: Any, epochs: int) -> Measurement:
    "What a newcomer writes: fp32, shuffled batches, padding to the longest of the batch."
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding, get_linear_schedule_with_warmup

    model, tokenizer = load_encoder("minilm")
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
        torch.manual_seed(0)
        rows = data["train"].select_columns(["input_ids", "attention_mask", "label"])
        loader = DataLoader(rows, batch_size=BATCH_SIZE, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
        model.to(device).train()  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
        total = epochs * len(loader)
        schedule = get_linear_schedule_with_warmup(optimizer, round(0.1 * total), total)
        seconds = timed(train)
    return Measurement(epochs * len(rows) / seconds, memory.megabytes, model)


def _trainer(data: Any, epochs: int, **settings: Any) -> Measurement:
    "transformers' Trainer with its defaults, but for the batch size, the learning rate and its files."
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    model, tokenizer = load_encoder("minilm")
    with PeakMemory() as memory, tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH_SIZE, num_train_epochs=epochs, learning_rate=LR,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **settings,
        )  # fmt: skip
        trainer = Trainer(model, arguments, DataCollatorWithPadding(tokenizer), train_dataset=data["train"])
        trainer.remove_callback(PrinterCallback)
        seconds = timed(trainer.train)
    return Measurement(epochs * len(data["train"]) / seconds, memory.megabytes, model)


def _tuned_trainer(data: Any, epochs: int) -> Measurement:
    return _trainer(data, epochs, bf16=True, train_sampling_strategy="group_by_length", optim="adamw_torch_fused")


TRAININGS: dict[str, Callable[[Any, int], Measurement]] = {
    "Run": _run,
    "plain fp32 loop": _plain_loop,
    "Trainer": _trainer,
    "Trainer, bf16, by length, fused": _tuned_trainer,
}


def _loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    return cross_entropy(model(**model_inputs(batch)).logits, batch["labels"])


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _test_accuracy(model: Any, tokenizer: Any, data: Any) -> float:
    return Run(model, tokenizer, data, loss=_loss).evaluate("test")["accuracy"]


def _print_table(measured: dict[str, list[Measurement]], accuracy: dict[str, float]) -> None:
    first = next(iter(measured.values()))
    print(f"{'':32} {'examples/s':>17} {'Run is faster by':>19} {'peak MB':>8} {'accuracy':>9}")
    for name, found in measured.items():
        speed = spread([m.speed for m in found], ".0f")
        ratio = spread([run.speed / m.speed for run, m in zip(first, found, strict=True)], ".2f")
        memory = statistics.median(m.memory for m in found)
        print(f"{name:32} {speed:>17} {ratio:>19} {memory:8.0f} {accuracy[name]:9.3f}")


def spread(values: list[float], digits: str) -> str:
    low, middle, high = (format(f(values), digits) for f in (min, statistics.median, max))
    return f"{middle} ({low}-{high})"
