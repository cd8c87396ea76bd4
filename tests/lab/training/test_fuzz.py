"""Whatever is given - settings, texts, labels, files - works or is a clear ValueError, and a failure changes nothing.

2,160 cases: 400 of settings, 120 of texts, 240 of labels, 600 of CSV files, 400 of saved runs, 400 of saved methods.
"""

import csv
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import classification, same_bits, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens, weights
from tokenizers import processors

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lab.data.csv_files import read_csv
from finetune_lessons.lab.training import run_files
from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.schedules import SCHEDULES
from finetune_lessons.lab.training.tokenising import tokenize
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import load_method, save_method, wrappers
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),
]
cases: Counter[str] = Counter()

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.integers(),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from([10**9, 2**63, 10**330, -(10**400)]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def fuzz(examples: int):
    unhurried = settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    return lambda test: unhurried(test)


@contextmanager
def works_or_is_a_value_error(what: str) -> Iterator[None]:
    cases[what] += 1
    try:
        yield
    except ValueError as error:
        assert len(str(error)) > 10


@cache
def pretrained_model(**config):
    return tiny_model("bert", **config)


@contextmanager
def model_unharmed_by_errors(**config) -> Iterator[torch.nn.Module]:
    "The same tiny model each time; if the block raises, it must be as it was before."
    model = pretrained_model(**config)
    before = weights(model)
    try:
        yield model
    except ValueError:
        assert same_bits(weights(model), before)
        assert not wrappers(model) and all(p.requires_grad and p.grad is None for p in model.parameters())
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
        raise
    finally:
        pretrained_model.cache_clear() if wrappers(model) else model.load_state_dict(before)
        model.requires_grad_(True).zero_grad()


def one_step(run: Run) -> None:
    "Takes a step, or fails and leaves the model as it is."
    before, index = weights(run.model), run.index
    with model_step_unharmed(run, before):
        if not run.done:
            next(run)
            assert run.index == index + 1


@contextmanager
def model_step_unharmed(run: Run, before: dict[str, torch.Tensor]) -> Iterator[None]:
    try:
        yield
    except ValueError:
        assert same_bits(weights(run.model), before)
        raise


# settings


PLAUSIBLE = {
    "lr": st.floats(1e-6, 1), "epochs": st.floats(0.1, 3), "batch_size": st.integers(1, 30), "grad_accum":
    st.integers(1, 9), "schedule": st.sampled_from(list(SCHEDULES)), "warmup": st.floats(0, 1),
    "weight_decay": st.floats(0, 1), "max_grad_norm": st.just(math.inf), "seed": st.integers(0, 2**31 - 1),
    "sampling": st.sampled_from(["proportional", "round_robin", "together", 2.0]), "eval_every": st.integers(0, 3),
    "precision": st.sampled_from(["fp32", "bf16", "fp16", "auto"]),
}  # fmt: skip
NUMPY = st.one_of(st.builds(np.float32, st.floats(width=32)), st.builds(np.int64, st.integers(-3, 40)))
ODD = SCALARS | NUMPY | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=1), SCALARS, max_size=1)


@st.composite
def hyperparameters(draw):
    names = draw(st.lists(st.sampled_from([*PLAUSIBLE, "optimizer"]), min_size=1, max_size=3, unique=True))
    return {name: draw(ODD | NUMBERS | PLAUSIBLE[name] if name in PLAUSIBLE else ODD) for name in names}


@fuzz(400)
@given(changes=hyperparameters())
def test_settings(changes):
    with works_or_is_a_value_error("settings"), model_unharmed_by_errors() as model:
        one_step(tiny_run(model, tiny_tokens(16, 4, 0), **changes))


# texts and labels


CHARACTERS = st.characters(categories=["L", "M", "N", "P", "S", "Z", "C"], include_characters="\0\ud800\u202e\ufeff")
HARD_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "\n\t ",
        "word1 " * 20_000,
        "x" * 100_000,
        "👩‍👩‍👧‍👦 🏳️‍🌈",
        "\0\x01\x1b[31m",
        "\ud800",
        "שלום عليكم",
        "[MASK] [PAD] [SEP]",
    ]
)
TEXTS = st.lists(st.text(CHARACTERS, max_size=30) | HARD_TEXTS, min_size=1, max_size=4)


@cache
def tokenizers():
    without_ends = tiny_tokenizer()
    without_ends.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return {"ends": tiny_tokenizer(), "no ends": without_ends}


