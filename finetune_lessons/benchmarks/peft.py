"""LoRA, prefix tuning and prompt tuning here and in the library peft: `finetune-lessons bench peft`."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from finetune_lessons.benchmarks.bars import FULL
from finetune_lessons.benchmarks.measure import BATCH_SIZE, Measurement, in_turns, spread, with_run
from finetune_lessons.lab.training.tokenising import tokenize
from finetune_lessons.lab.data.datasets import load_data
from finetune_lessons.lab.models.loading import load_encoder
from finetune_lessons.lora import add_lora
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

TOKENS = 20
OURS, THEIRS = "here", "peft"


def bench_peft(
    rounds: int = 5,
    steps: int = 16,  # batches that a measurement trains on
) -> None:
    """Train with each method here and in peft, and print examples a second and peak memory.

    Model, data, batches, precision and training loop (`Run`) are the same; only what was added to the model differs.
    """
    tokenizer = load_encoder("minilm")[1]
    data = tokenize(load_data("movies", n_train=steps * BATCH_SIZE), tokenizer)
    measured = in_turns({key: partial(with_run, data, change=change) for key, change in CHANGES.items()}, rounds)
    print(f"minilm, {steps} batches of {BATCH_SIZE} movies; median of {rounds} rounds (lowest to highest)")
    _print_table(measured)


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
