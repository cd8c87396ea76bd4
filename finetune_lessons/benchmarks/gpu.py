"""What a `Run` reaches on a GPU, beside transformers' Trainer and peft: `finetune-lessons bench gpu`."""

import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from finetune_lessons.benchmarks.measure import LR, spread, tuned
from finetune_lessons.cross_entropy import classification_loss, language_model_loss
from finetune_lessons.lab.data.datasets import load_data
from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder
from finetune_lessons.lab.reports.compare import save_results
from finetune_lessons.lab.reports.memory import PeakMemory
from finetune_lessons.lab.reports.profile import matrix_rate
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.tokenising import tokenize
from finetune_lessons.lora import add_lora

RESULTS = "nbs/results/gpu.json"
LONGEST = 512  # tokens of a text
LIMIT = 450.0  # seconds: a round that would end later is not begun
FORMULA = """FLOP a token, forward and backward: 6 N in full fine-tuning, and 4 N + 6 A with LoRA, which needs no
gradient of the frozen matrices and so about two thirds of the products; and 12 L d T for attention, half of that where
it is causal. N: numbers in the matrices, the vocabulary's among them where it makes logits; A: in LoRA's and in a new
head; L: layers; d: width; T: tokens of the text that a token stands in. Tokens are counted without padding, which
lowers the share of a contender that pads much."""


@dataclass(frozen=True)
class Size:
    "How much is trained on."

    texts: dict[str, int]  # by model
    batch: dict[str, int]  # texts in a batch
    budget: dict[str, int]  # tokens in a batch of the contender that has a budget
    warm: int = 3  # steps of a training that are not measured
    rounds: int = 5
    matrix: int = 8192  # rows of the matrices whose product gives the rate


FULL_SIZE = Size({"minilm": 2048, "smollm2": 256}, {"minilm": 32, "smollm2": 8}, {"minilm": 16384, "smollm2": 8192})


@dataclass(frozen=True)
class Work:
    "One model to be trained by one method: what all contenders are given."

    model: str
    method: str
    size: Size
    data: Any
    pretrained: tuple[Any, Any]  # the model, of which each contender trains a copy, and its tokenizer

    @property
    def name(self) -> str:
        return f"{self.model}, {self.method}"

    @property
    def causal(self) -> bool:
        return self.model == "smollm2"

    def changed(self, library: str) -> Any:
        model = copy.deepcopy(self.pretrained[0])
        if self.method == "full":
            return model
        if library == "here":
            return add_lora(model, r=8, lora_alpha=16)
        import peft

        kind = "CAUSAL_LM" if self.causal else "SEQ_CLS"
        return peft.get_peft_model(model, peft.LoraConfig(task_type=kind, r=8, lora_alpha=16))


def bench_gpu(
    path: str | Path = RESULTS,
    size: Size | None = None,  # None: what a GPU needs some minutes for; anything else may run on a CPU too
) -> None:
    "Measure in turns for at most eight minutes, print the tables, and write them with the card's name."
    import pandas as pd

    on_gpu = torch.cuda.is_available()
    if size is None and not on_gpu:
        raise ValueError("bench gpu measures a GPU, and torch sees none here: torch.cuda.is_available() is False")
    started, size = time.perf_counter(), size or FULL_SIZE
    card = torch.cuda.get_device_name() if on_gpu else "no GPU"
    rate = matrix_rate(size.matrix)
    print(f"{card}: {rate / 1e12:.2f} TFLOP/s in a product of {size.matrix} rows and columns\n{FORMULA}\n", flush=True)
    rows = list(_measured(list(_works(size)), size.rounds, started + LIMIT))
    table = pd.DataFrame(rows).assign(share=lambda rows: rows["tokens_s"] * rows["flop"] / rate)
    for work in table["work"].unique():
        print_work(table[table["work"] == work])
    save_results(path, table, card=card, matrix_rate=rate, formula=FORMULA, lr=LR, batch=size.batch, budget=size.budget)
    print(f"{time.perf_counter() - started:.0f} s; written: {path}")


def _works(size: Size) -> Iterator[Work]:
    from datasets import DatasetDict

    for model, (load, texts) in {"minilm": (load_encoder, "movies"), "smollm2": (load_causal_lm, "news")}.items():
        pretrained = load(model)
        train = load_data(texts, n_train=size.texts[model])["train"]
        columns = ["text", "label"] if model == "minilm" else ["text"]
        data = tokenize(DatasetDict(train=train.select_columns(columns)), pretrained[1], LONGEST)
        for method in ("full", "LoRA"):
            yield Work(model, method, size, data, pretrained)


