"""Figures that lessons share. Each function returns a matplotlib Figure, which a notebook shows."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from finetune_lessons.lab.figures.palette import COLOURS, CURVES, INK, STYLES, text_on
from finetune_lessons.lab.reports.metric_axis import MetricAxis, outliers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from finetune_lessons.lab.figures.picture import Picture
    from finetune_lessons.lab.training.run import Run

JOINED = 3  # points that make a line: between two nothing was measured


def new_figure(
    width: float = 5,  # inches
    height: float = 3.2,
    columns: int = 1,  # axes side by side
    alt: str = "",  # what a screen reader says; empty: made of titles, axes and what is drawn
) -> "tuple[Picture, list[Axes]]":
    """A figure that a notebook shows when it is a cell's last value, and its axes.

    It has no background and reads on white and on dark pages: what is black, white or grey in it is drawn in one grey
    that does. It does not go through pyplot, which keeps every figure and must not be called from a thread.
    """
    from finetune_lessons.lab.figures.picture import Picture

    figure = Picture(figsize=(width, height), layout="constrained", dpi=100, facecolor="none")
    figure.alt = alt
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    return figure, axes


def plot_runs(
    runs: "Mapping[str, Run] | Run",  # label -> run; or one run
    metric: str = "accuracy",  # of the validation split
    smooth: int = 10,  # steps in the moving average of the loss; the raw loss stands behind it, pale
) -> "Picture":
    """The training loss, and the validation metric if the runs were evaluated, over the steps of one run or several.

    A share such as the accuracy begins at what is had without learning, and has bars: one standard error of a share
    of so many validation texts. Two values stay two dots.
    """
    from finetune_lessons.lab.training.run import Run

    runs = {"": runs} if isinstance(runs, Run) else runs
    measured = {name for run in runs.values() for step in run.steps for name in step.metrics}
    if measured and metric not in measured:
        raise ValueError(f"no metric {metric!r} in these runs; there are: {', '.join(sorted(measured))}")
    with_metric = bool(measured)
    figure, axes = new_figure(5 * (1 + with_metric), 3.2, 1 + with_metric)
    for (label, run), (colour, dash, _) in zip(runs.items(), cycle(CURVES), strict=False):
        history = run.history
        steps = history["index"] + 1
        axes[0].plot(steps, history["loss"], color=colour, alpha=0.3, linewidth=1)
        mean = history["loss"].rolling(smooth, min_periods=1).mean()
        axes[0].plot(steps, mean, color=colour, linestyle=dash, label=label)
    axes[0].set(title=f"Training loss (mean of {smooth} steps)", xlabel="step", ylabel="loss")
    axes[0].set_ylim(bottom=min([0, *(step.loss for run in runs.values() for step in run.steps)]))
    if with_metric:
        _validation(axes[1], runs, metric)
        axes[1].set(title=f"Validation {metric}", xlabel="step", ylabel=metric, xlim=axes[0].get_xlim())
    if len(runs) > 1:
        axes[-1].legend(loc="best", frameon=False)
    return figure


def _validation(ax: "Axes", runs: "Mapping[str, Run]", metric: str) -> None:
    axis = MetricAxis.of(runs.values(), metric)
    for (label, run), (colour, dash, marker) in zip(runs.items(), cycle(CURVES), strict=False):
        points = [(step.index + 1, step.metrics[metric]) for step in run.steps if metric in step.metrics]
        steps, values = zip(*points, strict=True) if points else ((), ())
        joined = dash if len(points) >= JOINED else "none"
        ax.plot(steps, values, color=colour, linestyle=joined, marker=marker, label=label)
        if errors := [axis.standard_error(value) for value in values if axis.texts]:
            ax.errorbar(steps, values, errors, fmt="none", ecolor=colour, elinewidth=1, capsize=3)
    if axis.unlearnt is not None:
        ax.axhline(axis.unlearnt, color=INK, linestyle=":", linewidth=1)
        ax.annotate("the commonest class, always", (0, axis.unlearnt), xycoords=("axes fraction", "data"),
                    xytext=(3, 3), textcoords="offset points", fontsize=8)  # fmt: skip
    ax.set_ylim(*axis.limits(ax.get_ylim()))


def plot_comparison(
    table: "pd.DataFrame",  # of `compare` or `load_results`
    metric: str = "accuracy",
) -> "Picture":
    """The metric of each method: a dot a seed, a line from lowest to highest, a tick at the mean.

    Where a few methods lie so far off that they would squeeze the others, they stand at the edge with their mean in
    words, and the title says so.
    """
    if metric not in table.columns:
        raise ValueError(f"no metric {metric!r} in the table; its columns are {', '.join(table.columns)}")
    by_method = {name: table.loc[table["method"] == name, metric] for name in dict.fromkeys(table["method"])}
    off = outliers({name: values.mean() for name, values in by_method.items()})
    seeds = table["seed"].nunique()
    figure, (ax,) = new_figure(6, 0.9 + 0.45 * len(by_method) + 0.25 * bool(off))
    for y, (name, values) in enumerate(by_method.items()):
        if name in off:
            _at_the_edge(ax, y, values.mean(), left=off[name] < 0)
            continue
        ax.hlines(y, values.min(), values.max(), color=COLOURS[0], linewidth=1)
        ax.plot(values, np.full(len(values), y), "o", color=COLOURS[0], markerfacecolor="none", markersize=6)
        ax.plot(values.mean(), y, "|", color=COLOURS[1], markersize=16, markeredgewidth=2.5)
    title = f"{metric}: a dot for each of {seeds} seeds, a bar at the mean"
    note = f"\n{', '.join(off)}: beyond the axis, see the number" if off else ""
    figure.suptitle(title + note)  # wider than the axes
    figure.alt = f"{metric}, mean of {seeds} seeds, lowest to highest: " + "; ".join(
        f"{name} {v.mean():.3g}, {v.min():.3g} to {v.max():.3g}" for name, v in by_method.items()
    ) + "."  # fmt: skip
    ax.set(xlabel=metric)
    ax.locator_params("x", nbins=6)
    ax.set_yticks(range(len(by_method)), list(by_method))
    ax.set_ylim(len(by_method) - 0.4, -0.6)
    return figure


def _at_the_edge(ax: "Axes", y: int, mean: float, left: bool) -> None:
    "Keeps the row, and names a mean that lies beyond the axis."
    edge, words = (0.0, f"\N{LEFTWARDS ARROW} {mean:.3f}") if left else (1.0, f"{mean:.3f} \N{RIGHTWARDS ARROW}")
    ax.annotate(words, (edge, y), xycoords=("axes fraction", "data"), xytext=(4 if left else -4, 0),
                textcoords="offset points", ha="left" if left else "right", va="center", color=COLOURS[1])  # fmt: skip


def plot_confusion(
    labels: Sequence[int],
    predictions: Sequence[int],
    names: Sequence[str],  # of the classes
) -> "Picture":
    "The confusion matrix: what each true class was taken for, as counts and as shares of the row."
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predictions, labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.8 * len(names)
    figure, (ax,) = new_figure(size, size)
    ax.grid(False)
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = text_on(image.to_rgba(shares)[row, column])
        text = f"{count}\n{shares[row, column]:.0%}"
        ax.text(column, row, text, ha="center", va="center", color=colour)
    ax.set_xticks(range(len(names)), names, rotation=45 if len(names) > 3 else 0)
    ax.set_yticks(range(len(names)), names)
    ax.set(title="Confusion matrix", xlabel="predicted", ylabel="true")
    figure.alt = "Confusion matrix. " + " ".join(
        f"Of {sum(row)} {name}: {', '.join(f'{n} taken for {taken}' for n, taken in zip(row, names, strict=True))}."
        for name, row in zip(names, counts, strict=True)
    )
    return figure


def plot_calibration(
    confidence: "Mapping[str, Sequence[float]]",  # label -> the probability of each prediction
    correct: Sequence[bool],  # whether the prediction was right
    bins: int = 10,
) -> "Picture":
    "Accuracy against confidence: on the diagonal, what is 80% sure is right 8 times in 10."
    figure, (ax,) = new_figure(4.6, 4)
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, label="perfect")
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
