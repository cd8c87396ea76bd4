"""What it saves, and costs, not to have all logits of a language model at once: `finetune-lessons bench vocabulary`."""

import statistics
from functools import partial
from pathlib import Path

import torch

from finetune_lessons.benchmarks.measure import Measurement, in_turns, spread, timed
from finetune_lessons.cross_entropy import language_model_loss
from finetune_lessons.lab.models.loading import load_causal_lm
from finetune_lessons.lab.reports.compare import save_results
from finetune_lessons.lab.reports.memory import PeakMemory

RESULTS = "nbs/results/vocabulary.json"
CHUNKS = {"all logits": None, "1,024 at a time": 1024, "256 at a time": 256, "64 at a time": 64}


def bench_vocabulary(
    rounds: int = 3,
    texts: int = 2,
    tokens: int = 512,  # of each text
    path: str | Path = RESULTS,
) -> None:
    "Loss and gradient of a batch for smollm2, all of its weights trained: print speed and peak memory, and write them."
    import pandas as pd

    contenders = {name: partial(_loss_and_gradient, chunk, texts, tokens) for name, chunk in CHUNKS.items()}
    measured = in_turns(contenders, rounds)
    rows = [
        {"by": name, "round": round, "speed": m.speed, "memory_mb": m.memory}
        for name, found in measured.items()
        for round, m in enumerate(found)
    ]
    print(f"smollm2, {texts} texts of {tokens} tokens, loss and gradient; median of {rounds} rounds (lowest-highest)")
    print(f"{'':18} {'tokens/s':>18} {'peak MB':>8}")
    for name, found in measured.items():
        memory = statistics.median(m.memory for m in found)
        print(f"{name:18} {spread([m.speed for m in found], '.0f'):>18} {memory:8.0f}")
    save_results(path, pd.DataFrame(rows), model="smollm2", texts=texts, tokens=tokens, precision="fp32")
    print(f"written: {path}")


def _loss_and_gradient(chunk: int | None, texts: int, tokens: int) -> Measurement:
    model, _ = load_causal_lm("smollm2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ids = torch.randint(10, model.config.vocab_size, (texts, tokens), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
    model.to(device).train()  # type: ignore[arg-type]
    with PeakMemory() as memory:
        seconds = timed(lambda: language_model_loss(model, batch, chunk=chunk).backward())
    return Measurement(texts * tokens / seconds, memory.megabytes, None)
