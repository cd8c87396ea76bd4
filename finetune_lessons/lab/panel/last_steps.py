"""Where the runs of a panel ended, in files: a run can go on from there when its memory is long given back."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOM = 1e9  # bytes; the oldest files make room


class LastSteps:
    "Weights, optimizer and random numbers after the last step of each run that can be saved, the newest gigabyte."

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="panel-", ignore_cleanup_errors=True)
        self._why_not: dict[int, str] = {}

    def keep(self, number: int, run: Any) -> None:
        "What cannot be kept is remembered with the reason, for who asks for it."
        if not hasattr(run, "save") or not getattr(run, "index", 0):
            self._why_not[number] = "it is no Run, or it has taken no step"
            return
        try:
            run.save(self._file(number))
        except (OSError, ValueError) as error:
            self._why_not[number] = str(error)
            return
        self._make_room()

    def forget(self, number: int) -> None:
        self._file(number).unlink(missing_ok=True)

    def go_on(self, number: int, run: Any) -> None:
        """Bring a run that was just made, with its own settings, to where run `number` ended.

        Where that has no steps left, as many epochs again follow. ValueError where it does not fit, or is not kept.
        """
        from finetune_lessons.lab.training.checkpoint import load_run
        from finetune_lessons.lab.training.run_files import newest_whole

        if not self._file(number).exists():
            raise ValueError(
                f"the last step of run {number} is not kept: {self._why_not[number]}. Begin from the start instead"
            )
        config, groups = dict(run.config), [dict(group) for group in run.optimizer.param_groups]
        try:
            load_run(run, *newest_whole(self._file(number)))
        except ValueError as error:
            said = str(error).replace(str(self._file(number)), f"run {number}")
            raise ValueError(f"it cannot go on from run {number}: {said}. Begin from the start instead") from error
        run.config.update(config)
        for group, own in zip(run.optimizer.param_groups, groups, strict=True):
            group.update({key: value for key, value in own.items() if key != "params"})
        if run.done:
            run.extend(run.config["epochs"], say=False)

    def _make_room(self) -> None:
        files = sorted(self._files(), key=lambda file: int(file.stem))
        while len(files) > 1 and sum(file.stat().st_size for file in files) > ROOM:
            oldest = files.pop(0)
            oldest.unlink()
            self._why_not[int(oldest.stem)] = f"only the newest {ROOM / 1e9:g} GB of them are"

    def _files(self) -> list[Path]:
        return list(Path(self._folder.name).glob("*.safetensors"))

    def _file(self, number: int) -> Path:
        return Path(self._folder.name) / f"{number}.safetensors"
