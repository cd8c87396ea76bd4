"""The kernel's interrupt button, while no cell is running and a thread trains."""

import signal
import sys
from collections.abc import Callable
from typing import Any

LATER = 0.1  # seconds


def on_interrupt_of_an_idle_kernel(handler: Callable[[], object]) -> None:
    """Call it when the kernel is interrupted between two cells, where kernels ignore that; nothing outside of a kernel.

    It is put in place when the kernel is idle: while a cell or a button is at work the kernel has a handler of its
    own, and puts back afterwards what was there before.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    loop = getattr(getattr(shell, "kernel", None), "io_loop", None)
    if loop is not None:
        loop.add_callback(_install, loop, handler)


def _install(loop: Any, handler: Callable[[], object]) -> None:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        loop.call_later(LATER, _install, loop, handler)
    elif getattr(before, "handler", None) is not handler:
        signal.signal(signal.SIGINT, _Interrupted(handler, before))


class _Interrupted:
    def __init__(self, handler: Callable[[], object], before: Any):
        self.handler, self._before = handler, before

    def __call__(self, number: int, frame: Any) -> None:
        self.handler()
        if callable(self._before):
            self._before(number, frame)
