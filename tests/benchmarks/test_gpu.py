"""The benchmarks of a GPU and of large vocabularies: all contenders work, on a CPU and tiny models too."""

import pytest
import tiny
import torch
from datasets import Dataset, DatasetDict

from finetune_lessons.benchmarks import gpu, vocabulary
from finetune_lessons.lab import cli
from finetune_lessons.lab.reports.compare import load_results

SMALL = gpu.Size(
    texts={"minilm": 24, "smollm2": 12}, batch={"minilm": 8, "smollm2": 4}, budget={"minilm": 128, "smollm2": 64},
    warm=1, rounds=1, matrix=64,
)  # fmt: skip
ours, theirs = ["Run", "Run, token budget"], ["peft, Run", "peft, tuned Trainer"]
CONTENDERS = {
    "minilm, full": [*ours, "Trainer", "tuned Trainer"], "minilm, LoRA": [*ours, *theirs],
    "smollm2, full": [*ours, "Run, token budget, chunks", "Trainer", "tuned Trainer"],
    "smollm2, LoRA": [*ours, "Run, token budget, chunks", *theirs],
}  # fmt: skip


def encoder(name):
    return tiny.tiny_model("bert"), tiny.tiny_tokenizer()


def decoder(name):
    return tiny.tiny_model("llama", "causal_lm"), tiny.tiny_tokenizer()


@pytest.fixture
def tiny_models(monkeypatch):
    monkeypatch.setattr(gpu, "load_encoder", encoder)
    monkeypatch.setattr(gpu, "load_causal_lm", decoder)
    monkeypatch.setattr(gpu, "load_data", lambda name, n_train: tiny.tiny_data(n_train))
    monkeypatch.setattr(vocabulary, "load_causal_lm", decoder)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_every_contender_is_measured_in_every_round(tiny_models, tmp_path, capsys):
    gpu.bench_gpu(tmp_path / "gpu.json", SMALL)
    table, printed = load_results(tmp_path / "gpu.json"), capsys.readouterr().out
    for work, names in CONTENDERS.items():
        rows = table[table["work"] == work]
        assert list(rows["by"].unique()) == names and (rows.groupby("by")["round"].nunique() == 1).all()
    assert len(table) == sum(map(len, CONTENDERS.values()))
    assert (table[["tokens_s", "share", "flop"]] > 0).all(axis=None)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    assert table.attrs["config"]["card"] == card and "two thirds of the products" in printed
    flop = table.groupby("work")["flop"].first()
    for model in ("minilm", "smollm2"):
        assert 0.6 < flop[f"{model}, LoRA"] / flop[f"{model}, full"] < 0.9


def test_no_round_is_begun_that_would_end_too_late(tiny_models, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "_contenders", lambda work: {"Run": lambda: {"tokens_s": 1.0}})
    works = list(gpu._works(SMALL))
    assert len(list(gpu._measured(works, 3, float("inf")))) == 3 * len(works)
    assert len(list(gpu._measured(works, 3, 0.0))) == len(works)  # one round in any case


@pytest.mark.parametrize("method", ["full", "LoRA"])
def test_the_arithmetic_is_what_torch_counts(method, tiny_models):
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.randint(7, 90, (8, 24), generator=torch.Generator().manual_seed(0))
    data = DatasetDict(train=Dataset.from_dict({"input_ids": ids.tolist()}))
    work = gpu.Work("smollm2", method, SMALL, data, decoder("smollm2"))
    model = work.changed("here")
    model.set_attn_implementation("eager")  # computes what is masked too
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    masked = 12 * 2 * 32 * 24 / 2  # the half of attention that the formula leaves out
    assert counter.get_total_flops() / ids.numel() == pytest.approx(gpu.flop_per_token(model, work) + masked, rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_one_sentence_says_so(capsys):
    assert cli.main(["bench", "gpu"]) == 1
    assert "bench gpu measures a GPU, and torch sees none here" in capsys.readouterr().err


def test_chunks_are_measured_beside_all_logits(tiny_models, tmp_path, capsys):
    vocabulary.bench_vocabulary(rounds=1, texts=2, tokens=16, path=tmp_path / "vocabulary.json")
    table = load_results(tmp_path / "vocabulary.json")
    assert list(table["by"]) == list(vocabulary.CHUNKS) and (table["speed"] > 0).all()
    assert "256 at a time" in capsys.readouterr().out
