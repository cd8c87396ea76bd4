"""Files that are written whole or not at all, and read only where they seem to lie."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import finetune_lessons


@contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    "A folder to write in. Its files go to `folder` when all are written; a full disk or Ctrl-C leaves what was there."
    Path(folder).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as new:
        yield Path(new)
        for file in Path(new).iterdir():
            file.replace(Path(folder) / file.name)


def write_described(description: Path, weights: Path, described: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    "A description and its tensors, for `read_described`, in a folder that is made."
    from safetensors.torch import save_file

    with replacing(description.parent) as new:
        save_file(tensors, new / weights.name)
        (new / description.name).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def megabytes(write: Callable[[Path], None]) -> float:
    "How large the files are that this writes into a folder; they are not kept."
    with TemporaryDirectory() as folder:
        write(Path(folder))
        return sum(file.stat().st_size for file in Path(folder).rglob("*.*")) / 1e6


def refuse_link(file: Path) -> None:
    "Raises ValueError for what is not in its folder but anywhere on this machine."
    if file.resolve().parent != file.parent.resolve():
        raise ValueError(f"{file} leads out of its folder, to {file.resolve()}: not read")


def read_described(
    description: Path,  # JSON, an object
    weights: Path,  # safetensors, in the same folder
    needs: Mapping[str, type],  # what the description must hold
    newest: int,  # the latest format that is known here
    writer: str,  # the function that wrote both
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    "A description and its tensors. Raises ValueError for a file that is missing, a link, damaged, or of another kind."
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = description.parent
    for file in (description, weights):
        if not file.is_file():
            raise ValueError(f"{folder} holds no saved method: there is no {file.name}")
        refuse_link(file)
    try:
        described = json.loads(description.read_text(encoding="utf-8"))
        for key, kind in needs.items():
            if not isinstance(described[key], kind):
                raise ValueError(f"its {key} is {described[key]!r}")
        tensors = load_file(weights)
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder} does not hold what {writer} wrote, or it is damaged: {error}") from error
    _check_format(described.get("format"), newest, folder)
    return described, tensors


def _check_format(format: Any, newest: int, folder: Path) -> None:
    if format is None:
        raise ValueError(f"{folder} was written by an earlier version, which said less of the model: save it anew")
    if not isinstance(format, int) or not 1 <= format <= newest:
        raise ValueError(f"{folder} is of format {format}, known are 1 to {newest}: update finetune_lessons to read it")


def base_of(model: Any) -> str | None:
    "The name that the model was loaded by, if it says."
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def versions() -> dict[str, str]:
    "Of what has to do with a file."
    others = {f"{name}_version": version(name) for name in ("torch", "transformers")}
    return {"finetune_lessons_version": finetune_lessons.__version__, **others}


def fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    "Copy the tensors into the parameters; a ValueError, and nothing copied, unless names and shapes are the same."
    for key in sorted(parameters.keys() | tensors.keys()):
        expected, found = (tuple(x[key].shape) if key in x else None for x in (parameters, tensors))
        if expected != found:
            raise ValueError(f"{key} has the shape {found}, expected {expected}")
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(tensors[key])
