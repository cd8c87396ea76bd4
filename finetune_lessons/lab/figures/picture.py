"""A figure that a notebook shows when it is a cell's last value: without a background, and with words for it."""

import io
from typing import Any

from matplotlib.artist import Artist
from matplotlib.collections import Collection, QuadMesh
from matplotlib.colors import to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from finetune_lessons.lab.figures.alt_text import describe
from finetune_lessons.lab.figures.palette import INK, is_grey


class Picture(Figure):
    """A figure whose background is the page's, white or dark: all that is grey, black or white is drawn in INK.

    Words on a heat map keep their colour, since they stand on that of a cell. `alt` is what a screen reader says;
    empty, it is made of what is drawn.
    """

    alt = ""

    def draw(self, renderer: Any) -> None:
        _read_on_any_page(self)
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        with io.BytesIO() as file:
            self.savefig(file, format="png")
            return file.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"image/png": self._repr_png_(), "text/plain": repr(self)}
        return data, {"image/png": {"alt": self.alt or describe(self)}}


def _read_on_any_page(figure: Figure) -> None:
    figure.patch.set_facecolor("none")
    kept: set[Artist] = set()
    for ax in figure.axes:
        ax.patch.set_facecolor("none")
        ax.tick_params(which="both", color=INK, labelcolor=INK)
        for spine in ax.spines.values():
            spine.set_edgecolor(INK)
        if ax.images or any(isinstance(drawn, QuadMesh) for drawn in ax.collections):
            kept |= set(ax.texts)
    for artist in figure.findobj(lambda artist: artist not in kept):
        _in_ink(artist)


def _in_ink(artist: Artist) -> None:
    if isinstance(artist, Legend):
        artist.get_frame().set(facecolor="none", edgecolor=INK)
    elif isinstance(artist, (Line2D, Text)):
        artist.set_color(_inked(artist.get_color()))
        if arrow := getattr(artist, "arrow_patch", None):  # of an annotation
            _in_ink(arrow)
    elif isinstance(artist, FancyArrowPatch):
        artist.set_color(_inked(artist.get_edgecolor()))
    elif isinstance(artist, Collection) and artist.get_array() is None:
        artist.set_edgecolor([_inked(colour) for colour in to_rgba_array(artist.get_edgecolor())])
        artist.set_facecolor([_inked(colour) for colour in to_rgba_array(artist.get_facecolor())])


def _inked(colour: Any) -> Any:
    return to_rgba(INK, to_rgba(colour)[3]) if is_grey(colour) else colour
