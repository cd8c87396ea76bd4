"""Figures that lessons share. Each function returns a matplotlib Figure, which a notebook shows."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from finetune_lessons.lab.training.run import Run

# Okabe and Ito: told apart by every kind of colour vision; each curve has its own dash too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
STYLES = tuple(zip(COLOURS, DASHES, strict=True))


def new_figure(
    width: float = 5,  # inches
    height: float = 3.2,
    columns: int = 1,  # axes side by side
) -> "tuple[Figure, list[Axes]]":
    """A figure that a notebook shows when it is a cell's last value, and its axes.

    It does not go through pyplot, which keeps every figure and must not be called from a thread.
    """
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    figure = Picture(figsize=(width, height), layout="constrained", dpi=100)
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, axes


def plot_runs(
    runs: "Mapping[str, Run] | Run",  # label -> run; or one run
    metric: str = "accuracy",  # of the validation split
    smooth: int = 10,  # steps in the moving average of the loss; the raw loss stands behind it, pale
) -> "Figure":
    "The training loss, and the validation metric if the runs were evaluated, over the steps of one run or several."
    from finetune_lessons.lab.training.run import Run

    runs = {"": runs} if isinstance(runs, Run) else runs
    measured = {name for run in runs.values() for step in run.steps for name in step.metrics}
    if measured and metric not in measured:
        raise ValueError(f"no metric {metric!r} in these runs; there are: {', '.join(sorted(measured))}")
    with_metric = bool(measured)
    figure, axes = new_figure(5 * (1 + with_metric), 3.2, 1 + with_metric)
    for (label, run), (colour, dash) in zip(runs.items(), cycle(STYLES), strict=False):
        history = run.history
        steps = history["index"] + 1
        axes[0].plot(steps, history["loss"], color=colour, alpha=0.2, linewidth=1)
        mean = history["loss"].rolling(smooth, min_periods=1).mean()
        axes[0].plot(steps, mean, color=colour, linestyle=dash, label=label)
        if f"validation/{metric}" in history:
            points = history.dropna(subset=f"validation/{metric}")
            values = points[f"validation/{metric}"]
            axes[1].plot(points["index"] + 1, values, color=colour, linestyle=dash, marker="o", label=label)
    axes[0].set(title=f"Training loss (mean of {smooth} steps)", xlabel="step", ylabel="loss")
    axes[0].set_ylim(bottom=min([0, *(step.loss for run in runs.values() for step in run.steps)]))
    if with_metric:
        axes[1].set(title=f"Validation {metric}", xlabel="step", ylabel=metric, xlim=axes[0].get_xlim())
    if len(runs) > 1:
        axes[-1].legend(loc="best", frameon=False)
    return figure


def plot_comparison(
    table: "pd.DataFrame",  # of `compare` or `load_results`
    metric: str = "accuracy",
) -> "Figure":
    "The metric of each method: a dot a seed, a line from lowest to highest, a tick at the mean."
    if metric not in table.columns:
        raise ValueError(f"no metric {metric!r} in the table; its columns are {', '.join(table.columns)}")
    methods = list(dict.fromkeys(table["method"]))
    figure, (ax,) = new_figure(6, 0.9 + 0.45 * len(methods))
    for y, method in enumerate(methods):
        values = table.loc[table["method"] == method, metric]
        ax.hlines(y, values.min(), values.max(), color=COLOURS[0], linewidth=1)
        ax.plot(values, np.full(len(values), y), "o", color=COLOURS[0], alpha=0.6, markersize=6)
        ax.plot(values.mean(), y, "|", color=COLOURS[1], markersize=16, markeredgewidth=2.5)
    seeds = table["seed"].nunique()
    figure.suptitle(f"{metric}: a dot for each of {seeds} seeds, a bar at the mean")  # wider than the axes
    ax.set(xlabel=metric)
    ax.set_yticks(range(len(methods)), methods)
    ax.margins(y=0.2)
    ax.invert_yaxis()
    return figure


def plot_confusion(
    labels: Sequence[int],
    predictions: Sequence[int],
    names: Sequence[str],  # of the classes
) -> "Figure":
    "The confusion matrix: what each true class was taken for, as counts and as shares of the row."
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predictions, labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.8 * len(names)
    figure, (ax,) = new_figure(size, size)
    ax.grid(False)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{count}\n{shares[row, column]:.0%}"
        ax.text(column, row, text, ha="center", va="center", color=colour)
    ax.set_xticks(range(len(names)), names, rotation=45 if len(names) > 3 else 0)
    ax.set_yticks(range(len(names)), names)
    ax.set(title="Confusion matrix", xlabel="predicted", ylabel="true")
    return figure


def plot_calibration(
    confidence: "Mapping[str, Sequence[float]]",  # label -> the probability of each prediction
    correct: Sequence[bool],  # whether the prediction was right
    bins: int = 10,
) -> "Figure":
    "Accuracy against confidence: on the diagonal, what is 80% sure is right 8 times in 10."
    figure, (ax,) = new_figure(4.6, 4)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect")
    right = np.asarray(correct, dtype=float)
    for (label, values), (colour, dash) in zip(confidence.items(), cycle(STYLES), strict=False):
        sure = np.asarray(values, dtype=float)
        which = np.minimum((sure * bins).astype(int), bins - 1)
        x, y = ([v[which == b].mean() for b in np.unique(which)] for v in (sure, right))
        ax.plot(x, y, linestyle=dash, color=colour, marker="o", label=label)
    low = min(0.5, *(np.asarray(v).min() for v in confidence.values()))
    ax.set(title="Calibration", xlabel="confidence", ylabel="accuracy", xlim=(low, 1.01), ylim=(0, 1.03))
    ax.legend(loc="lower right", frameon=False)
    return figure
