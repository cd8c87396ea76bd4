"""Figures read on white and on dark pages, and have words for those who do not see them."""

import io
import json

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.lines import Line2D
from matplotlib.text import Text
from nbconvert import HTMLExporter
from PIL import Image

from finetune_lessons.lab.figures.alt_text import LONGEST
from finetune_lessons.lab.figures.palette import COLOURS, INK, STYLES, contrast, text_on
from finetune_lessons.lab.notebooks.executing import execute, save
from finetune_lessons.lab.reports.plots import new_figure

WHITE, LAB, GITHUB, EDITOR = "#ffffff", "#111111", "#0d1117", "#1e1e1e"  # the dark ones: JupyterLab, GitHub, an editor


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())))


def alt(figure) -> str:
    data, metadata = figure._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    return metadata["image/png"]["alt"]


def curves():
    "As lessons draw them, with the colours that a lesson may give by hand."
    figure, (ax,) = new_figure()
    for (colour, dash), k in zip(STYLES, range(7), strict=True):
        ax.plot([0, 1, 2], [k, k + 2, k + 1], color=colour, linestyle=dash, label=f"curve {k}")
    ax.axhline(1, color="0.6")
    ax.axvline(1, color="black")
    ax.annotate("here", (1, 1), color="#000000", xytext=(2, 2), arrowprops={"arrowstyle": "->"})
    ax.text(0, 0, "there")
    ax.quiver(0, 0, 1, 1, color="#000000")
    ax.bar_label(ax.bar([0, 1], [2, 3], color=COLOURS[0]))
    ax.set(title="Seven curves", xlabel="step", ylabel="loss, nats")
    ax.legend()
    figure.suptitle("All of them")
    return figure


def test_contrast_is_that_of_wcag():
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
    assert contrast("#ff0000", "#0000ff") == contrast("#0000ff", "#ff0000") == pytest.approx(2.15, abs=0.005)


@pytest.mark.parametrize("page", [WHITE, LAB, GITHUB, EDITOR])
def test_every_colour_reads_on_every_page(page):
    highest_on_both = contrast(WHITE, page) ** 0.5 if page != WHITE else 4.35
    assert contrast(INK, page) > min(4.3, 0.93 * highest_on_both)
    assert min(contrast(colour, page) for colour in COLOURS) > 3


@pytest.mark.parametrize("page", [WHITE, LAB, GITHUB])
def test_all_that_is_drawn_reads_on_every_page(page):
    figure = curves()
    assert len(pixels(figure))
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert {"All of them", "Seven curves", "loss, nats", "here", "there", "curve 6", "3", "1.0"} <= {
        text.get_text().replace("\N{MINUS SIGN}", "-") for text in texts
    }
    assert min(contrast(text.get_color(), page) for text in texts) > 4.3
    (ax,) = figure.axes
    assert min(contrast(line.get_color(), page) for line in figure.findobj(Line2D)) > 3
    assert min(contrast(spine.get_edgecolor(), page) for spine in ax.spines.values()) > 3
    arrows, legend = ax.collections[0], ax.get_legend().get_frame()
    assert contrast(arrows.get_facecolor()[0], page) > 3 and legend.get_facecolor()[3] == 0


def test_the_page_is_seen_through_a_figure():
    image = pixels(curves())
    assert image.shape[2] == 4 and image[0, 0, 3] == 0
    seen = (image[..., 3] == 0).mean()
    assert seen > 0.5
    solid = image[image[..., 3] == 255][:, :3]
    assert not ((solid > 250).all(1) | (solid < 5).all(1)).any(), "no white, no black"


def test_words_in_a_heat_map_keep_the_colour_that_reads_on_their_cell():
    values = np.array([[0.0, 0.4], [0.6, 1.0]])
    figure, (ax,) = new_figure()
    image = ax.imshow(values, cmap="cividis")
    for (row, column), value in np.ndenumerate(values):
        cell = image.to_rgba(values)[row, column]
        ax.text(column, row, f"{value}", color=text_on(cell))
        assert contrast(text_on(cell), cell) > 4.5
    figure.colorbar(image, ax=ax, label="share")
    assert len(pixels(figure))
    assert [text.get_color() for text in ax.texts] == ["white", "white", "black", "black"]
    assert contrast(figure.axes[1].yaxis.label.get_color(), INK) == pytest.approx(1)


