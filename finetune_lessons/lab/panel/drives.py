"""Who advances a panel's loop: a thread of the kernel, or the browser, which calls again and again."""

import math
import sys
import threading
from collections.abc import Callable

from finetune_lessons.lab.panel.interrupts import on_interrupt_of_an_idle_kernel
from finetune_lessons.lab.panel.loop import Loop, interrupt_all
from finetune_lessons.lab.panel.view import PanelView

TICK = 0.1  # seconds of training in one call of the browser
PATIENCE = 1.0  # seconds until a run starts without an answer of the browser


class Drive:
    """Trains in the background.

    "thread": a thread trains. "pump": each tick of the browser trains for a while, in the kernel's own thread, for
    front ends that show no updates from threads. None: the pump in Colab, else a thread.
    """

    def __init__(self, kind: str | None, loop: Loop, view: PanelView):
        if kind not in (None, "thread", "pump"):
            raise ValueError(f"drive must be 'thread', 'pump' or None; given: {kind!r}")
        self.kind = kind or ("pump" if "google.colab" in sys.modules else "thread")
        self._loop, self._view = loop, view
        self._requested: list[Callable[[], None]] = []
        self._timer = threading.Timer(PATIENCE, self._start_requested)
        view.on_tick(self._tick)

    def request(self, start: Callable[[], None]) -> None:
        """Call `start` as soon as the browser has sent the values that it holds back.

        It delays a field's newest value while an older one is under way, but not a click. A tick that it sends
        after it has heard of the click comes after those values; without a tick, the run starts all the same.
        """
        with self._loop.lock:
            if start in self._requested:  # a double click
                return
            self._requested.append(start)
            if len(self._requested) > 1:
                return
        self._view.tick(True)
        self._timer = threading.Timer(PATIENCE, self._start_requested)
        self._timer.daemon = True
        self._timer.start()

    def launch(self) -> None:
        "Let the loop, which has begun, train."
        if self.kind == "pump":
            self._view.tick(True)
        else:
            on_interrupt_of_an_idle_kernel(interrupt_all)
            name = f"panel run {self._loop.traces[-1].number}"
            threading.Thread(target=self._loop.advance, daemon=True, name=name).start()

    def wait(self, timeout: float | None = None) -> bool:
        "Wait until nothing trains any more; False if that takes longer than `timeout` seconds."
        if self.kind == "pump":  # the browser cannot call while this cell runs
            self._tick(math.inf if timeout is None else timeout)
            return self._loop.idle.is_set()
        return self._loop.idle.wait(timeout)

    def _start_requested(self) -> None:
        with self._loop.lock:
            requested, self._requested = self._requested, []
        if requested:
            self._timer.cancel()
            for start in requested:
                start()
            self._view.tick(self.kind == "pump" and not self._loop.idle.is_set())

    def _tick(self, seconds: float = TICK) -> None:
        "One call of the browser: train for a while, in the kernel's own thread."
        self._start_requested()
        if self.kind == "thread" or not self._loop.lock.acquire(blocking=False):
            return
        try:
            if not self._loop.idle.is_set() and not self._loop.advance(seconds):
                self._view.tick(False)
        except KeyboardInterrupt:
            self._view.tick(False)
        finally:
            self._loop.lock.release()
