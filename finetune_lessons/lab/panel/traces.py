"""What one run in a panel did, step by step, ready to be drawn."""

import math
from collections import deque
from typing import Any

from finetune_lessons.lab.panel.choices import short

RAW, SMOOTH, LR, GRAD_NORM = "raw loss", "loss", "learning rate", "gradient norm"
PART = "part: "


class Series:
    "Points of a line. Values that are not finite are left out."

    def __init__(self) -> None:
        self.xs: list[float] = []
        self.ys: list[float] = []
        self.low, self.high = math.inf, -math.inf
        self.peak = 0.0  # where it is highest
        self._drawn: dict[int, tuple[int, float, str]] = {}

    def add(self, x: float, y: float) -> None:
        if math.isfinite(y):
            self.xs.append(x)
            self.ys.append(y)
            if y > self.high:
                self.high, self.peak = y, x
            self.low = min(self.low, y)

    def thinned(self, limit: int) -> list[tuple[float, float]]:
        "At most `limit` points, and the last one."
        if not self.ys:
            return []
        stride = math.ceil(len(self.xs) / limit) or 1
        points = list(zip(self.xs[::stride], self.ys[::stride], strict=False))
        last = (self.xs[-1], self.ys[-1])
        return points if points[-1] == last else [*points, last]

    def path(self, limit: int, ceiling: float = math.inf) -> str:
        "The points of an SVG polyline in the data's own units: a line that no longer changes is formatted once."
        ceiling = ceiling if self.high > ceiling else math.inf
        count, below, text = self._drawn.get(limit, (0, ceiling, ""))
        if (count, below) != (len(self.ys), ceiling):
            text = " ".join([f"{x:.7g},{y if y < ceiling else ceiling:.5g}" for x, y in self.thinned(limit)])
            self._drawn[limit] = len(self.ys), ceiling, text
        return text


class Trace:
    "One run: its knobs, its curves and how it ended."

    smoothing = 0.9

    def __init__(self, number: int, values: dict[str, Any], guess: str | None = None):
        self.number, self.values, self.guess = number, values, guess
        self.outcome = "running"
        self.like = ""  # which run it repeats, and with which change
        self.parent: int | None = None  # the number of that run
        self.goes_on = False  # whether it begins where that one ended
        self.first = 0  # the steps that one had taken
        self.total: int | None = None
        self.steps = 0
        self.epoch: int | None = None
        self.seconds = 0.0
        self.last: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.series: dict[str, Series] = {}
        self._average = 0.0
        self._recent: deque[tuple[int, float]] = deque(maxlen=20)

    @property
    def name(self) -> str:
        return f"run {self.number}"

    @property
    def loss(self) -> float:
        "The smoothed loss."
        smooth = self.series.get(SMOOTH)
        return smooth.ys[-1] if smooth and smooth.ys else math.nan

    @property
    def tokens_per_second(self) -> float | None:
        tokens, seconds = (sum(column) for column in zip(*self._recent, strict=True)) if self._recent else (0, 0.0)
        return tokens / seconds if tokens and seconds else None

    @property
    def seconds_left(self) -> float | None:
        if not self.total or not self.steps:
            return None
        return max(0, self.total - self.first - self.steps) * self.seconds / self.steps

    def append(self, step: Any, seconds: float) -> None:
        "Take a step of a `Run`, any object with a `loss`, or a number. ValueError if the loss is not a finite number."
        loss = _number("the loss", getattr(step, "loss", step))
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {self.steps}")
        self.steps += 1
        self.seconds += seconds
        self.epoch = getattr(step, "epoch", None)
        self._add_loss(loss)
        self._add(LR, getattr(step, "lr", None))
        self._add(GRAD_NORM, getattr(step, "grad_norm", None))
        for name, value in (getattr(step, "parts", None) or {}).items():
            self._add(f"{PART}{name}", value)
        if metrics := getattr(step, "metrics", None):
            self.metrics = dict(metrics)
            for name, value in metrics.items():
                self._add(f"validation {name}", value)
        self._recent.append((getattr(step, "tokens", 0), getattr(step, "seconds", seconds)))

    def _add_loss(self, loss: float) -> None:
        self._average = self.smoothing * self._average + (1 - self.smoothing) * loss
        self._add(RAW, loss)
        self._add(SMOOTH, self._average / (1 - self.smoothing**self.steps))

    def _add(self, name: str, value: float | None) -> None:
        if value is not None:
            self.last[name] = figure = _number(name, value)
            self.series.setdefault(name, Series()).add(self.first + self.steps, figure)

    def row(self) -> dict[str, Any]:
        "The run as a row of the table of results."
        metrics = {f"validation {name}": value for name, value in self.metrics.items()}
        results = {"steps": self.steps, "loss": self.loss, **metrics, "seconds": self.seconds, "outcome": self.outcome}
        if self.guess is not None:
            results["prediction"] = self.guess
        if self.like:
            results["like"] = self.like
        knobs = {"run (knob)" if name == "run" else name: value for name, value in self.values.items()}
        return {"run": self.number, **knobs, **{self.column(name): value for name, value in results.items()}}

    def column(self, name: str) -> str:
        "What a result is called in the table, where knobs keep their names."
        return f"{name} of the run" if name in self.values else name


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # the last one from a tensor of several numbers
        given = f"{type(value).__name__} {short(repr(value))}"
        raise ValueError(f"{name} must be one number; given: {given}") from None


def clock(seconds: float) -> str:
    "3.2 s, 12 s, 3 min 20 s, 2 h 5 min"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
