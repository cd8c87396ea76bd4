"""Saved runs as files: tensors in safetensors, the rest as JSON in the same file's header; whole, or refused."""

import json
import os
import shutil
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from finetune_lessons.lab.training.settings import NAMES, is_whole

FORMAT = 4
HEADER = {
    "config": dict, "made_with": dict, "index": int, "steps": list, "extended": list, "best": dict, "trained": list,
    "trainable": list, "optimizer": dict, "scaler": dict, "cached": bool, "random": list, "model": dict, "data": str,
    "checksums": dict, "computed": dict,
}  # fmt: skip


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
            read_tensors(file, headers[file])
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
    odd = [name for name, kind in HEADER.items() if type(header.get(name)) is not kind]
    odd = odd or [name for name in ("trained", "trainable") if {type(of) for of in header[name]} - {str}]
    if odd or [type(header["optimizer"].get(name)) for name in ("class", "groups", "numbers")] != [str, list, dict]:
        raise ValueError(f"{path} is damaged: {(odd or ['optimizer'])[0]} is missing, or not what a run has there")
    if unknown := sorted(header["config"].keys() - set(NAMES)):
        raise ValueError(f"{path} is damaged, or of a later version: a Run has no {unknown[0]!r}")
    if not all(is_whole(header["config"].get(name), 1) for name in ("batch_size", "grad_accum")):
        raise ValueError(f"{path} is damaged: it does not say how many examples a step has")
    if header["index"] != len(header["steps"]):
        raise ValueError(f"{path} is damaged: {len(header['steps'])} steps are described, and {header['index']} taken")


def read_tensors(path: Path, header: dict[str, Any]) -> dict[str, torch.Tensor]:
    "Raises ValueError unless they are those that were saved."
    try:
        tensors = load(path.read_bytes())  # not mapped: the file can be replaced while the run goes on
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name in sorted(tensors.keys() | header["checksums"].keys()):
        if name not in tensors or checksum(tensors[name]) != header["checksums"].get(name):
            raise ValueError(f"{path} is damaged: {name} is not what was saved")
    return tensors


def shape_of(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def checksum(tensor: torch.Tensor) -> int:
    content = tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy().data
    return zlib.crc32(content, zlib.crc32(shape_of(tensor).encode()))


def _checksum_of_text(text: str) -> str:
    return str(zlib.crc32(text.encode()))


def write_whole(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
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