def _measured(works: list[Work], rounds: int, until: float) -> Iterator[dict[str, Any]]:
    """Round by round, each contender once, in an order of its own; none is begun that would end too late. The first one
    warms up, with all the shapes there are: after a few batches only, whoever was measured first came out far too slow.
    """
    longest, rng = 0.0, random.Random(0)
    for round in range(-1, rounds):
        began = time.perf_counter()
        if round > 0 and began + longest > until:
            return
        for work in works:
            contenders = _contenders(work)
            found = {name: contenders[name]() for name in rng.sample(list(contenders), len(contenders))}
            if round >= 0:
                yield from ({"work": work.name, "by": name, "round": round, **found[name]} for name in contenders)
        longest = max(longest, time.perf_counter() - began)


def _contenders(work: Work) -> dict[str, Callable[[], dict[str, float]]]:
    run, trainer = partial(_with_run, work), partial(_with_trainer, work)
    ours = {
        "Run": run,
        "Run, token budget": partial(run, batch_size=4096, max_tokens=work.size.budget[work.model]),
    }
    if work.causal:
        ours["Run, token budget, chunks"] = partial(ours["Run, token budget"], chunk=1024)
    if work.method == "full":
        return {**ours, "Trainer": trainer, "tuned Trainer": partial(trainer, **tuned())}
    return {**ours, "peft, Run": partial(run, library="peft"), "peft, tuned Trainer": partial(trainer, **tuned())}


def _with_run(work: Work, library: str = "here", chunk: int | None = None, **settings: Any) -> dict[str, float]:
    loss = partial(language_model_loss, chunk=chunk) if work.causal else classification_loss
    settings = {"batch_size": work.size.batch[work.model]} | settings
    with PeakMemory() as memory:
        model = work.changed(library)
        epochs = 4 if "max_tokens" in settings else 1  # so that few large steps leave some to measure
        run = Run(model, work.pretrained[1], work.data, loss=loss, lr=LR, epochs=epochs, eval_every=0, **settings)
        for _ in range(work.size.warm):
            next(run)
        started = _now()
        tokens = sum(step.tokens for step in run)
        seconds = _now() - started
    return _row(work, model, tokens / seconds, memory)


def _with_trainer(work: Work, **settings: Any) -> dict[str, float]:
    from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback, TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == work.size.warm:
                self.started = _now()

    tokenizer = work.pretrained[1]
    plain = DataCollatorForLanguageModeling(tokenizer, mlm=False) if work.causal else DataCollatorWithPadding(tokenizer)
    counts: list[int] = []

    def collate(rows: list[Any]) -> Any:
        batch = plain(rows)
        counts.append(int(batch["attention_mask"].sum()))
        return batch

    with PeakMemory() as memory, tempfile.TemporaryDirectory() as folder:
        model, clock = work.changed("peft"), Clock()
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=work.size.batch[work.model], learning_rate=LR, num_train_epochs=1,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **settings,
        )  # fmt: skip
        trainer = Trainer(model, arguments, collate, train_dataset=work.data["train"], callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        seconds = _now() - clock.started
    return _row(work, model, sum(counts[work.size.warm :]) / seconds, memory)


def _row(work: Work, model: Any, tokens_s: float, memory: PeakMemory) -> dict[str, float]:
    return {"tokens_s": tokens_s, "flop": flop_per_token(model, work), "memory_mb": memory.megabytes}


def flop_per_token(model: Any, work: Work) -> float:
    "By the formula that is printed."
    config = model.config
    head = model.get_output_embeddings() if work.causal else None
    inputs = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    matrices = {id(p): p for p in model.parameters() if p.ndim == 2 and id(p) not in inputs}
    if head is not None:
        matrices[id(head.weight)] = head.weight
    trained = sum(p.numel() for p in matrices.values() if p.requires_grad)
    frozen = sum(p.numel() for p in matrices.values() if not p.requires_grad)
    lengths = [len(ids) for ids in work.data["train"]["input_ids"]]
    seen = sum(n * n for n in lengths) / sum(lengths) / (2 if work.causal else 1)
    return 6 * trained + 4 * frozen + 12 * config.num_hidden_layers * config.hidden_size * seen


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def print_work(rows: Any) -> None:
    "One line a contender: median (lowest-highest) over rounds, and `Run` against each in the same round."
    heads = f"{'tokens/s':>25} {'share of the rate':>22} {'Run is faster by':>19} {'peak MB':>8}"
    print(f"{rows['work'].iloc[0]:32} {heads}")
    speed = rows.pivot(index="round", columns="by", values="tokens_s")
    for name, of in rows.groupby("by", sort=False):
        ratio = "" if name == "Run" else spread(list(speed["Run"] / speed[name]), ".2f")
        share = spread([100 * x for x in of["share"]], ".1f") + " %"
        print(
            f"  {name:30} {spread(list(of['tokens_s']), ',.0f'):>25} {share:>22} {ratio:>19} "
            f"{statistics.median(of['memory_mb']):8.0f}"
        )
    print(flush=True)
