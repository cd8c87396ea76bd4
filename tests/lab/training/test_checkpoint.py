"""A saved run goes on to the same bits, in any process, or says why it cannot; a file is whole or as it was."""

import json
import math
import os
import random
import signal
import stat
import subprocess
import sys
import warnings
from dataclasses import astuple
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import classification, same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens, weights

from finetune_lessons.lab.training import run_files
from finetune_lessons.lab.training.precision import Choice
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lora import add_lora

pytestmark = pytest.mark.usefixtures("one_thread")


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


KINDS = list(product(("bert", "gpt2"), ("fp32", "bf16", "fp16"), (None, sgd)))


def make_run(kind, **changes) -> Run:
    arch, precision, optimizer = kind
    settings = {"precision": precision, "optimizer": optimizer, "eval_every": 3, "seed": 5} | changes
    return tiny_run(tiny_model(arch), tiny_tokens(24, 8), **settings)


def resume(path, kind=KINDS[0], **changes) -> Run:
    arch, _, optimizer = kind
    arguments = {"model": tiny_model(arch), "data": tiny_tokens(24, 8), "optimizer": optimizer} | changes
    tokenizer = tiny_tokenizer()
    return Run.resume(
        path, arguments["model"], tokenizer, arguments["data"], loss=classification, optimizer=arguments["optimizer"]
    )


def finished(run: Run) -> Run:
    for _ in run:
        pass
    return run


def bits(run: Run) -> dict[str, torch.Tensor]:
    "All that a run is, as tensors: model, optimizer, random state and history."
    found = {f"model.{name}": tensor for name, tensor in weights(run.model).items()}
    for number, entries in run.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{k}": v for k, v in entries.items() if isinstance(v, torch.Tensor)}
    found["random"] = run.random_state.state["torch"]
    without_seconds = [(*fields[:7], *fields[8:]) for fields in map(astuple, run.steps)]
    written = json.dumps([without_seconds, run.scaler.state_dict(), run.lr])
    return found | {"history": torch.tensor(list(written.encode()))}


def in_new_process(code: str, **named) -> subprocess.Popen:
    start = "import torch; torch.set_num_threads(1)\nfrom test_checkpoint import *\n"
    return subprocess.Popen([sys.executable, "-c", start + code], cwd=Path(__file__).parent, text=True, **named)


# the same bits


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join((*kind[:2], "sgd" if kind[2] else "adamw")))
def test_resumed_at_any_step_a_run_goes_on_to_the_same_bits(kind, tmp_path):
    whole = make_run(kind)
    for index in range(len(whole) + 1):
        whole.save(tmp_path / f"{index}.safetensors")
        if not whole.done:
            next(whole)
    for index in (0, 1, 3, 4, 6):
        run = resume(tmp_path / f"{index}.safetensors", kind)
        assert run.index == index
        torch.rand(3), np.random.rand(), random.random()
        assert same_bits(bits(finished(run)), bits(whole))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, 6), min_size=1, max_size=3), accum=st.integers(1, 3), seed=st.integers(0, 9))
def test_resumed_again_and_again_a_run_goes_on_to_the_same_bits(tmp_path, stops, accum, seed):
    changes = {"grad_accum": accum, "batch_size": 4, "seed": seed}
    whole = finished(make_run(KINDS[0], **changes))
    run = make_run(KINDS[0], **changes)
    for stop in sorted(stops):
        while run.index < stop and not run.done:
            next(run)
        run.save(tmp_path / "run.safetensors")
        run = resume(tmp_path / "run.safetensors")
    assert same_bits(bits(finished(run)), bits(whole))


