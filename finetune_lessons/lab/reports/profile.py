"""Where a lesson's time goes: `finetune-lessons profile 22`."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

WATCHED = {
    "loading models": tuple(f"models.loading:load_{kind}" for kind in ("encoder", "causal_lm", "seq2seq")),
    "loading data": ("data.datasets:load_data", "data.csv_files:read_csv"),
    "tokenisation": ("training.tokenising:tokenize", "training.inputs:tokenize"),
    "batches": ("training.batches:Batches.load", "training.batches:Batches.epoch"),
    "forward": ("training.objective:Objective.parts",),
    "backward": ("torch:Tensor.backward",),
    "optimizer": ("training.run:Run._clip", "torch.amp:GradScaler.step"),
    "evaluation": ("training.run:Run.evaluate", "training.run:Run.predict"),
    "plotting": (
        "matplotlib.backend_bases:FigureCanvasBase.print_figure",
        "panel.live_plot:svg",
        "panel.live_plot:png",
    ),
}
BEFORE = "from finetune_lessons.lab.reports.profile import Profile; _profile = Profile(); _profile.start()"
AFTER = "print(_profile.report())"


def profile_lesson(
    path: Path,
    scale: str | None = None,  # "smoke", "lesson" or "full"; None leaves it to the environment
) -> str:
    "Execute the notebook; what each part of the work took, and how much of the machine training used."
    from finetune_lessons.lab.notebooks.executing import execute

    return execute(path, scale, around=(BEFORE, AFTER)).cells[-1].outputs[0].text


class Profile:
    """Seconds by part of the work, from `start()` on. A part inside another, as a forward pass in an evaluation,
    counts for the outer one; so do the parts of other threads, next to those of the main one.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(WATCHED, 0.0)
        self.work: list[tuple[float, int, float]] = []  # of each run: FLOP per token, tokens, seconds there and back
        self._inside = threading.local()

    def start(self) -> None:
        from finetune_lessons.lab.training.run import Run

        for part, names in WATCHED.items():
            for name in names:
                owner, attribute = _find(name)
                setattr(owner, attribute, self._timed(part, getattr(owner, attribute)))
        Run._backward = self._counted(Run._backward)  # type: ignore[method-assign]
        self._started = time.perf_counter()

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._part(part):
                return function(*args, **kwargs)

        return timed

    @contextmanager
    def _part(self, part: str) -> Iterator[None]:
        if getattr(self._inside, "part", None):
            yield
            return
        self._inside.part, started = part, time.perf_counter()
        try:
            yield
        finally:
            _wait_for_gpu()
            self.seconds[part] += time.perf_counter() - started
            self._inside.part = None

    def _counted(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        "A run's second step is counted (its first may fill a cache), and gives the rate of those that follow."
        from torch.utils.flop_counter import FlopCounterMode

        from finetune_lessons.lab.training.batches import count_tokens

        @wraps(backward)
        def counted(run: Any, batches: list[Any]) -> Any:
            per_token, tokens = vars(run).get("_flop_per_token"), sum(map(count_tokens, batches))
            if run.index == 0:
                return backward(run, batches)
            if per_token is None:
                with FlopCounterMode(display=False) as counter:
                    losses = backward(run, batches)
                run._flop_per_token = counter.get_total_flops() / max(tokens, 1)
                return losses
            before = self.seconds["forward"] + self.seconds["backward"]
            losses = backward(run, batches)
            self.work.append((per_token, tokens, self.seconds["forward"] + self.seconds["backward"] - before))
            return losses

        return counted

    def report(self) -> str:
        "The table, and the rate of training next to that of a matrix product."
        total = time.perf_counter() - self._started
        rows = {**self.seconds, "all else": total - sum(self.seconds.values())}
        lines = [f"{part:15} {seconds:8.1f} s {seconds / total:7.1%}" for part, seconds in rows.items()]
        return "\n".join([*lines, f"{'together':15} {total:8.1f} s", *self._rate()])

    def _rate(self) -> list[str]:
        seconds = sum(s for _, _, s in self.work)
        if not seconds:
            return []
        reached, possible = sum(flop * tokens for flop, tokens, _ in self.work) / seconds, matrix_rate()
        return [
            f"forward and backward reach {reached / 1e9:.0f} GFLOP/s, {reached / possible:.0%} of the "
            f"{possible / 1e9:.0f} GFLOP/s of a matrix product (padding and recomputation count as nothing)"
        ]


def matrix_rate(
    size: int = 2048,
    repeats: int = 5,
) -> float:
    "FLOP/s of a product of two square matrices in the precision that a `Run` chooses here: the best of the repeats."
    from finetune_lessons.lab.training.precision import DTYPES, fastest_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a = torch.randn(size, size, device=device, dtype=DTYPES[fastest_precision(device).precision])
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        _wait_for_gpu()
        started = time.perf_counter()
        a @ a
        _wait_for_gpu()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


def _find(name: str) -> tuple[Any, str]:
    "The owner of a function that is named `module:path.in.it`; one of `lab` by its room and name."
    module, _, path = name.partition(":")
    elsewhere = module.startswith(("torch", "matplotlib"))
    owner: Any = import_module(module if elsewhere else f"finetune_lessons.lab.{module}")
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, attribute


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