@fuzz(120)
@given(texts=TEXTS, kind=st.sampled_from(["ends", "no ends"]))
def test_texts(texts, kind):
    with works_or_is_a_value_error("texts"), model_unharmed_by_errors() as model:
        data = DatasetDict(train=Dataset.from_dict({"text": texts, "label": [0] * len(texts)}))
        tokens = tokenize(data, tokenizers()[kind])
        assert tokens["train"]["text"][:] == texts and max(tokens["train"]["length"]) <= 64
        one_step(tiny_run(model, tokens, tokenizer=tokenizers()[kind]))


LABELS = st.sampled_from(
    [st.integers(0, 1), st.integers(-101, 3), st.integers(-(2**63), 2**63), st.booleans(), st.just(-100), st.none(),
     st.floats(), st.floats(0, 1), st.text(max_size=3), st.lists(st.integers(0, 1), max_size=2),
     st.lists(st.floats(), min_size=2, max_size=2), SCALARS]
)  # fmt: skip


@st.composite
def label_columns(draw):
    label = draw(LABELS)
    return draw(st.lists(st.none() | label if draw(st.integers(0, 3)) == 0 else label, min_size=4, max_size=4))


def by_type(model, batch):
    "The loss that a user would take for these labels."
    logits, labels = model(**model_inputs(batch)).logits, batch["labels"]
    if isinstance(labels, list):
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels, dtype=torch.float))
    if labels.is_floating_point() or logits.shape[1] == 1:
        return torch.nn.functional.mse_loss(logits if labels.ndim == 2 else logits[:, 0], labels.float())
    return torch.nn.functional.cross_entropy(logits, labels)


@fuzz(240)
@given(labels=label_columns(), outputs=st.integers(1, 3))
def test_labels(labels, outputs):
    columns = {name: tiny_tokens(16, 4, 0)["train"][name][:4] for name in ("input_ids", "attention_mask")}
    cases["labels"] += 1
    with suppress(pyarrow.ArrowException, OverflowError, TypeError):  # no such column can be
        data = DatasetDict(train=Dataset.from_dict(columns | {"label": labels}))
        fits = not isinstance(labels[0], list) or {len(label or ()) for label in labels} == {outputs}
        if fits:
            check_labels(data, outputs)


def check_labels(data: DatasetDict, outputs: int) -> None:
    try:
        with model_unharmed_by_errors(num_labels=outputs) as model:
            one_step(tiny_run(model, data, loss=by_type))
    except ValueError as error:
        assert len(str(error)) > 10
    except (OverflowError, TypeError) as error:
        raise AssertionError(error) from error


# CSV files


CELLS = st.one_of(
    st.sampled_from(
        ["text", "label", "good", "bad", "1", "1.0", "", " ", '"', '""', '"a\nb"', "\ufeff", "é", "a,b", "\0"]
    ),
    st.text(CHARACTERS.filter(lambda c: not "\ud800" <= c <= "\udfff"), max_size=6),
)
SEPARATORS, ENDS = st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def tables(draw):
    "The bytes of a file that looks like a table, more or less."
    separator, end = draw(SEPARATORS), draw(ENDS)
    header = draw(
        st.sampled_from([["text", "label"], ["label", "text", "x"], ["text", "text", "label"], ["Text", "y"]])
    )
    good = [[f"text {i}", f"class {i % 2}"] for i in range(draw(st.sampled_from([0, 4, 12])))]
    rows = [header, *good, *draw(st.lists(st.lists(CELLS, max_size=4), max_size=4))]
    if draw(st.booleans()):
        rows = draw(st.permutations(rows))
    content = end.join(separator.join(row) for row in rows)
    return content.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])), "replace")


HUGE = st.sampled_from([b"text,label\n" + b"x" * 10**6 + b",a\n", b"text,label\n" + b'"' * 99_999, b"," * 10**5])
CONTENTS = (
    st.binary(max_size=60) | st.builds(bytes.__add__, st.just(b"text,label\n"), st.binary(max_size=60)) | tables()
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz(600)
@given(content=st.one_of(tables(), CONTENTS, HUGE))
def test_csv_files(place, content):
    (place / "a.csv").write_bytes(content)
    limit = csv.field_size_limit()
    with works_or_is_a_value_error("CSV files"):
        data = read_csv(place / "a.csv")
        assert all(len(data[split]) for split in ("train", "validation", "test"))
        assert all(text.strip() for split in data.values() for text in split["text"])
    assert csv.field_size_limit() == limit and (place / "a.csv").read_bytes() == content


# saved files


def changed(value, draw):
    "A JSON value with something in it replaced, left out or added."
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        value = value.copy()
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        if draw(st.integers(0, 4)):
            value[key] = changed(value[key], draw)
        elif isinstance(value, dict) and draw(st.booleans()):
            value[draw(st.sampled_from(["", "model", "loss", "cache", "name", "r", "../x"]))] = draw(JSON)
        else:
            del value[key]
        return value
    return draw(JSON | st.sampled_from(["../x", "/etc/passwd", "\0", [], {}, "adam", -1, 0, 1, 10**6]))


TENSORS = st.builds(
    lambda shape, kind: torch.ones(shape).to(kind),
    st.lists(st.integers(0, 40), max_size=3),
    st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]),
)


