"""Turn knobs on a function that is quick to compute, and see its result at once."""

import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets

from finetune_lessons.lab.panel.bars import Axes
from finetune_lessons.lab.panel.errors import explain, settings
from finetune_lessons.lab.panel.frame import framed, side_by_side
from finetune_lessons.lab.panel.knobs import Knobs, refuse_taken_names
from finetune_lessons.lab.panel.pictures import picture, still, words_for
from finetune_lessons.lab.panel.view import failure


def explore(
    function: Callable[..., Any],
    *,
    xlabel: str = "x",  # of a result that is drawn as lines
    hide: Iterable[str] = (),
    lock: Iterable[str] = (),
    help: Mapping[str, str] | None = None,  # explanations by knob, in place of the built-in ones
    **knobs: Any,  # as for `Panel`
) -> "Explorer":
    """Show `function(**values)`, drawn again whenever a knob moves.

    A dict of numbers is drawn as bars, a dict of sequences (of y, or a pair of x and y) as lines; names that end in
    different units behind a comma ("loss, nats") get an axis for each unit. A matrix is drawn as a map of colours; a
    matplotlib figure, or anything else that notebooks can show, as it is.
    """
    refuse_taken_names(function, {"hide": hide, "lock": lock, "help": help, "xlabel": xlabel != "x"})
    return Explorer(function, Knobs(function, knobs, explanations=help, hide=hide, lock=lock), xlabel)


class Explorer:
    "The knobs and the picture of one function."

    def __init__(self, function: Callable[..., Any], knobs: Knobs, xlabel: str):
        self.function, self.knobs, self.xlabel = function, knobs, xlabel
        self.result: Any = None
        self._picture, self._axes = widgets.HTML(), Axes()
        self.widget = framed([side_by_side([knobs.box()], [self._picture])])
        knobs.observe(self._draw)
        self._draw()

    @property
    def values(self) -> dict[str, Any]:
        return self.knobs.values

    def set(self, **values: Any) -> None:
        self.knobs.set(**values)

    def _draw(self) -> None:
        values, during = self.values, "computing the result"
        self.result, self._drawn = None, False
        try:
            self.result = self.function(**values)
            during = "drawing the result"
            self._picture.value = picture(self.result, self.xlabel, self._axes)
            self._drawn = True
        except Exception as error:
            said = explain(error, during, values, self.knobs.moved(values))
            self._picture.value = failure(said, "".join(traceback.format_exception(error)))

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        shown = still(self.result, self.xlabel, self._axes) if self._drawn else {}
        said = [repr(self), words_for(self.result) if shown else ""]
        data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": repr(self), **shown}
        return data, {kind: {"alt": "\n".join(filter(None, said))} for kind in shown}

    def __repr__(self) -> str:
        return f"explore {getattr(self.function, '__name__', '')}: {settings(self.values)}"


__all__ = ["explore"]
