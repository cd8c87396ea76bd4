"""How the widgets of a panel or an explorer are laid out."""

from collections.abc import Sequence

import ipywidgets as widgets

from finetune_lessons.lab.panel.controls import classed
from finetune_lessons.lab.panel.style import STYLE


def framed(children: Sequence[widgets.Widget]) -> widgets.Widget:
    "One below the other, in a frame that has the style sheet."
    return classed(widgets.VBox([widgets.HTML(STYLE, layout={"display": "none"}), *children]), "ftl-panel")


def side_by_side(left: Sequence[widgets.Widget], right: Sequence[widgets.Widget]) -> widgets.Widget:
    "Controls beside what they change, where the page is wide enough; else above it."
    return classed(widgets.Box([widgets.VBox(list(left)), widgets.VBox(list(right))]), "ftl-sides")


def in_a_row(*children: widgets.Widget) -> widgets.Widget:
    return classed(widgets.Box(children), "ftl-row")
