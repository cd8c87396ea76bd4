"""LoRA, prefix tuning and prompt tuning here and in the library peft: `finetune-lessons bench peft`."""

import random
import statistics
from collections.abc import Callable
from typing import Any

from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.batches import tokenize
from finetune_lessons.lab.bench import Measurement, spread, timed
from finetune_lessons.lab.datasets import load_data
from finetune_lessons.lab.memory import PeakMemory
from finetune_lessons.lab.models import load_encoder
from finetune_lessons.lab.run import Run
from finetune_lessons.lora import add_lora
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

BATCH_SIZE, TOKENS = 32, 20
OURS, THEIRS, FULL = "here", "peft", "full fine-tuning"


def bench_peft(
    rounds: int = 5,  # each measures everything once, in an order of its own; one more before them warms up
    steps: int = 16,  # batches that a measurement trains on
) -> None:
    """Train with each method here and in peft, and print examples a second and peak memory.

    Model, data, batches, precision and training loop (`Run`) are the same; only what was added to the model differs.
    """
    tokenizer = load_encoder("minilm")[1]
    data = tokenize(load_data("movies", n_train=steps * BATCH_SIZE), tokenizer)
    measured: dict[tuple[str, str], list[Measurement]] = {key: [] for key in CHANGES}
    rng = random.Random(0)
    for round in range(rounds + 1):
        for key in rng.sample(list(CHANGES), len(CHANGES)):
            measurement = _measure(CHANGES[key], data)
            if round:
                measured[key].append(measurement)
    print(f"minilm, {steps} batches of {BATCH_SIZE} movies; median of {rounds} rounds (lowest to highest)")
    _print_table(measured)


def _measure(change: Callable[[Any], Any], data: Any) -> Measurement:
    model, tokenizer = load_encoder("minilm")
    with PeakMemory() as memory:
        model = change(model)
        run = Run(model, tokenizer, data, loss=classification_loss, epochs=1, batch_size=BATCH_SIZE, eval_every=0)
        seconds = timed(lambda: [None for _ in run])
    return Measurement(len(data["train"]) / seconds, memory.megabytes, None)


def _peft(config: str, **settings: Any) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        import peft

        return peft.get_peft_model(model, getattr(peft, config)(task_type="SEQ_CLS", **settings))

    return change


CHANGES: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("LoRA, rank 8", OURS): lambda model: add_lora(model, r=8, lora_alpha=16),
    ("LoRA, rank 8", THEIRS): _peft("LoraConfig", r=8, lora_alpha=16),
    (f"prefix of {TOKENS}", OURS): lambda model: add_prefix(model, TOKENS),
    (f"prefix of {TOKENS}", THEIRS): _peft("PrefixTuningConfig", num_virtual_tokens=TOKENS),
    (f"prompt of {TOKENS}", OURS): lambda model: add_prompt(model, TOKENS),
    (f"prompt of {TOKENS}", THEIRS): _peft("PromptTuningConfig", num_virtual_tokens=TOKENS),
    (FULL, OURS): lambda model: model,
}


def _print_table(measured: dict[tuple[str, str], list[Measurement]]) -> None:
    print(f"{'':18} {'':5} {'examples/s':>15} {'times full':>11} {'times peft':>17} {'peak MB':>8} {'of peft':>8}")
    full = measured[FULL, OURS]
    for (method, library), found in measured.items():
        speed, memory = [m.speed for m in found], statistics.median(m.memory for m in found)
        line = f"{method:18} {library:5} {spread(speed, '.0f'):>15} {_ratio(found, full):>11}"
        if theirs := measured.get((method, THEIRS)) if library == OURS else None:
            of_theirs = memory / statistics.median(m.memory for m in theirs)
            line += f" {spread([a.speed / b.speed for a, b in zip(found, theirs, strict=True)], '.2f'):>17}"
            print(f"{line} {memory:8.0f} {of_theirs:8.2f}")
        else:
            print(f"{line} {'':17} {memory:8.0f}")


def _ratio(found: list[Measurement], full: list[Measurement]) -> str:
    return f"{statistics.median(a.speed / b.speed for a, b in zip(found, full, strict=True)):.2f}"
