"""A run as one file: its tensors in safetensors, the rest as JSON in the same file's header."""

import hashlib
import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from finetune_lessons.lab import random_state

if TYPE_CHECKING:
    from finetune_lessons.lab.run import Run

FORMAT = 1


def save_run(run: "Run", path: Path) -> None:
    "Write the run to the file `path`, over an older one only when the new one is whole. The main process writes."
    from accelerate.utils import gather_object

    random_states = gather_object([random_state.to_json(run.random_state.state)])
    if not run.is_main_process:
        return
    optimizer_tensors, optimizer_numbers = _optimizer_state(run.optimizer)
    tensors = _model_tensors(run.learner, run.trained) | optimizer_tensors
    header = {
        "format": FORMAT,
        "config": run.config,
        "index": run.index,
        "steps": [asdict(step) for step in run.steps],
        "trained": sorted(run.trained),
        "trainable": sorted(name for name, p in run.learner.named_parameters() if p.requires_grad),
        "optimizer": optimizer_numbers,
        "scaler": run.scaler.state_dict(),
        "random": random_states,
        "model": _fingerprints(run.learner, run.trained),
        "data": _data_fingerprint(run),
        "checksums": {name: _checksum(tensor) for name, tensor in tensors.items()},
    }
    _write_whole(path, tensors, header)


def read_header(path: Path) -> dict[str, Any]:
    "What the file says of the run, without its tensors. Raises ValueError for a file that is missing or damaged."
    if not path.is_file():
        raise ValueError(f"no saved run at {path}")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["run"])
            written_as = header["format"]
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a saved run, or it is damaged: {error}") from error
    if written_as != FORMAT:
        raise ValueError(f"{path} has format {written_as}, this version reads {FORMAT}")
    return header


def load_run(run: "Run", path: Path, header: dict[str, Any]) -> None:
    "Put the saved state into a run that was just made with the saved config. Checks all before it changes anything."
    from finetune_lessons.lab.run import Step

    tensors = load_file(path)
    for name, checksum in header["checksums"].items():
        if name not in tensors or _checksum(tensors[name]) != checksum:
            raise ValueError(f"{path} is damaged: {name} is not what was saved")
    _check_same(run, path, header, tensors)
    _load_optimizer(run.optimizer, tensors, header["optimizer"])
    with torch.no_grad():
        for name, target in _trained_tensors(run.learner, set(header["trained"])).items():
            target.copy_(tensors[f"model.{name}"])
    for name, parameter in run.learner.named_parameters():
        parameter.requires_grad_(name in header["trainable"])
    if header["scaler"]:
        run.scaler.load_state_dict(header["scaler"])
    run.random_state.state |= random_state.from_json(header["random"][run.rank])
    run.trained = set(header["trained"])
    run.index, run.steps = header["index"], [Step(**step) for step in header["steps"]]


def _check_same(run: "Run", path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    trained = set(header["trained"])
    shapes = {f"model.{name}": str(tensor.shape) for name, tensor in _trained_tensors(run.learner, trained).items()}
    given = _fingerprints(run.learner, trained) | shapes
    saved = header["model"] | {name: str(t.shape) for name, t in tensors.items() if name.startswith("model.")}
    if different := sorted(name for name in given.keys() | saved.keys() if given.get(name) != saved.get(name)):
        raise ValueError(f"the model given is not the one that {path} was made with: it differs in {different[0]}")
    if _data_fingerprint(run) != header["data"]:
        raise ValueError(f"the training data given are not those that {path} was made with")
    if (optimizer := type(run.optimizer).__name__) != header["optimizer"]["class"]:
        raise ValueError(f"{path} was made with {header['optimizer']['class']}, given is {optimizer}: pass optimizer=")
    if len(header["random"]) != run.world_size:
        raise ValueError(f"{path} was saved by {len(header['random'])} processes: resume it with as many")


def _trained_tensors(model: torch.nn.Module, trained: set[str]) -> dict[str, torch.Tensor]:
    persistent = model.state_dict()
    buffers = {name: b for name, b in model.named_buffers() if name in persistent}
    return {name: p for name, p in model.named_parameters() if name in trained} | buffers


def _model_tensors(model: torch.nn.Module, trained: set[str]) -> dict[str, torch.Tensor]:
    tensors = _trained_tensors(model, trained)
    return {f"model.{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    named = {f"optimizer.{i}.{key}": value for i, entries in state["state"].items() for key, value in entries.items()}
    tensors = {name: value.contiguous() for name, value in named.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in named.items() if name not in tensors}
    return tensors, {"class": type(optimizer).__name__, "groups": state["param_groups"], "numbers": numbers}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], saved: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | saved["numbers"]).items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})


def _fingerprints(model: torch.nn.Module, trained: set[str]) -> dict[str, str]:
    "Of each parameter that the run does not train: shape and 64 of its numbers, hashed."
    return {name: _fingerprint(p) for name, p in model.named_parameters() if name not in trained}


def _fingerprint(parameter: torch.Tensor) -> str:
    numbers = parameter.detach().flatten()
    sample = numbers[:: max(1, len(numbers) // 64)].float().cpu().numpy().tobytes()
    return hashlib.sha256(str(tuple(parameter.shape)).encode() + sample).hexdigest()[:16]


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy().data)


def _data_fingerprint(run: "Run") -> str:
    "Of the training data: all lengths and labels, and the tokens of the first thousand examples, hashed."
    train, digest = run.splits["train"], hashlib.sha256()
    for task, split in train.tasks.items():
        labels = split["label"] if "label" in split.column_names else []
        digest.update(json.dumps([task, split[:1000]["input_ids"], list(labels)]).encode())
        digest.update(np.ascontiguousarray(train.lengths[task]).tobytes())
    return digest.hexdigest()[:16]


def _write_whole(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        save_file(tensors, temporary, metadata={"run": json.dumps(header)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
