"""The kernel's interrupt button while no cell is running."""

import html
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
from fake_runs import PATIENCE, FakeRun, status

from finetune_lessons.lab.panel.panel import Panel


class EventLoop:
    "As much of a kernel's loop as is needed: what is put off, in order."

    def __init__(self):
        self.waiting = []

    def add_callback(self, call, *arguments):
        self.waiting.append((call, arguments))

    def call_later(self, seconds, call, *arguments):
        self.waiting.append((call, arguments))

    def turn(self):
        waiting, self.waiting = self.waiting, []
        for call, arguments in waiting:
            call(*arguments)


@pytest.fixture
def kernel(monkeypatch):
    loop = EventLoop()
    shell = SimpleNamespace(kernel=SimpleNamespace(io_loop=loop), get_parent=dict)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    before = signal.getsignal(signal.SIGINT)
    yield loop
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_an_idle_kernel_stops_the_run_of_a_panel_and_is_said(kernel):
    at, go = threading.Event(), threading.Event()
    waits = {5: lambda: (at.set(), go.wait(PATIENCE))}
    panel = Panel(lambda lr=0.1: FakeRun(lr, at=waits), drive="thread", lr=(0.0, 1.0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the click on Run is at work
    panel.start()
    kernel.turn()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the kernel is idle
    kernel.turn()
    assert at.wait(PATIENCE)
    signal.raise_signal(signal.SIGINT)
    go.set()
    assert panel.wait(PATIENCE)
    assert "Run 1 is stopped after 6 steps, by the kernel's interrupt. Resume goes on" in html.unescape(status(panel))
    panel.resume()
    assert panel.wait(PATIENCE)
    assert "Run 1 is done after 20 steps" in status(panel)


def test_an_interrupt_with_nothing_to_stop_goes_to_the_handler_of_before(kernel):
    heard = []
    panel = Panel(lambda lr=0.1: FakeRun(lr), drive="thread", lr=(0.0, 1.0))
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    for _ in range(2):
        panel.start()
        assert panel.wait(PATIENCE)
        kernel.turn()
    signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGINT]
    assert "done" in status(panel)
