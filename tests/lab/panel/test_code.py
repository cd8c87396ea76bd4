"""The lines that a panel shows to be copied."""

import pytest
from fake_runs import FakeRun, losses

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


def losses_of(code):
    space = {**globals()}
    exec(code.replace("run.finish()", "seen = list(run)").replace("print(step)", "pass"), space)
    return [step.loss for step in space.get("seen", ())]


@pytest.mark.parametrize("function", [straight, branching])
def test_code_reproduces_the_run(function):
    panel = Panel(function, lr=(0.0, 1.0))
    panel.run(lr=0.3)
    assert losses_of(code_for(function, {"lr": 0.3})) == losses(panel)


def test_code_of_a_plain_function_is_its_body():
    code = code_for(straight, {"lr": 0.3})
    assert code.splitlines()[:4] == ["lr = 0.3", "steps = 20", "factor = 2  # a comment", "run = FakeRun("]
    assert code.endswith(")\nrun.finish()\n")


def test_code_of_anything_else_is_a_call():
    local = 5
    assert code_for(branching, {"lr": 0.3}) == "run = branching(lr=0.3)\nrun.finish()\n"
    assert code_for(generating, {"lr": 0.3}) == "run = generating(lr=0.3)\nfor step in run:\n    print(step)\n"
    assert "run = FakeRun(lr=0.3)" in code_for(FakeRun, {"lr": 0.3})
    assert code_for(lambda lr: FakeRun(lr, local), {"lr": 0.3}) == "run = make_run(lr=0.3)\nrun.finish()\n"


def test_code_follows_the_knobs():
    panel = Panel(straight, lr=(0.0, 1.0))
    panel.knobs["lr"].control.value = 0.7
    assert panel._view.code.value.startswith("lr = 0.7\n")
    assert panel.state in panel._view.code.value
