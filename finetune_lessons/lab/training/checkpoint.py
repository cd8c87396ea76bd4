"""A run as one file: its tensors in safetensors, the rest as JSON in the same file's header."""

import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from contextlib import suppress
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from finetune_lessons.lab.training import random_state

if TYPE_CHECKING:
    from finetune_lessons.lab.training.run import Run, Step

FORMAT = 2
HEADER = {
    "config": dict, "index": int, "steps": list, "trained": list, "trainable": list, "optimizer": dict, "scaler": dict,
    "cached": bool, "random": list, "model": dict, "data": str, "checksums": dict,
}  # fmt: skip
LIKE_THE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


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
        "cached": run.cache is not None,
        "random": random_states,
        "model": _fingerprints(run.learner, run.trained),
        "data": run.splits["train"].fingerprint,
        "checksums": {name: _checksum(tensor) for name, tensor in tensors.items()},
    }
    _write_whole(path, tensors, header)


def newest_whole(path: Path) -> tuple[Path, dict[str, Any]]:
    """The saved run `path`, or the newest whole one in the folder `path`; and what it says of the run.

    Newest is what has most steps, and of those what was written last; one that is damaged is warned of and passed over.
    Raises ValueError where there is none.
    """
    if not path.is_dir():
        return path, read_header(path)
    headers: dict[Path, dict[str, Any]] = {}
    damaged = []
    for file in sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")):
        try:
            headers[file] = read_header(file)
        except ValueError:
            damaged.append(file.name)
    for file in sorted(headers, key=lambda file: (headers[file]["index"], file.stat().st_mtime_ns), reverse=True):
        try:
            _read_tensors(file, headers[file])
        except ValueError:
            damaged.append(file.name)
            continue
        if damaged:
            warnings.warn(f"{path}: passed over what is damaged or no saved run: {', '.join(damaged)}", stacklevel=3)
        return file, headers[file]
    raise ValueError(f"no whole saved run in {path}" + (f"; damaged: {', '.join(damaged)}" if damaged else ""))


