"""Lessons as notebooks: found by number or name, executed without a front end, saved clean."""

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.notebooks.scale import VARIABLE

if TYPE_CHECKING:
    from nbformat import NotebookNode

RESULTS_MARK = "#| results"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class CellFailed(RuntimeError):
    """A cell raised: the message holds its number, heading, source and the error in one line."""


def lessons() -> list[Path]:
    """The notebooks of all lessons, in the order of their numbers; empty where there is no source checkout."""
    return sorted(_notebook_folder().glob("*/[0-9][0-9]_*.ipynb"), key=lambda path: path.name)


def _notebook_folder() -> Path:
    beside_package = Path(__file__).parents[3] / "nbs"
    return beside_package if beside_package.is_dir() else Path("nbs").resolve()


def find_lesson(
    lesson: str,  # a number ("11"), a name ("cross_entropy") or the path of a notebook
) -> Path:
    """The notebook that `lesson` means; a ValueError that lists the lessons when it means none."""
    if lesson.endswith(".ipynb") and Path(lesson).is_file():
        return Path(lesson).resolve()
    known = lessons()
    for path in known:
        if lesson in (path.stem, *path.stem.split("_", 1)):
            return path
    if not known:
        raise ValueError(
            "no lessons here: the installed package holds only their code; clone the repository and run this inside it"
        )
    listed = "\n".join(f"  {path.stem.replace('_', '  ', 1)}" for path in known)
    raise ValueError(f"unknown lesson {lesson!r}; give a number, a name, or the path of a notebook:\n{listed}")


def check_installed(
    *packages: str,  # that the installed package can do without
) -> None:
    "Raises ValueError for those that are missing."
    if missing := " ".join(name for name in packages if find_spec(name) is None):
        raise ValueError(f"this needs what is not installed here: pip install {missing}")


def execute(
    path: Path,
    scale: str | None = None,  # "smoke", "lesson" or "full"; None leaves it to the environment
    around: tuple[str, str] | None = None,  # code of a cell more at the start, and of one at the end
) -> "NotebookNode":
    """Run every cell in a fresh kernel of this interpreter, in the notebook's folder, with a progress bar.

    Raises CellFailed at the first cell that fails, KeyboardInterrupt after Ctrl-C; the kernel is stopped either way.
    """
    check_installed("nbformat", "nbclient", "ipykernel")
    import nbformat
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    if around:
        first, last = map(nbformat.v4.new_code_cell, around)
        notebook.cells = [first, *notebook.cells, last]
    environment = dict(os.environ) if scale is None else {**os.environ, VARIABLE: scale}
    interrupt = _Interrupt()
    with _Progress(notebook) as progress:
        client = _client(notebook, path.resolve().parent, progress, interrupt)
        try:
            client.execute(env=environment, cleanup_kc=True)
        except CellExecutionError as error:
            raise CellFailed(progress.failure(f"{error.ename}: {error.evalue}")) from None
        except (DeadKernelError, asyncio.CancelledError):
            if interrupt.pressed:
                raise KeyboardInterrupt from None
            raise CellFailed(progress.failure("The kernel died; did it run out of memory?")) from None
    return notebook


def _client(notebook: "NotebookNode", folder: Path, progress: "_Progress", interrupt: "_Interrupt") -> Any:
    from nbclient import NotebookClient

    return NotebookClient(
        notebook,
        km=_kernel_manager(),
        resources={"metadata": {"path": str(folder)}},
        timeout=None,
        coalesce_streams=True,
        record_timing=False,
        shutdown_kernel="immediate",
        on_notebook_start=interrupt.watch,
        on_cell_start=progress.start,
        on_cell_executed=progress.executed,
    )


def _kernel_manager() -> Any:
    """A manager whose kernel is this interpreter, whatever kernels are installed for the user."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager

    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    if manager.has_trait("transport_encryption"):
        manager.transport_encryption = "auto"
    return manager


class _Interrupt:
    """Ctrl-C cancels the run in an orderly way; nbclient's own handler would end it in a failed assertion."""

    pressed = False

    def watch(self, notebook: "NotebookNode") -> None:
        with suppress(RuntimeError):  # outside the main thread, where no signal arrives
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._press, asyncio.current_task())

    def _press(self, run: asyncio.Task | None) -> None:
        self.pressed = True
        if run:
            run.cancel()


