"""Methods side by side: several seeds each, mean and spread, time, memory, and a file that keeps them."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.reports.memory import PeakMemory
from finetune_lessons.lab.reports.workers import check_sendable, side_by_side, threads_of_worker, with_threads
from finetune_lessons.lab.training.settings import is_whole
from finetune_lessons.lab.training import processor

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from finetune_lessons.lab.training.run import Run

REMAKE = "FINETUNE_LESSONS_REMAKE"
COSTS = ("seconds", "memory_mb", "trainable", "file_mb")
PACKAGES = ("finetune_lessons", "torch", "transformers", "peft", "datasets", "accelerate", "numpy")


def compare(
    methods: "Mapping[str, Callable[[int], Run]]",  # name -> make_run(seed), which gives a Run that has not started
    seeds: Sequence[int] = (0, 1, 2),
    split: str = "validation",  # measured once, at the end of each run; "test" when all choices are made
    measure: "Callable[[Run], Mapping[str, float]] | None" = None,  # more columns, of the finished run
    executor: Executor | None = None,  # whose workers train runs side by side: processes, not threads
    threads: int | None = None,  # of torch in each run; None: as many as here, with an executor its share of the cores
) -> "pd.DataFrame":
    """Train every method with every seed and measure it: one row a run.

    Columns: method, seed, the metrics of `split`, seconds (training only), memory_mb (highest, above what the
    process held before the run was made), trainable (parameters), parameters, and those of `measure`.
    `summary(table)` condenses it.

    With as many threads, the table is the same to the bit with an executor and without, but for seconds and memory;
    where it gives a run fewer threads than there are here, it says so. Raises ValueError for an executor of threads,
    or of forked processes, and for methods that cannot be sent to a process.
    """
    import pandas as pd

    if not methods or not seeds:
        raise ValueError("compare needs at least one method and one seed")
    if threads is not None and not is_whole(threads, 1):
        raise ValueError(f"threads is a number of at least 1; given: {threads!r}")
    each = [(name, seed) for seed in seeds for name in methods]  # a machine that slows down slows all methods alike
    calls = [(methods[name], seed, split, measure) for name, seed in each]
    if executor is not None:
        check_sendable(executor, {**methods, "measure": measure})
        threads = threads or threads_of_worker(executor)
        measured = side_by_side(executor, measure_run, calls, threads)
    else:
        measured = [with_threads(threads, measure_run, *call) for call in calls]
    rows = [{"method": name, "seed": seed, **row} for (name, seed), row in zip(each, measured, strict=True)]
    table = pd.DataFrame(rows)
    table.attrs |= {"threads": threads} if threads else {}
    return table


def measure_run(make_run: "Callable[[int], Run]", seed: int, split: str, measure: Any) -> dict[str, float]:
    with PeakMemory() as memory:
        run = make_run(seed)
        seconds = sum(step.seconds for step in run)
    counts = {"trainable": _count(run.model, trainable=True), "parameters": _count(run.model)}
    more = measure(run) if measure else {}
    return {**run.evaluate(split), "seconds": seconds, "memory_mb": memory.megabytes, **counts, **more}


def _count(model: "torch.nn.Module", trainable: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def summary(
    table: "pd.DataFrame",  # of `compare`
    metric: str = "accuracy",
) -> "pd.DataFrame":
    "One row a method: mean and standard deviation (n-1) of the metric over seeds, medians of what the runs took."
    if metric not in table.columns:
        raise ValueError(f"no metric {metric!r} in the table; its columns are {', '.join(table.columns)}")
    medians = {name: (name, "median") for name in COSTS if name in table.columns}
    spread = {metric: (metric, "mean"), "std": (metric, "std"), "seeds": ("seed", "count")}
    rows = table.groupby("method", sort=False).agg(**medians | spread)[list(spread | medians)]
    return rows.astype({"trainable": int})


def save_results(
    path: str | Path,  # such as "nbs/results/11.json"
    table: "pd.DataFrame",  # of `compare`
    **config: Any,  # what the runs have in common: data, model, epochs, lr, ...
) -> None:
    "Write the table as JSON, with the config, the versions of what it stands on, and the machine."
    results = {
        "config": config,
        **({"seeds": sorted(set(table["seed"].tolist()))} if "seed" in table else {}),
        "machine": _machine(table.attrs.get("threads")),
        "versions": _versions(),
        "runs": json.loads(table.to_json(orient="records", double_precision=6)),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def load_results(
    path: str | Path,
) -> "pd.DataFrame":
    "The table that `save_results` wrote; its config, seeds, machine and versions are in `table.attrs`."
    import pandas as pd

    kept = _kept(path)
    if not kept.is_file():
        raise ValueError(f"no results at {path}: the lesson says which command makes them")
    try:
        results = json.loads(kept.read_text(encoding="utf-8"))
        table = pd.DataFrame(results.pop("runs"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold results of save_results: {error}") from error
    table.attrs = results
    return table


def reference_results(
    path: str | Path,
    make: "Callable[[], pd.DataFrame]",  # trains for minutes: lambda: compare(...)
    **config: Any,  # for `save_results`
) -> "pd.DataFrame":
    "The results kept at `path`, or new ones where there are none or the variable FINETUNE_LESSONS_REMAKE is set."
    if os.environ.get(REMAKE) or not _kept(path).is_file():
        save_results(path, make(), **config)
    return load_results(path)


def _kept(path: str | Path) -> Path:
    "The path; where its folder does not exist, as on Colab, that of the table which the installed package carries."
    path = Path(path)
    return path if path.parent.is_dir() else Path(__file__).parents[2] / "results" / path.name


def _machine(threads: int | None) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = threads or torch.get_num_threads()
    return {"cpu": processor.name(), "threads": threads, "gpu": gpu, "python": platform.python_version()}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