def test_killed_and_resumed_in_new_processes_runs_go_on_to_the_same_bits(tmp_path):
    saving = (
        "for number, kind in enumerate(KINDS):\n"
        "    run = make_run(kind, epochs=4)\n"
        "    for step in run:\n"
        f"        if step.index % 4 == 3: run.save(Path({str(tmp_path)!r}) / f'{{number}}.run')\n"
        "        print(number, step.index, flush=True)\n"
        "        if kind != KINDS[-1] and step.index == 5: break\n"
    )
    child = in_new_process(saving, stdout=subprocess.PIPE)
    for line in child.stdout:
        if line == f"{len(KINDS) - 1} 9\n":
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL
    resuming = (
        "for number, kind in enumerate(KINDS):\n"
        f"    path = Path({str(tmp_path)!r}) / f'{{number}}.run'\n"
        "    run = resume(path, kind)\n"
        "    print(run.index)\n"
        "    save_file(bits(finished(run)), path.with_suffix('.bits'))\n"
    )
    resumed_at = in_new_process(resuming, stdout=subprocess.PIPE).communicate(timeout=120)[0].split()
    assert resumed_at[:-1] == ["4"] * (len(KINDS) - 1) and resumed_at[-1] in ("8", "12")
    for number, kind in enumerate(KINDS):
        assert same_bits(load_file(tmp_path / f"{number}.bits"), bits(finished(make_run(kind, epochs=4))))


def test_what_was_changed_on_the_way_is_kept(tmp_path):
    def changed(run):
        for step in run:
            if step.index == 1:
                run.lr /= 3
                run.model.bert.encoder.requires_grad_(True)
                run.save(tmp_path / "run")
        return run

    frozen = tiny_model("bert")
    frozen.bert.requires_grad_(False)
    other = tiny_model("bert")
    other.bert.requires_grad_(False)
    whole = changed(tiny_run(frozen, tiny_data(24, 8)))
    run = resume(tmp_path / "run", model=other)
    assert run.lr == 1e-3
    assert same_bits(bits(finished(run)), bits(whole))
    assert not any(p.requires_grad for p in other.bert.embeddings.parameters())


def test_what_auto_was_is_what_it_stays(tmp_path, monkeypatch):
    chosen = [Choice("bf16", ""), Choice("fp32", "")]  # as a measurement may find in two processes
    monkeypatch.setattr("finetune_lessons.lab.training.precision.fastest_precision", lambda *_: chosen.pop(0))
    run = make_run(KINDS[0], precision="auto")
    next(run)
    run.save(tmp_path / "run")
    again = resume(tmp_path / "run")
    assert again.precision == run.precision == "bf16" and again.config == run.config
    assert same_bits(bits(finished(again)), bits(finished(run)))


@pytest.mark.parametrize(("changed", "said"), [
    ({"lora_alpha": 32}, "it differs in lora_alpha of the method lora"),
    ({"r": 4}, "it differs in r of the method lora"),
    ({"lora_dropout": 0.5}, "it differs in lora_dropout of the method lora"),
])  # fmt: skip
def test_a_method_with_other_arguments_is_refused(changed, said, tmp_path):
    run = tiny_run(add_lora(tiny_model("bert"), r=2), tiny_data(24, 8))
    next(run)
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match=said):
        resume(tmp_path / "run", model=add_lora(tiny_model("bert"), **({"r": 2} | changed)))
    assert resume(tmp_path / "run", model=add_lora(tiny_model("bert"), r=2, seed=7)).index == 1


def test_saving_changes_nothing(tmp_path):
    run = make_run(KINDS[0])
    for _ in run:
        run.save(tmp_path / "run")
    assert same_bits(bits(run), bits(finished(make_run(KINDS[0]))))


def test_infinite_numbers_are_kept(tmp_path):
    run = make_run(KINDS[0], precision="fp16", max_grad_norm=float("inf"))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    next(run)
    run.save(tmp_path / "run")
    again = resume(tmp_path / "run")
    assert not math.isfinite(again.steps[0].grad_norm)
    assert again.config == run.config and again.scaler.get_scale() == 2.0**59


# the file


def test_the_file_is_safetensors_with_what_was_trained_and_nothing_else(tmp_path):
    model = tiny_model("bert")
    model.bert.requires_grad_(False)
    run = tiny_run(model)
    next(run)
    run.save(tmp_path / "run.safetensors")
    names = set(load_file(tmp_path / "run.safetensors"))
    assert {name for name in names if not name.startswith("optimizer.")} == {f"model.{name}" for name in run.trained}
    assert run.trained == {"classifier.weight", "classifier.bias"}
    assert (tmp_path / "run.safetensors").stat().st_size < 100_000
    assert os.listdir(tmp_path) == ["run.safetensors"]


