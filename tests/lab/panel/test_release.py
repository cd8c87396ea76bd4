"""What runs leave behind."""

import gc
import subprocess
import sys
import weakref

import pytest
from fake_runs import PATIENCE, FakeRun

from finetune_lessons.lab.panel.panel import Panel

NINE_RUNS = """
import threading
import psutil
from finetune_lessons.lab.panel.panel import Panel

kept = []  # a little of what each run allocates last: it holds the pages before it, though they are free

class Run:
    def __init__(self, pieces):
        self.memory = [bytearray(60_000) for _ in range(pieces)]
        kept.append(self.memory[-1])

    def __iter__(self):
        return iter([1.0, 0.5])

def megabytes():
    return psutil.Process().memory_info().rss / 1e6

panel = Panel(lambda pieces=10: Run(pieces), drive="thread", pieces=[10, 3_000])
panel.run()  # with all that is imported on the way
before = megabytes()
panel.knobs.set(pieces=3_000)
for _ in range(9):
    panel.start()
    panel.wait()
for number in range(1, 11):
    panel.remove(number)
print(megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux keeps free pages")
def test_what_nine_runs_took_is_given_back_when_they_are_gone():
    done = subprocess.run([sys.executable, "-c", NINE_RUNS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60


def test_a_run_that_holds_itself_is_freed_before_the_next_one_is_built():
    alive, counts = weakref.WeakSet(), []

    def make_run(lr=0.1):
        counts.append(len(alive))
        run = FakeRun(lr)
        run.itself = run
        alive.add(run)
        return run

    panel = Panel(make_run, lr=(0.0, 1.0))
    gc.disable()
    try:
        for _ in range(3):
            panel.start()
            assert panel.wait(PATIENCE)
    finally:
        gc.enable()
    assert counts == [0, 0, 0]
