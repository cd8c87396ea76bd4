"""A run whose steps another iterator takes, where a run is asked for."""

from collections.abc import Callable, Iterator

from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.steps import Step


class Guided(Run):
    """The run, gone through by another iterator: early stopping or gradual unfreezing for `compare`, `finish`, a panel.

    Both are one: what is asked of this one, or set, is asked of the run.
    """

    __slots__ = ("_guide", "_run")

    def __init__(
        self,
        run: Run,
        guide: Callable[[Run], Iterator[Step]],  # guide(run) -> its steps, such as `early_stopping`; goes by run.index
    ):
        self.__dict__ = vars(run)
        self._run, self._guide = run, guide

    def __iter__(self) -> Iterator[Step]:
        return self._guide(self._run)

    def __next__(self) -> Step:
        return next(iter(self))


__all__ = ["Guided"]
