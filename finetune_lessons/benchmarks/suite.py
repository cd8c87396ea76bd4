"""All that is measured beside other libraries, and how it grows: `finetune-lessons bench all`."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from finetune_lessons.adapters import BottleneckAdapter, add_adapters
from finetune_lessons.benchmarks.bars import FULL, FULL_FP32, TOP, keep
from finetune_lessons.benchmarks.measure import BATCH_SIZE, Measurement, by_round, in_turns, make_trainer, spread
from finetune_lessons.benchmarks.measure import timed, tuned, with_run, with_trainer
from finetune_lessons.benchmarks.peft import CHANGES, OURS, THEIRS
from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.tokenising import tokenize
from finetune_lessons.lab.reports.compare import compare, load_results, save_results
from finetune_lessons.lab.data.datasets import load_data
from finetune_lessons.lab.reports.memory import PeakMemory
from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder
from finetune_lessons.lab.training.precision import fastest_precision
from finetune_lessons.lab.reports.profile import matrix_rate
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import freeze, inject, unfreeze

if TYPE_CHECKING:
    import pandas as pd

RESULTS = "nbs/results/benchmarks.json"
AT_FULL_RATE = "its arithmetic, as fast as a matrix product"
COLD_START = "first step from a cold start"
STEPS, EPOCHS_OF_PROBE = 8, 10  # batches of 32 in one measurement
Contenders = Mapping[str, Callable[[], Measurement]]

COLD = {
    "Run": (
        "from finetune_lessons.lab import Run, load_data, load_encoder\n"
        "from finetune_lessons.cross_entropy import classification_loss\n"
        "next(Run(*load_encoder('minilm'), load_data('movies', n_train=640), loss=classification_loss, batch_size=32))"
    ),
    "Trainer": (
        "from transformers import TrainerCallback\n"
        "from finetune_lessons.lab import load_data, load_encoder, tokenize\n"
        "from finetune_lessons.benchmarks.measure import make_trainer\n"
        "class Stop(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **_): control.should_training_stop = True\n"
        "model, tokenizer = load_encoder('minilm')\n"
        "trainer = make_trainer(model, tokenizer, tokenize(load_data('movies', n_train=640), tokenizer), '{folder}')\n"
        "trainer.add_callback(Stop())\n"
        "trainer.train()"
    ),
}


def bench_all(
    rounds: int = 5,
    path: str | Path = RESULTS,
) -> None:
    "Measure everything, in turns, and write the table that nbs/benchmarks.ipynb shows."
    import pandas as pd

    tokenizer = load_encoder("minilm")[1]
    data = tokenize(load_data("movies", n_train=STEPS * BATCH_SIZE), tokenizer)
    precision = fastest_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu")).precision
    config = {"model": "minilm", "data": "movies", "examples": STEPS * BATCH_SIZE, "batch_size": BATCH_SIZE}
    save_results(path, pd.DataFrame([*_beside(data, rounds), *_growth(rounds)]), **config, precision=precision)
    keep(load_results(path), Path(path).with_name("bars.csv"))
    print(f"written: {path}")


def _beside(data: Any, rounds: int) -> "Iterator[dict[str, Any]]":
    for work, contenders in {**_trainings(data), **_others(data)}.items():
        print(work, flush=True)
        for contender, found in in_turns(contenders, rounds).items():
            for round, m in enumerate(found):
                yield {"work": work, "by": contender, "round": round, "speed": m.speed, "memory_mb": m.memory}


def _trainings(data: Any) -> dict[str, Contenders]:
    run, trainer = partial(with_run, data), partial(with_trainer, data)
    against_peft: dict[str, Contenders] = {
        method: {
            "Run": partial(run, change=CHANGES[method, OURS]),
            "peft, Run": partial(run, change=CHANGES[method, THEIRS]),
            "peft, tuned Trainer": partial(trainer, change=CHANGES[method, THEIRS], **tuned()),
        }
        for method in dict.fromkeys(method for method, library in CHANGES if library == THEIRS)
    }
    return {
        FULL: {"Run": run, "Trainer": trainer, "tuned Trainer": partial(trainer, **tuned()),
               AT_FULL_RATE: partial(_at_full_rate, flop_per_example(data))},
        FULL_FP32: {"Run": partial(run, precision="fp32"), "Trainer": trainer,
                    "tuned Trainer": partial(trainer, **tuned("fp32"))},
        "adapters": {"Run": partial(run, change=add_adapters),
                     "tuned Trainer": partial(trainer, change=add_adapters, **tuned())},
        **against_peft,
        f"probe, {EPOCHS_OF_PROBE} epochs": _with_and_without_cache(data, _probe, EPOCHS_OF_PROBE),
        TOP: _with_and_without_cache(data, _top_adapters, 3),
    }  # fmt: skip


def _with_and_without_cache(data: Any, change: Callable[[Any], Any], epochs: int) -> Contenders:
    kept, part = ActivationCache(), data | {"train": data["train"].select(range(STEPS * BATCH_SIZE // 2))}
    without = partial(with_run, part, epochs, change)
    return {
        "Run, cache": lambda: without(cache=ActivationCache()),
        "Run, cache of an earlier run": lambda: without(cache=kept),
        "Run": without,
        "tuned Trainer": partial(with_trainer, part, epochs, change, **tuned()),
    }


def flop_per_example(data: Any) -> float:
    "Of full fine-tuning: forward and backward, padding included."
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        with_run(data)
    return counter.get_total_flops() / len(data["train"])


def _at_full_rate(flop: float) -> Measurement:
    return Measurement(matrix_rate() / flop, float("nan"), None)


def _probe(model: Any) -> Any:
    return unfreeze(freeze(model), "classifier")


def _top_adapters(model: Any) -> Any:
    return inject(model, BottleneckAdapter, ["layer.4.output.dense", "layer.5.output.dense"])


def _others(data: Any) -> dict[str, Contenders]:
    return {
        "evaluation": {"Run": partial(_evaluate, data), "Trainer": partial(_evaluate_with_trainer, data)},
        "generation, LoRA on smollm2": {"LoRA here": partial(_generate, OURS), "peft": partial(_generate, THEIRS)},
        COLD_START: {name: partial(_cold_start, name) for name in COLD},
    }


def _evaluate(data: Any) -> Measurement:
    model, tokenizer = load_encoder("minilm")
    run = Run(model, tokenizer, data, loss=classification_loss, batch_size=BATCH_SIZE)
    with PeakMemory() as memory:
        seconds = timed(lambda: run.evaluate("validation"))
    return Measurement(len(data["validation"]) / seconds, memory.megabytes, None)


def _evaluate_with_trainer(data: Any) -> Measurement:
    model, tokenizer = load_encoder("minilm")
    with TemporaryDirectory() as folder:
        trainer = make_trainer(model, tokenizer, data, folder)
        with PeakMemory() as memory:
            seconds = timed(trainer.evaluate)
    return Measurement(len(data["validation"]) / seconds, memory.megabytes, None)


def _generate(library: str, new_tokens: int = 16) -> Measurement:
    "Tokens a second, with the cache of keys and values."
    loaded, tokenizer = load_causal_lm("smollm2")
    model: Any = loaded
    tokenizer.padding_side = "left"
    batch = tokenizer(["The best film of the year is", "A recipe for bread:"] * 2, return_tensors="pt", padding=True)
    if library == OURS:
        model = add_lora(model, r=8, lora_alpha=16)
    else:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16))
    settings = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "do_sample": False}
    with PeakMemory() as memory, torch.no_grad():
        seconds = timed(lambda: model.eval().generate(**batch, **settings))
    return Measurement(len(batch["input_ids"]) * new_tokens / seconds, memory.megabytes, None)


def _cold_start(name: str) -> Measurement:
    "Starts a second: the process, all imports, model, data, tokenisation and the first step."
    with TemporaryDirectory() as folder:
        code = COLD[name].replace("{folder}", folder)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return Measurement(1 / (time.perf_counter() - started), float("nan"), None)


def _growth(rounds: int) -> "Iterator[dict[str, Any]]":
    for quantity, (values, measure) in GROWTH.items():
        print(quantity, flush=True)
        for value in values:
            for round in range(max(1, rounds // 2)):
                speed, memory, _ = measure(value)
                yield {"work": quantity, "by": "Run", "at": value, "round": round, "speed": speed, "memory_mb": memory}


def _of_size(texts: int) -> Measurement:
    "Texts a second until the first step, all of them tokenised; and the memory that it took."
    from datasets import DatasetDict, concatenate_datasets

    model, tokenizer = load_encoder("minilm")
    movies = load_data("movies")
    train = concatenate_datasets([movies["train"]] * (texts // len(movies["train"]) + 1)).select(range(texts))
    with PeakMemory() as memory:
        seconds = timed(lambda: next(Run(model, tokenizer, DatasetDict(train=train), loss=classification_loss)))
    return Measurement(texts / seconds, memory.megabytes, None)


def _of_length(tokens: int) -> Measurement:
    from datasets import Dataset, DatasetDict

    tokenizer = load_encoder("minilm")[1]
    row = tokenizer("film " * tokens, truncation=True, max_length=tokens)
    rows = {key: [row[key]] * (4 * BATCH_SIZE) for key in ("input_ids", "attention_mask")}
    return with_run(DatasetDict(train=Dataset.from_dict({**rows, "label": [0, 1] * (2 * BATCH_SIZE)})))


def _of_rank(r: int) -> Measurement:
    tokenizer = load_encoder("minilm")[1]
    data = tokenize(load_data("movies", n_train=4 * BATCH_SIZE), tokenizer)
    return with_run(data, change=lambda model: add_lora(model, r=r, lora_alpha=2 * r))


def _of_runs(runs: int) -> Measurement:
    "Runs a second that `compare` trains and evaluates."
    model, tokenizer = load_encoder("minilm")
    data = tokenize(load_data("movies", n_train=BATCH_SIZE, n_eval=BATCH_SIZE), tokenizer)

    def make_run(seed: int) -> Run:
        model, tokenizer = load_encoder("minilm", seed=seed)
        return Run(model, tokenizer, data, loss=classification_loss, epochs=1, batch_size=BATCH_SIZE, eval_every=0)

    with PeakMemory() as memory:
        seconds = timed(lambda: compare({"full": make_run}, seeds=range(runs)))
    return Measurement(runs / seconds, memory.megabytes, None)


GROWTH: dict[str, tuple[tuple[int, ...], Callable[[int], Measurement]]] = {
    "texts": ((1000, 4000, 16000, 64000), _of_size),
    "tokens a text": ((16, 32, 64, 128, 256), _of_length),
    "rank of LoRA": ((1, 4, 16, 64), _of_rank),
    "runs compared": ((1, 2, 4, 8), _of_runs),
}


def relative(
    table: "pd.DataFrame",  # of `load_results(RESULTS)`
    work: str,
    column: str = "speed",  # or "memory_mb"
) -> "pd.DataFrame":
    "The first contender's numbers divided by each other one's in the same round: one row a round."
    ours, *others = table.loc[table["work"] == work, "by"].unique()
    rounds = by_round(table, work, column)
    return rounds[others].rdiv(rounds[ours], axis=0)


def beside(table: "pd.DataFrame", work: str) -> "pd.DataFrame":
    "One row a contender: median (lowest-highest) of its speed, and of how the first one compares with it."
    import pandas as pd

    rows = table[table["work"] == work].groupby("by", sort=False)
    faster, memory = (relative(table, work, column) for column in ("speed", "memory_mb"))
    columns = {
        "a second": rows["speed"].apply(lambda speed: spread(list(speed), ".1f")),
        "Run is faster by": faster.apply(lambda ratio: spread(list(ratio), ".2f")),
        "peak MB": rows["memory_mb"].median().round(),
        "memory of theirs": memory.median().round(2),
    }
    return pd.DataFrame(columns).loc[list(rows.groups)].fillna("")
