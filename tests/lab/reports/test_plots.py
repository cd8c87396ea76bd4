"""Figures say what they show, and draw."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from matplotlib.figure import Figure
from tiny import tiny_model, tiny_run, tiny_tokens

from finetune_lessons.lab.figures.palette import contrast
from finetune_lessons.lab.reports.plots import plot_calibration, plot_comparison, plot_confusion, plot_runs

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(figure: Figure) -> Figure:
    "The same figure, once it was drawn as a PNG."
    assert isinstance(figure, Figure)
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        assert file.getvalue().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")
    for ax in figure.axes:
        assert (ax.get_title() or figure.get_suptitle()) and ax.get_xlabel()
    return figure


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.fixture(scope="module")
def run():
    torch.set_num_threads(1)
    finished = tiny_run(eval_every=None)
    for _ in finished:
        pass
    return finished


def test_one_run_shows_its_loss_and_its_metric(run):
    loss, accuracy = drawn(plot_runs(run)).axes
    raw, smooth = loss.lines
    assert raw.get_ydata().tolist() == run.history["loss"].tolist() and raw.get_xdata().tolist() == list(range(1, 17))
    assert smooth.get_ydata()[-1] == pytest.approx(run.history["loss"][-10:].mean())
    assert accuracy.lines[0].get_ydata().tolist() == [step.metrics["accuracy"] for step in run.steps if step.metrics]
    assert accuracy.lines[0].get_xdata().tolist() == [8, 16]
    assert loss.get_title() == "Training loss (mean of 10 steps)" and loss.get_ylabel() == "loss"
    assert accuracy.get_ylabel() == "accuracy" and loss.get_legend() is None


def test_two_validations_are_two_dots_with_their_error_above_what_needs_no_learning(run):
    _, ax = drawn(plot_runs(run)).axes
    dots, chance = ax.lines[0], ax.lines[-1]
    assert dots.get_linestyle() == "None" and dots.get_marker() == "o"
    assert chance.get_ydata() == [0.5, 0.5]
    assert [text.get_text() for text in ax.texts] == ["the commonest class, always"]
    assert 0.45 < ax.get_ylim()[0] < 0.49 and ax.get_ylim()[1] == pytest.approx(1.02)
    (bars,) = ax.collections
    for (low, high), accuracy in zip(bars.get_segments(), dots.get_ydata(), strict=True):
        assert high[1] - accuracy == pytest.approx(accuracy - low[1]) == pytest.approx(
            (accuracy * (1 - accuracy) / 16) ** 0.5  # 16 validation texts
        )  # fmt: skip


def test_three_validations_are_a_line_and_a_worse_than_chance_one_is_in_the_picture():
    run = tiny_run(eval_every=3)
    for step in run:
        step.metrics.update(accuracy=0.25)
    _, ax = drawn(plot_runs(run)).axes
    assert len(ax.lines[0].get_ydata()) > 2 and ax.lines[0].get_linestyle() == "-"
    assert ax.get_ylim()[0] < 0.25 - (0.25 * 0.75 / 16) ** 0.5


def test_the_axis_of_a_metric_begins_where_it_means_something(run):
    _, share = drawn(plot_runs(run, "f1")).axes
    assert share.get_ylim() == pytest.approx((0, 1.02)) and not share.collections and not share.texts
    _, loss = drawn(plot_runs(run, "loss")).axes
    assert loss.get_ylim()[0] == 0 and loss.get_ylim()[1] > max(step.metrics["loss"] for step in run.steps[7::8])


def test_what_needs_no_learning_is_the_share_of_the_commonest_class_among_labelled_texts():
    data = DatasetDict(tiny_tokens())
    labels = [0] * 6 + [1] * 2 + [-100] * 8
    data["validation"] = data["validation"].remove_columns("label").add_column("label", labels)
    run = tiny_run(data=data, epochs=1, eval_every=None).finish()
    _, ax = drawn(plot_runs(run)).axes
    assert ax.lines[-1].get_ydata() == [0.75, 0.75]
    both = {"these": run, "others": tiny_run(epochs=1, eval_every=None).finish()}
    _, ax = drawn(plot_runs(both)).axes
    assert not ax.texts and ax.get_ylim()[0] <= 0, "two validation splits have no level in common"


def test_several_runs_have_a_legend_and_each_its_curve(run):
    runs = {f"run {i}": run for i in range(9)}
    loss, accuracy = drawn(plot_runs(runs, metric="f1", smooth=1)).axes
    assert legend(accuracy) == list(runs) and accuracy.get_title() == "Validation f1"
    assert len(loss.lines) == 18 and len(accuracy.lines) == 9
    assert len({(line.get_color(), line.get_linestyle()) for line in loss.lines[1::2]}) == 7


def test_runs_without_evaluation_show_the_loss_alone(run):
    started = tiny_run(tiny_model("bert"))
    (loss,) = drawn(plot_runs({"not begun": started, "a": tiny_run()})).axes
    assert legend(loss) == ["not begun", "a"]
    next(started)
    assert len(drawn(plot_runs({"with": run, "without": started})).axes) == 2


def test_a_negative_loss_is_in_the_picture():
    run = tiny_run(loss=lambda model, batch: model.classifier.bias.sum() - 3, epochs=1)
    for _ in run:
        pass
    (loss,) = drawn(plot_runs(run)).axes
    assert loss.get_ylim()[0] <= min(run.history["loss"]) < 0


def test_an_unknown_metric_is_refused(run):
    with pytest.raises(ValueError, match="no metric 'acuracy' in these runs; there are: accuracy, f1, loss"):
        plot_runs(run, metric="acuracy")
    table = pd.DataFrame({"method": ["a"], "seed": [0], "f1": [1.0]})
    with pytest.raises(ValueError, match="no metric 'accuracy' in the table; its columns are method, seed, f1"):
        plot_comparison(table)


def test_comparison_has_a_dot_for_each_seed_and_a_bar_at_the_mean():
    table = pd.DataFrame({"method": ["a", "b", "a", "b"], "seed": [0, 0, 1, 1], "f1": [0.5, 0.7, 0.6, 0.9]})
    figure = drawn(plot_comparison(table, "f1"))
    (ax,) = figure.axes
    dots, bars = ax.lines[::2], ax.lines[1::2]
    assert [line.get_xdata().tolist() for line in dots] == [[0.5, 0.6], [0.7, 0.9]]
    assert [float(line.get_xdata()[0]) for line in bars] == pytest.approx([0.55, 0.8])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "f1" and "2 seeds" in figure.get_suptitle()


def comparison(**means: float):
    rows = [(name, seed, mean + 0.001 * (seed - 1)) for name, mean in means.items() for seed in range(3)]
    figure = drawn(plot_comparison(pd.DataFrame(rows, columns=["method", "seed", "accuracy"])))
    return figure, figure.axes[0]


def test_one_method_far_off_does_not_squeeze_the_others():
    figure, ax = comparison(full=0.84, probe=0.66, lora=0.83, adapters=0.835)
    low, high = ax.get_xlim()
    assert 0.82 < low < 0.829 and 0.841 < high < 0.85
    assert [text.get_text() for text in ax.texts] == ["\N{LEFTWARDS ARROW} 0.660"] and ax.texts[0].xy == (0, 1)
    assert "probe: beyond the axis, see the number" in figure.get_suptitle()
    assert len(ax.get_yticklabels()) == 4 and ax.get_ylim() == pytest.approx((3.6, -0.6))
    assert "probe 0.66, 0.659 to 0.661" in figure._repr_mimebundle_()[1]["image/png"]["alt"]


@pytest.mark.parametrize(
    "means",
    [{"a": 0.6, "b": 0.8}, {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8}, {"a": 0.6, "b": 0.61, "c": 0.8, "d": 0.81}],
    ids=["two", "evenly", "two groups"],
)
def test_methods_that_differ_share_one_axis(means):
    figure, ax = comparison(**means)
    assert not ax.texts and "beyond" not in figure.get_suptitle()
    assert ax.get_xlim()[0] < min(means.values()) and ax.get_xlim()[1] > max(means.values())


def test_the_title_of_a_comparison_fits_beside_long_names():
    table = pd.DataFrame({"method": ["prefix, 20 tokens, from a text"] * 2, "seed": [0, 1], "accuracy": [0.7, 0.8]})
    figure = drawn(plot_comparison(table))
    (title,) = [text for text in figure.texts if text.get_text() == figure.get_suptitle()]
    box = title.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def cell(ax, text):
    column, row = (int(x) for x in text.get_position())
    return ax.images[0].to_rgba(ax.images[0].get_array())[row, column]


def test_confusion_counts_and_shares():
    (ax,) = drawn(plot_confusion([0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], ["bad", "good", "never"])).axes
    texts = {tuple(int(x) for x in text.get_position()): text.get_text() for text in ax.texts}
    # positions are (predicted, true)
    assert texts[0, 0] == "1\n33%" and texts[1, 0] == "2\n67%" and texts[0, 1] == "0\n0%" and texts[1, 1] == "3\n100%"
    assert texts[2, 2] == "0\n0%" and len(texts) == 9
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["bad", "good", "never"]
    assert all(contrast(text.get_color(), cell(ax, text)) > 4.5 for text in ax.texts)
    assert np.asarray(ax.images[0].get_array())[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_calibration_is_accuracy_against_confidence():
    confidence = {"raw": [0.95, 0.95, 0.55, 1.0], "calm": [0.7, 0.7, 0.6, 0.7]}
    (ax,) = drawn(plot_calibration(confidence, [True, False, False, True])).axes
    assert legend(ax) == ["perfect", "raw", "calm"]
    _, raw, calm = ax.lines
    assert raw.get_xdata() == pytest.approx([0.55, 2.9 / 3]) and raw.get_ydata() == pytest.approx([0, 2 / 3])
    assert calm.get_xdata() == pytest.approx([0.6, 0.7]) and calm.get_ydata() == pytest.approx([0, 2 / 3])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence", "accuracy")