@pytest.mark.parametrize("fail", ["save_file", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(fail, tmp_path, monkeypatch):
    def disk_full(*arguments, **_):
        if fail == "save_file":
            Path(arguments[1]).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    run = make_run(KINDS[0])
    run.save(tmp_path / "run")
    old = (tmp_path / "run").read_bytes()
    next(run)
    place = {"save_file": run_files, "fsync": os, "replace": Path}[fail]
    with monkeypatch.context() as patched:
        patched.setattr(place, fail, disk_full)
        with pytest.raises(OSError, match="No space left"):
            run.save(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"] and (tmp_path / "run").read_bytes() == old
    run.save(tmp_path / "run")
    assert resume(tmp_path / "run").index == 1


def test_what_a_killed_save_left_is_overwritten(tmp_path):
    run = make_run(KINDS[0])
    left = tmp_path / ".run.partial"
    left.mkdir()
    (left / "run").write_bytes(b"half a file")
    run.save(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"] and resume(tmp_path / "run").index == 0


def test_the_file_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(tmp_path, monkeypatch):
    done, replace = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("folder" if stat.S_ISDIR(os.fstat(file)[0]) else "file"))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("name") or replace(*paths))
    make_run(KINDS[0]).save(tmp_path / "run")
    assert done == ["file", "name", "folder"]


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    def only_files(file):
        if stat.S_ISDIR(os.fstat(file)[0]):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", only_files)
    make_run(KINDS[0]).save(tmp_path / "run")
    assert resume(tmp_path / "run").index == 0


# damage


def rewritten(path: Path, change) -> Path:
    "The saved run with its header and tensors passed through `change`, and a new checksum for the header."
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["run"])
    tensors = load_file(path)
    change(header, tensors)
    text = json.dumps(header)
    save_file(tensors, path, metadata={"run": text, "checksum": run_files._checksum_of_text(text)})
    return path


def with_a_short_momentum(header, tensors):
    tensors["optimizer.0.exp_avg"] = torch.zeros(3)
    header["checksums"]["optimizer.0.exp_avg"] = run_files.checksum(torch.zeros(3))


def with_other_types(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'"F32"') > 9
    path.write_bytes(content.replace(b'"F32"', b'"I32"'))


def flip_a_bit(path: Path, at: int = -1000) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def flip_a_digit_of_the_header(path: Path) -> None:
    flip_a_bit(path, path.read_bytes().index(b'"lr\\": 0.00') + len(b'"lr\\": 0.00'))


# the newest whole one of a folder


@pytest.fixture
def folder(tmp_path):
    "With runs of 1, 2 and 3 steps, whose names and times say nothing of it."
    run = make_run(KINDS[0])
    for name in ("run9", "run1", "run5"):
        next(run)
        run.save(tmp_path / name)
        os.utime(tmp_path / name, (100 - run.index, 100 - run.index))
    return tmp_path


def newest_without_warning(folder: Path) -> tuple[str, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path, header = run_files.newest_whole(folder)
    return path.name, header["index"]


def test_the_newest_run_of_a_folder_is_the_one_of_most_steps(folder):
    assert newest_without_warning(folder) == ("run5", 3)


def test_of_as_many_steps_the_newest_is_what_was_written_last(folder):
    for name in ("a", "z"):
        (folder / name).write_bytes((folder / "run5").read_bytes())
        os.utime(folder / name, (ord(name), ord(name)))
    assert newest_without_warning(folder) == ("z", 3)


def test_what_a_killed_save_left_is_no_run(folder):
    (folder / ".run9.partial").mkdir()
    (folder / ".run9.partial" / "run9").write_bytes(b"half a file")
    (folder / ".hidden").write_bytes(b"half a file")
    assert newest_without_warning(folder) == ("run5", 3)


@pytest.mark.parametrize("damage", [
    flip_a_bit,
    flip_a_digit_of_the_header,
    with_other_types,
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(b""),
], ids=["a bit", "a digit", "other types", "cut", "empty"])  # fmt: skip
def test_a_damaged_newest_run_is_passed_over_with_a_warning(damage, folder):
    damage(folder / "run5")
    with pytest.warns(UserWarning, match="damaged.*: run5$"):
        path, header = run_files.newest_whole(folder)
    assert (path.name, header["index"]) == ("run1", 2)


def test_where_no_run_is_whole_the_error_names_them(folder):
    for path in folder.iterdir():
        flip_a_bit(path)
    with pytest.raises(ValueError, match="no whole saved run in .*; damaged: run5, run1, run9$"):
        run_files.newest_whole(folder)


def test_an_empty_folder_has_no_run(tmp_path):
    with pytest.raises(ValueError, match="no whole saved run in [^;]*$"):
        run_files.newest_whole(tmp_path)


def test_a_file_is_its_own_newest_or_an_error(folder):
    assert newest_without_warning(folder / "run9") == ("run9", 1)
    (folder / "run9").write_bytes(b"")
    for path in (folder / "run9", folder / "run7"):
        with pytest.raises(ValueError, match=str(path)):
            run_files.newest_whole(path)


# what cannot be resumed


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.set_num_threads(1)
    run = make_run(KINDS[0])
    for _ in range(4):
        next(run)
    path = tmp_path_factory.mktemp("saved") / "run"
    run.save(path)
    return path


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"not a saved run"),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes()[:100]),
    flip_a_bit,
    lambda path: save_file({"a": torch.zeros(1)}, path),
    lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"run": "{"}),
    lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"run": "[]"}),
    lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"run": "{}"}),
    lambda path: rewritten(path, lambda header, tensors: header.update(format=99)),
    lambda path: rewritten(path, lambda header, tensors: tensors.popitem()),
    lambda path: rewritten(path, with_a_short_momentum),
    lambda path: rewritten(path, lambda header, tensors: header["config"].pop("batch_size")),
    lambda path: rewritten(path, lambda header, tensors: header["config"].update(grad_accum="2")),
    with_other_types,
    flip_a_digit_of_the_header,
    lambda path: (path.unlink(), path.mkdir()),
    lambda path: path.unlink(),
], ids=["empty", "text", "cut by a byte", "cut", "a bit", "no run", "no JSON", "a list", "nothing", "format",
        "lacks a tensor", "short momentum", "no batch size", "accumulation in words",
        "other types", "a digit", "folder", "missing"])  # fmt: skip
