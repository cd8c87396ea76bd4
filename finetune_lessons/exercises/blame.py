"""Which line of the learner's raised an error."""

import linecache
import sysconfig
import traceback
from pathlib import Path

import finetune_lessons

_OTHERS = tuple(
    str(Path(folder).resolve())
    for folder in (
        *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
        finetune_lessons.__path__[0],
    )
)


def line_at_fault(error: BaseException) -> str:
    "The innermost line that is of no library and not of this package: ` (line 3: `x = y`)`, or nothing."
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(frame, line) for frame, line in frames if not _is_a_librarys(frame.f_code.co_filename)]
    if not own:
        return ""
    frame, number = own[-1]
    source = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
    return f" (line {number}{f': `{source}`' if source else ''})"


def _is_a_librarys(file: str) -> bool:
    return file.startswith("<frozen") or str(Path(file).resolve()).startswith(_OTHERS)
