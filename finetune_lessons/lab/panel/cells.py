"""Which cell of a notebook a panel belongs to."""

import sys
from typing import Protocol
from weakref import WeakKeyDictionary


class Closable(Protocol):
    def close(self) -> None: ...


_origins: "WeakKeyDictionary[Closable, tuple[str, str]]" = WeakKeyDictionary()  # the cell, and its execution


def replace_panels_of_this_cell(panel: Closable) -> None:
    "A cell that runs again makes a new panel: close those that it made before."
    here = _running_cell()
    if here is None:
        return
    for other, (cell, execution) in list(_origins.items()):
        if cell == here[0] and execution != here[1]:
            other.close()
    _origins[panel] = here


def _running_cell() -> tuple[str, str] | None:
    "The notebook cell that is being executed, by its id or else its text, and this execution of it."
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    request = shell.get_parent() if shell is not None and hasattr(shell, "get_parent") else {}
    code = request.get("content", {}).get("code")
    if not code:
        return None
    return request.get("metadata", {}).get("cellId") or code, request["header"]["msg_id"]