def test_a_damaged_file_is_refused_and_changes_nothing(damage, saved, tmp_path):
    path = tmp_path / "run"
    path.write_bytes(saved.read_bytes())
    damage(path)
    model = tiny_model("bert")
    before = weights(model)
    with pytest.raises(ValueError, match=str(path)):
        resume(path, model=model)
    assert same_bits(weights(model), before)


def other_data():
    data = tiny_data(24, 8)
    return data | {"train": data["train"].map(lambda row: {"label": 1 - row["label"]})}


def other_words():
    data = tiny_data(24, 8)
    return data | {"train": data["train"].map(lambda row: {"text": row["text"].replace("word1", "word2")})}


@pytest.mark.parametrize(("changes", "message"), [
    ({"model": lambda: tiny_model("bert", hidden_size=16)}, "not the one that"),
    ({"model": lambda: tiny_model("bert", num_hidden_layers=1)}, "not the one that"),
    ({"model": lambda: tiny_model("bert", num_hidden_layers=3)}, "not the one that"),
    ({"model": lambda: tiny_model("gpt2")}, "not the one that"),
    ({"data": lambda: tiny_data(25, 8)}, "the training data given are not those"),
    ({"data": other_data}, "the training data given are not those"),
    ({"data": other_words}, "the training data given are not those"),
    ({"optimizer": lambda: sgd}, "was made with AdamW, given is SGD: pass optimizer="),
    ({"optimizer": lambda: lambda groups, lr: torch.optim.AdamW(groups[:1], lr=lr)}, "parameter group"),
])  # fmt: skip
def test_another_model_data_or_optimizer_is_refused_and_changes_nothing(changes, message, saved):
    changes = {name: make() for name, make in changes.items()}
    model = changes.setdefault("model", tiny_model("bert"))
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        resume(saved, **changes)
    assert same_bits(weights(model), before)


def test_another_frozen_part_is_refused(tmp_path):
    def frozen(seed):
        model = tiny_model("bert", seed=seed)
        model.bert.requires_grad_(False)
        return model

    run = tiny_run(frozen(0), tiny_data(24, 8))
    next(run)
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match="it differs in bert.embeddings"):
        resume(tmp_path / "run", model=frozen(1))
    assert resume(tmp_path / "run", model=frozen(0)).index == 1
