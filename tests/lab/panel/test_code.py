"""The lines that a panel shows to be copied."""

import functools
import linecache
import math
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_runs import FakeRun

from finetune_lessons.lab.panel.code import code_for
from finetune_lessons.lab.panel.panel import Panel


def straight(lr=0.1, steps=20):
    """Made from its arguments.

    And from nothing else.
    """
    factor = 2  # a comment
    return FakeRun(
        lr * factor,
        steps,
    )


def branching(lr=0.1):
    if lr > 1:
        return FakeRun(1)
    return FakeRun(lr)


def generating(lr=0.1):
    yield from FakeRun(lr)


def losses_of(code, **names):
    "The losses that the code prints, where nothing is defined but what a reader would have."
    steps = []
    exec(code, {"__name__": "__main__", "print": steps.append, **names})
    return [getattr(step, "loss", step) for step in steps]


def expected(function, **values):
    return [step.loss for step in function(**values)]


@pytest.mark.parametrize("function", [straight, branching, generating, FakeRun])
def test_code_reproduces_the_run_where_nothing_is_defined(function):
    panel = Panel(function, lr=(0.0, 1.0))
    for run in (lambda: None, panel.run):
        run()
        panel.knobs.set(lr=0.3)
        assert losses_of(panel._view.code.value) == expected(function, lr=0.3)


def test_code_of_a_plain_function_is_its_body():
    code = code_for(straight, {"lr": 0.3})
    lines = ["from test_code import FakeRun", "lr = 0.3", "steps = 20", "factor = 2  # a comment", "run = FakeRun("]
    assert code.splitlines()[:5] == lines
    assert code.endswith(")\nfor step in run:\n    print(step)\n")


def test_code_of_a_run_that_can_finish_says_so():
    assert code_for(straight, {"lr": 0.3}, SimpleNamespace(finish=print)).endswith(")\nrun.finish()\n")


def test_code_of_anything_else_is_a_call():
    assert "from test_code import branching\nrun = branching(lr=0.3)\n" in code_for(branching, {"lr": 0.3})
    assert "from test_code import generating\nrun = generating(lr=0.3)\n" in code_for(generating, {"lr": 0.3})
    assert "from fake_runs import FakeRun\nrun = FakeRun(lr=0.3)\n" in code_for(FakeRun, {"lr": 0.3})


def test_code_follows_the_knobs():
    panel = Panel(straight, lr=(0.0, 1.0))
    panel.knobs["lr"].control.value = 0.7
    assert "\nlr = 0.7\n" in panel._view.code.value
    assert panel.state in panel._view.code.value


in_a_list = [lambda lr=0.1: FakeRun(lr, 5), lambda lr=0.1: FakeRun(lr, 6), lambda lr=0.1: FakeRun(2 * lr, 7)]
in_a_dict = {"a": lambda lr=0.1: FakeRun(lr, 8), "b": lambda lr=0.1: FakeRun(lr, 9) if lr else FakeRun(1, 2)}
in_a_call = functools.partial(lambda factor, lr=0.1: FakeRun(factor * lr, 4), 3)
of_a_function = functools.partial(straight, steps=7)


@pytest.mark.parametrize("function", [*in_a_list, *in_a_dict.values(), in_a_call, of_a_function])
def test_code_of_lambdas_and_partials_reproduces_the_run(function):
    panel = Panel(function, lr=(0.0, 1.0))
    panel.knobs.set(lr=0.3)
    assert losses_of(panel._view.code.value) == expected(function, lr=0.3)


def test_a_lambda_in_the_header_of_a_loop():
    for panel in [Panel(make, lr=(0.0, 1.0)) for make in (
        lambda lr=0.1: FakeRun(lr, 3), lambda lr=0.1: FakeRun(lr, 4),
    )]:  # fmt: skip
        run = panel.run(lr=0.3)
        assert losses_of(panel._view.code.value) == [math.exp(-0.3 * (i + 1)) for i in range(len(run))]


def test_what_a_lambda_takes_from_around_it_is_written_down():
    steps = 3
    assert losses_of(code_for(lambda lr: FakeRun(lr, steps), {"lr": 0.3})) == expected(FakeRun, lr=0.3, steps=3)


def unwritten(source, **names):
    "A function whose source text is nowhere."
    space = {"__name__": "__main__", **names}
    exec(source, space)
    return space["make_run"]


@pytest.mark.parametrize(
    "source", ["make_run = lambda lr=0.1: FakeRun(lr, 3)", "def make_run(lr=0.1): return FakeRun(lr, 3)"]
)
def test_a_function_without_source_is_called_by_its_name_or_has_a_comment(source):
    function = unwritten(source, FakeRun=FakeRun)
    code = code_for(function, {"lr": 0.3})
    assert "run = make_run(lr=0.3)\n" in code
    assert losses_of(code, make_run=function) == expected(function, lr=0.3)


def test_what_cannot_be_written_is_said():
    data = object()
    code = code_for(lambda lr: FakeRun(lr, 3 if data else 4), {"lr": 0.3})
    assert code.startswith("# data, of type object, has no text as code: give it this name first\n")
    assert losses_of(code, data=data) == expected(FakeRun, lr=0.3, steps=3)
    code = code_for(FakeRun(0.1).__iter__, {"lr": object()})
    assert "# lr, of type object, has no text as code" in code


def test_a_function_of_the_notebook_needs_no_import(monkeypatch):
    source = "def make_run(lr=0.1):\n    short = FakeRun(lr, 3)\n    return short\n"
    monkeypatch.setitem(linecache.cache, "<cell 5>", (len(source), None, source.splitlines(True), "<cell 5>"))
    space = {"__name__": "__main__", "FakeRun": FakeRun}
    exec(compile(source, "<cell 5>", "exec"), space)
    code = code_for(space["make_run"], {"lr": 0.3})
    assert code.startswith("lr = 0.3\nshort = FakeRun(lr, 3)\nrun = short\n")
    assert losses_of(code, FakeRun=FakeRun) == expected(FakeRun, lr=0.3, steps=3)


def typed(value=None):
    return [float(len(str(value)))]


@pytest.mark.parametrize(
    "value",
    [None, (0, 5), math.inf, np.float32(0.1), np.int64(4), torch.float32, torch.device("cpu"), math.sqrt, FakeRun,
     [torch.bfloat16, 2], straight, "a\n'b'",
     socket.AF_INET],
)  # fmt: skip
def test_code_writes_values_of_any_kind(value):
    read = {}
    panel = Panel(typed, value=[None, value])
    panel.knobs.set(value=value)
    exec(panel._view.code.value.replace("run = ", "read['value'] = value; run = "), {"read": read, "print": id})
    assert read["value"] is value or (type(read["value"]) is type(value) and read["value"] == value)


def test_a_knob_whose_name_is_no_name_of_python():
    def make_run(**values):
        return FakeRun(values["my lr"], values["class"])

    code = code_for(make_run, {"my lr": 0.3, "class": 2})
    assert losses_of(code, make_run=make_run) == expected(FakeRun, lr=0.3, steps=2)
