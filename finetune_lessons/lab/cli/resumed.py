"""Whether a saved run is the one that the command describes; if not, what differs."""

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from finetune_lessons.lab.cli import made

STEP = ("batch_size", "grad_accum")  # which may change where the examples of a step are as many as before


def resumed(options: Namespace) -> dict[str, Any]:
    "What `Run.resume` is to be called with. Raises ValueError for a file of another run, naming what differs."
    from finetune_lessons.lab.training.run_files import read_header

    header, asked = read_header(options.save), made.identity(options)
    saved = header["made_with"] or header["config"]
    if differing := _differing(saved, asked):
        raise ValueError(
            f"{options.save} is a run with {_as_options(saved, differing)}; given: {_as_options(asked, differing)}. "
            "Go on with the options that it was made with, or --save another file"
        )
    if all(saved.get(name) == asked[name] for name in STEP):
        return {"path": options.save}
    _check_step(options.save, header, asked)
    return {"path": options.save, "batch_size": asked["batch_size"]}


def _differing(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    both = [name for name in asked if name in saved and name not in (*STEP, "csv") and saved[name] != asked[name]]
    whole = "method" in saved  # else it was saved from Python, and says nothing of data and model
    return both or ([name for name in {**saved, **asked} if (name in saved) != (name in asked)] if whole else [])


def _as_options(values: dict[str, Any], names: Iterable[str]) -> str:
    def option(name: str) -> str:
        return f"--{name.replace('_', '-')} {values[name]}" if values.get(name) is not None else f"no {name}"

    return ", ".join(map(option, names))


def _check_step(path: Any, header: dict[str, Any], asked: dict[str, Any]) -> None:
    from finetune_lessons.lab.training.processes import Processes

    processes, before, saved = Processes().count, len(header["random"]), header["config"]
    examples = saved["batch_size"] * before * saved["grad_accum"]
    now = asked["batch_size"] * processes * asked["grad_accum"]
    if now != examples:
        raise ValueError(
            f"{path} has {saved['batch_size']} x {before} x {saved['grad_accum']} = {examples} examples a step "
            f"(batch size x processes x accumulation), these options {asked['batch_size']} x {processes} x "
            f"{asked['grad_accum']} = {now}: choose --batch-size and --grad-accum that make {examples}"
        )