def damage_bytes(file: Path, draw) -> None:
    content = bytearray(file.read_bytes())
    beginning = st.integers(0, min(len(content) - 1, draw(st.sampled_from([20, 3000, 10**9]))))
    for at in draw(st.lists(beginning, min_size=1, max_size=4)):
        content[at] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(content))) if draw(st.integers(0, 3)) == 0 else len(content)
    file.write_bytes(content[:cut] + draw(st.binary(max_size=3)))


def damage_tensors(tensors: dict[str, torch.Tensor], draw) -> None:
    for name in draw(st.lists(st.sampled_from([*tensors, "other", "optimizer.x.step"]), min_size=1, max_size=3)):
        if draw(st.booleans()):
            tensors[name] = draw(TENSORS)
        else:
            tensors.pop(name, None)


@pytest.fixture(scope="module")
def saved_run(place) -> Path:
    torch.set_num_threads(1)
    run = tiny_run(data=tiny_tokens(16, 4, 0), precision="fp16", eval_every=1)
    for _ in range(2):
        next(run)
    run.save(place / "run")
    return place / "run"


def rewrite_run(file: Path, draw) -> None:
    "As somebody would who knows how the file is made: all its checksums are right."
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["run"])
    tensors = load_file(file)
    if draw(st.booleans()):
        damage_tensors(tensors, draw)
        header["checksums"] = {name: run_files.checksum(tensor) for name, tensor in tensors.items()}
    else:
        header = changed(header, draw)
    text = json.dumps(header)
    save_file(tensors, file, metadata={"run": text, "checksum": run_files._checksum_of_text(text)})


@fuzz(400)
@given(data=st.data(), rewritten=st.booleans())
def test_saved_runs(place, saved_run, data, rewritten):
    file = Path(shutil.copy(saved_run, place / "copy"))
    (rewrite_run if rewritten else damage_bytes)(file, data.draw)
    content = file.read_bytes()
    with works_or_is_a_value_error("saved runs"), model_unharmed_by_errors() as model:
        run = Run.resume(file, model, tiny_tokenizer(), tiny_tokens(16, 4, 0), loss=classification)
        with suppress(ValueError):
            one_step(run)
    assert file.read_bytes() == content


METHODS = {"lora": add_lora, "adapters": add_adapters, "prefix": add_prefix, "prompt": add_prompt}


@pytest.fixture(scope="module")
def saved_methods(place) -> Path:
    for name, add in METHODS.items():
        save_method(add(tiny_model("bert")), place / "methods" / name)
    return place / "methods"


def rewrite_method(folder: Path, draw) -> None:
    description, weights_file = folder / "method.json", folder / "method.safetensors"
    if draw(st.integers(0, 2)) == 0:
        tensors = load_file(weights_file)
        damage_tensors(tensors, draw)
        save_file(tensors, weights_file)
        return
    described = json.loads(description.read_text())
    if draw(st.booleans()):
        described["arguments"] = changed(described["arguments"], draw)
    else:
        described = changed(described, draw)
    description.write_text(json.dumps(described))


@fuzz(400)
@given(data=st.data(), name=st.sampled_from(list(METHODS)), rewritten=st.integers(0, 3))
def test_saved_methods(place, saved_methods, data, name, rewritten):
    folder = place / "method"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved_methods / name, folder)
    if rewritten:
        rewrite_method(folder, data.draw)
    else:
        damage_bytes(folder / data.draw(st.sampled_from(["method.json", "method.safetensors"])), data.draw)
    content = {file.name: file.read_bytes() for file in folder.iterdir()}
    with works_or_is_a_value_error("saved methods"), model_unharmed_by_errors() as model:
        with torch.no_grad():
            load_method(model, folder).eval()(torch.tensor([[1, 2, 3]]))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == content


def test_all_cases_were_tried():
    if len(cases) == 6:
        assert sum(cases.values()) >= 2000, cases
