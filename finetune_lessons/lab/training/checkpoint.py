"""A run to a file and back: what was trained, the optimizer's state, the random state, the history."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from finetune_lessons.lab.training import random_state
from finetune_lessons.lab.training.optimizer_state import kind_of, load_optimizer, optimizer_state
from finetune_lessons.lab.training.processes import Processes
from finetune_lessons.lab.training.run_files import FORMAT, checksum, read_tensors, shape_of, write_whole
from finetune_lessons.lab.training.settings import is_whole
from finetune_lessons.lab.training.steps import Step
from finetune_lessons.lab.training.trained import METHOD, detached, fingerprints, parameters_by_name, trained_tensors

Run = Any  # the module `run` imports this one


def save_run(run: Run, path: Path) -> None:
    "Write the run to the file `path`, over an older one only when the new one is whole. The main process writes."
    random_states = run.processes.gathered(random_state.to_json(run.random_state.state))
    if not run.is_main_process:
        return
    optimizer_tensors, optimizer_numbers = optimizer_state(run.optimizer)
    trained, best = trained_tensors(run.learner, run.trained), run.best
    tensors = detached(trained, "model.") | optimizer_tensors
    if best and best.value is not None:
        tensors |= detached(best.tensors(), "best.")
    header = {
        "format": FORMAT,
        "config": run.config,
        "made_with": run.made_with,
        "index": run.index,
        "steps": [asdict(step) for step in run.steps],
        "extended": run.extended,
        "best": {"value": best.value, "step": best.step} if best else {},
        "trained": sorted(run.trained),
        "trainable": sorted(name for name, p in parameters_by_name(run.learner).items() if p.requires_grad),
        "optimizer": optimizer_numbers,
        "scaler": run.scaler.state_dict(),
        "computed": {"precision": run.precision, "device": run.device.type},
        "cached": run.cache is not None,
        "random": random_states,
        "model": fingerprints(run.learner, run.trained),
        "data": run.splits["train"].fingerprint,
        "checksums": {name: checksum(tensor) for name, tensor in tensors.items()},
    }
    write_whole(path, tensors, header)


def config_here(
    path: Path,
    header: dict[str, Any],
    batch_size: int | None = None,  # of each process; None: as it was, or less where a step would have more examples
) -> dict[str, Any]:
    """The saved settings, with accumulation that gives a step as many examples as before in the processes that are now.

    What "auto" was is what it stays, on the same kind of device.
    """
    processes, before = Processes(), len(header["random"])
    saved, now, computed = header["config"], processes.count, header["computed"]
    if saved.get("precision") == "auto" and computed.get("device") == processes.device.type:
        saved = saved | {"precision": computed.get("precision")}
    if now == before and batch_size is None:
        return saved
    examples = saved["batch_size"] * before * saved["grad_accum"]
    each = examples // now
    size = batch_size or next((n for n in range(min(saved["batch_size"], each), 0, -1) if each % n == 0), 0)
    if examples % now or not is_whole(size, 1) or each % size:
        raise ValueError(
            f"{path} has {saved['batch_size']} x {before} x {saved['grad_accum']} = {examples} examples a step "
            f"(batch_size x processes x grad_accum); {_no_way(examples, now, size)}"
        )
    if saved["max_tokens"] and size != saved["batch_size"]:  # it counts by the forward passes of a step
        raise ValueError(
            f"{path} has max_tokens={saved['max_tokens']}, and so keeps batch_size={saved['batch_size']}: start a "
            f"number of processes that divides the {before * saved['grad_accum']} forward passes of a step"
        )
    return saved | {"batch_size": size, "grad_accum": each // size}


def _no_way(examples: int, processes: int, size: int) -> str:
    if examples % processes:
        counts = [str(n) for n in range(1, min(examples, 64) + 1) if examples % n == 0]
        return f"{processes} processes cannot share {examples} evenly: start {', '.join(counts[:-1])} or {counts[-1]}"
    return f"batch_size={size} in {processes} {'processes' if processes > 1 else 'process'} cannot make {examples}"


def load_run(run: Run, path: Path, header: dict[str, Any]) -> None:
    "Put the saved state into a run that was just made with the saved config. Checks all before it changes the model."
    tensors = read_tensors(path, header)
    _check_same(run, path, header, tensors)
    try:
        _load_state(run, header, tensors)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this run, or it is damaged: {error}") from error
    with torch.no_grad():
        for name, target in trained_tensors(run.learner, run.trained).items():
            target.copy_(tensors[f"model.{name}"])
    for name, parameter in parameters_by_name(run.learner).items():
        parameter.requires_grad_(name in header["trainable"])


def _load_state(run: Run, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    load_optimizer(run.optimizer, tensors, header["optimizer"])
    if kind_of(header["scaler"]) != kind_of(run.scaler.state_dict()):
        raise ValueError("the state of its loss scaler is not one")
    if header["scaler"]:
        run.scaler.load_state_dict(header["scaler"])
    if run.processes.rank < len(header["random"]):
        saved = header["random"][run.processes.rank]
        if not 0 <= saved["numpy"][2] <= 624:  # numpy would read beyond its numbers
            raise ValueError("its random state is not one")
        run.random_state.state |= random_state.from_json(saved)
    with run.random_state.swapped_in():
        run.steps = [_step(saved) for saved in header["steps"]]
    run.config["precision"] = header["config"]["precision"]
    run.index, run.trained, run.made_with = header["index"], set(header["trained"]), header["made_with"]
    for epochs in header["extended"]:
        run.extend(epochs, say=False)
    if run.best and header["best"]["value"] is not None:
        kept = {name.removeprefix("best."): t for name, t in tensors.items() if name.startswith("best.")}
        run.best.keep(header["best"]["value"], header["best"]["step"], kept)


def _step(saved: dict[str, Any]) -> Step:
    step = Step(**saved)
    numbers = saved | {"parts": 0, "metrics": 0}
    if {type(value) for value in [*numbers.values(), *step.parts.values(), *step.metrics.values()]} - {int, float}:
        raise ValueError(f"step {step.index} is not made of numbers")
    return step


def _check_same(run: Run, path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    trained = set(header["trained"])
    shapes = {f"model.{name}": shape_of(tensor) for name, tensor in trained_tensors(run.learner, trained).items()}
    given = fingerprints(run.learner, trained) | shapes
    saved = header["model"] | {name: shape_of(t) for name, t in tensors.items() if name.startswith("model.")}
    names = sorted(given.keys() | saved.keys(), key=lambda name: (METHOD not in name, name))
    if different := [name for name in names if given.get(name) != saved.get(name)]:
        raise ValueError(f"the model given is not the one that {path} was made with: it differs in {different[0]}")
    if run.splits["train"].fingerprint != header["data"]:
        raise ValueError(f"the training data given are not those that {path} was made with")
    if (optimizer := type(run.optimizer).__name__) != header["optimizer"]["class"]:
        raise ValueError(f"{path} was made with {header['optimizer']['class']}, given is {optimizer}: pass optimizer=")
    if (cached := header.get("cached", False)) != (run.cache is not None):  # it switches dropout off
        raise ValueError(f"{path} was made {'with a' if cached else 'without'} cache: resume it so (cache=)")
