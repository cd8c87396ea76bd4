"""Cells that run again."""

import sys
import threading
from types import SimpleNamespace

import pytest
from fake_runs import PATIENCE, FakeRun, make_run

from finetune_lessons.lab.panel.panel import Panel


class Shell:
    "As much of a kernel's shell as tells which cell is running."

    def __init__(self):
        self.count = 0

    def execute(self, code, cell_id=None):
        self.count += 1
        metadata = {"cellId": cell_id} if cell_id else {}
        self.parent = {"content": {"code": code}, "metadata": metadata, "header": {"msg_id": str(self.count)}}

    def get_parent(self):
        return self.parent


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


@pytest.mark.parametrize("cell", ["3f2a", None])
def test_a_cell_that_runs_again_stops_its_old_panels_and_no_others(shell, cell):
    go = threading.Event()

    def waiting(lr=0.1):
        return FakeRun(lr, at={1: lambda: go.wait(PATIENCE)})

    shell.execute("other", "77bb")
    bystander = Panel(waiting, lr=(0.0, 1.0))
    shell.execute("panel = ...", cell)
    old = [Panel(waiting, lr=(0.0, 1.0)) for _ in range(2)]
    for panel in (bystander, *old):
        panel.start()
    shell.execute("panel = ...", cell)
    new = Panel(make_run, lr=(0.0, 1.0))
    go.set()
    for panel in (bystander, *old):
        assert panel.wait(PATIENCE)
    assert [list(p.results["outcome"]) for p in old] == [["stopped"]] * 2
    assert list(bystander.results["outcome"]) == ["done"]
    old[0].start()
    assert len(old[0].results) == 1
    new.run()
    assert list(new.results["outcome"]) == ["done"]