def test_the_words_for_a_figure_say_what_its_curves_do():
    figure, axes = new_figure(columns=2)
    axes[0].plot([1, 2, 3, 4], [2, 3, 0.5, 1], label="full")
    axes[0].plot([1, 4], [0.25, 0.125], label="LoRA")
    axes[0].plot([1, 4], [7, 7], alpha=0.2)
    axes[0].axhline(5)
    axes[0].set(title="Loss", xlabel="step", ylabel="loss, nats")
    axes[1].bar(["head", "layer 1"], [1200, 0.5])
    axes[1].set(title="Parameters", ylabel="thousands")
    figure.suptitle("Two methods")
    assert alt(figure) == (
        "Two methods. Loss (x: step, y: loss, nats): "
        "full from 2 at 1 to 1 at 4, lowest 0.5 at 3, highest 3 at 2; LoRA from 0.25 at 1 to 0.125 at 4. "
        "Parameters (y: thousands): bars: head 1,200, layer 1 0.5."
    )


def test_the_words_for_a_map_say_where_it_is_lowest_and_highest():
    figure, (ax,) = new_figure()
    image = ax.imshow([[1, 2, 3], [4, 5, -6]])
    ax.set_xticks(range(3), ["a", "b", "c"])
    ax.set(title="Attention", xlabel="token", ylabel="layer")
    figure.colorbar(image, ax=ax)
    said = "Attention (x: token, y: layer): a map of 2 by 3 values, from -6 at 1 and c to 5 at 1 and b."
    assert alt(figure) == said


def test_words_can_be_given_and_are_never_too_many():
    figure, (ax,) = new_figure(alt="A wave.")
    assert alt(figure) == "A wave."
    figure.alt = ""
    ax.barh([f"a group with a rather long name, the {i}th" for i in range(40)], range(40))
    assert "40 bars, the longest a group with a rather long name, the 39th 39," in alt(figure)
    ax.set_title("a very long title " * 100)
    assert 500 < len(alt(figure)) <= LONGEST and alt(figure).endswith(" ...")
    assert alt(new_figure()[0]) == "A chart."


def test_a_notebook_keeps_the_words_and_its_page_says_them(tmp_path):
    pytest.importorskip("nbdev")
    path = tmp_path / "a.ipynb"
    cell = 'from finetune_lessons.lab import new_figure\nfigure, _ = new_figure(alt="A \\"wave\\" & a line.")\nfigure'
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), path)
    save(execute(path, "smoke"), path)
    (output,) = json.loads(path.read_text())["cells"][0]["outputs"]
    assert output["metadata"] == {"image/png": {"alt": 'A "wave" & a line.'}}
    page, _ = HTMLExporter(template_name="classic").from_filename(path)
    assert [image["alt"] for image in BeautifulSoup(page, "html.parser").find_all("img")] == ['A "wave" & a line.']


def test_a_picture_without_words_is_saved_with_those_of_its_text(tmp_path):
    pytest.importorskip("nbdev")
    data = {"text/plain": "Panel: lr=0.1\nrun 1: done after 8 steps", "image/png": "iVBORw0KGgo="}
    given = {"image/png": {"alt": "A wave."}}
    shown = [
        nbformat.v4.new_output("display_data", dict(data)),
        nbformat.v4.new_output("display_data", dict(data), metadata=given),
    ]
    path = tmp_path / "a.ipynb"
    save(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=shown)]), path)
    saved = json.loads(path.read_text())["cells"][0]["outputs"]
    assert [output["metadata"]["image/png"]["alt"] for output in saved] == [data["text/plain"], "A wave."]