class _Progress:
    """A bar over the code cells that names the heading under way."""

    def __init__(self, notebook: "NotebookNode"):
        from tqdm import tqdm

        self.total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
        self.heading = ""
        self.bar = tqdm(total=self.total, bar_format="cell {n_fmt} of {total_fmt} [{elapsed}] {desc}")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, cell: "NotebookNode", cell_index: int) -> None:
        self.source = cell.source
        if heading := _heading(cell):
            self.heading = heading
            self.bar.set_description_str(heading)

    def executed(self, cell: "NotebookNode", cell_index: int, execute_reply: Any) -> None:
        self.bar.update(execute_reply["content"]["status"] == "ok")

    def failure(self, reason: str) -> str:
        where = f"cell {self.bar.n + 1} of {self.total}" + (f", under {self.heading!r}" if self.heading else "")
        return f"{where}, failed:\n\n{indent(self.source, '    ')}\n\n{reason}"


def _heading(cell: "NotebookNode") -> str | None:
    """The last heading in a markdown cell."""
    if cell.cell_type != "markdown":
        return None
    headings = re.findall(r"^#+ +(.+?) *$", cell.source, flags=re.MULTILINE)
    return headings[-1] if headings else None


def results(notebook: "NotebookNode") -> Iterator[tuple[str, str]]:
    """Heading and printed text of each cell that starts with `#| results`."""
    heading = ""
    for cell in notebook.cells:
        heading = _heading(cell) or heading
        if cell.cell_type == "code" and cell.source.startswith(RESULTS_MARK):
            yield heading, "\n".join(filter(None, map(_text, cell.outputs)))


def _text(output: "NotebookNode") -> str:
    if output.output_type == "stream":
        return output.text.rstrip() if output.name == "stdout" else ""
    data = output.get("data", {})
    pictured = WIDGET_VIEW in data or any(mime.startswith("image/") for mime in data)
    pictured = pictured or data.get("text/plain", "").startswith("<IPython.")
    return "" if pictured else data.get("text/plain", "")


def save(notebook: "NotebookNode", path: Path) -> None:
    """Write an executed notebook so that it reads well on GitHub and runs again without a difference in its frame.

    Widgets keep their static picture and lose their view, a picture without words gets those of its text, local paths
    are shortened, and nbdev cleans the rest.
    """
    import nbformat
    from nbdev.clean import nbdev_clean

    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_portable(output) for output in cell.outputs if not _only_a_widget(output)]
    nbformat.write(notebook, path)
    nbdev_clean(str(path))


def _only_a_widget(output: "NotebookNode") -> bool:
    return WIDGET_VIEW in output.get("data", {}) and not set(output.data) - {WIDGET_VIEW, "text/plain"}


def _portable(output: "NotebookNode") -> "NotebookNode":
    if output.output_type == "stream":
        output.text = _without_local_paths(output.text)
    for mime, value in list(output.get("data", {}).items()):
        if mime == WIDGET_VIEW:
            del output.data[mime]
        elif mime.startswith("text/"):
            output.data[mime] = _without_local_paths(value)
        elif mime.startswith("image/"):
            words = output.metadata.setdefault(mime, {})
            words.setdefault("alt", output.data.get("text/plain", ""))
    return output


def _without_local_paths(text: str) -> str:
    """Name the repository, the environment, the temporary and the home folder by what they are, not where."""
    named = [
        (sys.prefix, "$VIRTUAL_ENV"),
        (str(_notebook_folder().parent), "."),
        (tempfile.gettempdir(), "$TMPDIR"),
        (str(Path.home()), "~"),
    ]
    for folder, name in named:
        text = re.sub(rf"(?<![\w.]){re.escape(folder)}(?![\w-])", name, text)
    return text