def read_header(path: Path) -> dict[str, Any]:
    "What the file says of the run, without its tensors. Raises ValueError for a file that is missing or damaged."
    if not path.is_file():
        raise ValueError(f"no saved run at {path}")
    try:
        with safe_open(path, "pt") as file:
            written = file.metadata()
        header = json.loads(written["run"])
        written_as = header["format"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a saved run, or it is damaged: {error}") from error
    if written_as != FORMAT:
        raise ValueError(f"{path} has format {written_as}, this version reads {FORMAT}")
    if written.get("checksum") != _checksum_of_text(written["run"]):
        raise ValueError(f"{path} is damaged: its header is not what was saved")
    _check_header(path, header)
    return header


def _check_header(path: Path, header: dict[str, Any]) -> None:
    from finetune_lessons.lab.training.run import Run

    odd = [name for name, kind in HEADER.items() if type(header.get(name)) is not kind]
    odd = odd or [name for name in ("trained", "trainable") if {type(of) for of in header[name]} - {str}]
    if odd or [type(header["optimizer"].get(name)) for name in ("class", "groups", "numbers")] != [str, list, dict]:
        raise ValueError(f"{path} is damaged: {(odd or ['optimizer'])[0]} is missing, or not what a run has there")
    known = {name for name, given in signature(Run).parameters.items() if given.default is not given.empty}
    if unknown := sorted(header["config"].keys() - (known - {"optimizer", "cache"})):
        raise ValueError(f"{path} is damaged, or of a later version: a Run has no {unknown[0]!r}")
    if header["index"] != len(header["steps"]):
        raise ValueError(f"{path} is damaged: {len(header['steps'])} steps are described, and {header['index']} taken")


def _read_tensors(path: Path, header: dict[str, Any]) -> dict[str, torch.Tensor]:
    "Raises ValueError unless they are those that were saved."
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name in sorted(tensors.keys() | header["checksums"].keys()):
        if name not in tensors or _checksum(tensors[name]) != header["checksums"].get(name):
            raise ValueError(f"{path} is damaged: {name} is not what was saved")
    return tensors


def load_run(run: "Run", path: Path, header: dict[str, Any]) -> None:
    "Put the saved state into a run that was just made with the saved config. Checks all before it changes the model."
    tensors = _read_tensors(path, header)
    _check_same(run, path, header, tensors)
    try:
        _load_state(run, header, tensors)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this run, or it is damaged: {error}") from error
    with torch.no_grad():
        for name, target in _trained_tensors(run.learner, run.trained).items():
            target.copy_(tensors[f"model.{name}"])
    for name, parameter in run.learner.named_parameters():
        parameter.requires_grad_(name in header["trainable"])


def _load_state(run: "Run", header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    _load_optimizer(run.optimizer, tensors, header["optimizer"])
    if _kind(header["scaler"]) != _kind(run.scaler.state_dict()):
        raise ValueError("the state of its loss scaler is not one")
    if header["scaler"]:
        run.scaler.load_state_dict(header["scaler"])
    if not 0 <= header["random"][run.rank]["numpy"][2] <= 624:  # numpy would read beyond its numbers
        raise ValueError("its random state is not one")
    run.random_state.state |= random_state.from_json(header["random"][run.rank])
    with run.random_state.swapped_in():
        run.steps = [_step(saved) for saved in header["steps"]]
    run.index, run.trained = header["index"], set(header["trained"])


def _step(saved: dict[str, Any]) -> "Step":
    from finetune_lessons.lab.training.run import Step

    step = Step(**saved)
    numbers = saved | {"parts": 0, "metrics": 0}
    if {type(value) for value in [*numbers.values(), *step.parts.values(), *step.metrics.values()]} - {int, float}:
        raise ValueError(f"step {step.index} is not made of numbers")
    return step


def _kind(value: Any) -> Any:
    "What a value that JSON can hold has in common with those that can stand for it."
    if isinstance(value, dict):
        return {key: _kind(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_kind(inner) for inner in value]
    if isinstance(value, bool | None):
        return "switch"
    return math.isfinite(value) if isinstance(value, int | float) else type(value)


def _check_same(run: "Run", path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    trained = set(header["trained"])
    shapes = {f"model.{name}": _shape(tensor) for name, tensor in _trained_tensors(run.learner, trained).items()}
    given = _fingerprints(run.learner, trained) | shapes
    saved = header["model"] | {name: _shape(t) for name, t in tensors.items() if name.startswith("model.")}
    if different := sorted(name for name in given.keys() | saved.keys() if given.get(name) != saved.get(name)):
        raise ValueError(f"the model given is not the one that {path} was made with: it differs in {different[0]}")
    if run.splits["train"].fingerprint != header["data"]:
        raise ValueError(f"the training data given are not those that {path} was made with")
    if (optimizer := type(run.optimizer).__name__) != header["optimizer"]["class"]:
        raise ValueError(f"{path} was made with {header['optimizer']['class']}, given is {optimizer}: pass optimizer=")
    if (cached := header.get("cached", False)) != (run.cache is not None):  # it switches dropout off
        raise ValueError(f"{path} was made {'with a' if cached else 'without'} cache: resume it so (cache=)")
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
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["groups"]] != [group["params"] for group in groups]:
        raise ValueError("its optimizer has other parameter groups")
    if _kind(saved["groups"]) != _kind(groups):
        raise ValueError("its optimizer has other settings")
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    for index, entries in state.items():
        _check_entries(type(optimizer), parameters[index], entries)
    optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})


def _check_entries(kind: type, parameter: torch.Tensor, entries: dict[str, Any]) -> None:
    "torch would read and write beyond tensors that are too short."
    shapes = {key: parameter.shape for key in LIKE_THE_PARAMETER} | {"step": torch.Size()}
    for key in entries.keys() & shapes.keys():
        if entries[key] is not None and torch.as_tensor(entries[key]).shape != shapes[key]:
            raise ValueError(f"the optimizer's {key} has another shape than its parameter")
    tensors = {key for key, value in entries.items() if isinstance(value, torch.Tensor)}
    if kind is torch.optim.AdamW and (lacking := {"step", "exp_avg", "exp_avg_sq"} - tensors):
        raise ValueError(f"the optimizer lacks {', '.join(sorted(lacking))}")


def _fingerprints(model: torch.nn.Module, trained: set[str]) -> dict[str, str]:
    "Of each parameter that the run does not train: shape and 64 of its numbers, hashed."
    return {name: _fingerprint(p) for name, p in model.named_parameters() if name not in trained}


def _fingerprint(parameter: torch.Tensor) -> str:
    numbers = parameter.detach().flatten()
    sample = numbers[:: max(1, len(numbers) // 64)].float().cpu().numpy().tobytes()
    return hashlib.sha256(str(tuple(parameter.shape)).encode() + sample).hexdigest()[:16]


def _shape(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _checksum(tensor: torch.Tensor) -> int:
    content = tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy().data
    return zlib.crc32(content, zlib.crc32(_shape(tensor).encode()))


def _checksum_of_text(text: str) -> str:
    return str(zlib.crc32(text.encode()))


def _write_whole(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    text = json.dumps(header)
    partial = path.with_name(f".{path.name}.partial")  # a folder: safetensors writes under a random name at first
    shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
    partial.mkdir(parents=True)
    try:
        save_file(tensors, partial / path.name, metadata={"run": text, "checksum": _checksum_of_text(text)})
        with (partial / path.name).open("rb+") as file:
            os.fsync(file.fileno())
        (partial / path.name).replace(path)
    except SafetensorError as error:
        raise OSError(f"could not write {path}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    "Have a new name in the folder outlive a power cut. Some systems cannot, Windows among them."
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
