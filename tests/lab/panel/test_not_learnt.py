"""A run that ended without having learnt is told where to look."""

import pytest
from fake_runs import status
from tiny import tiny_run

from finetune_lessons.lab.panel.panel import Panel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("lr", "says"), [(1e-8, True), (3e-3, False)])
def test_a_run_that_has_not_learnt_leads_to_the_diagnosis(lr, says):
    panel = Panel(lambda lr=lr: tiny_run(lr=lr, epochs=6))
    panel.run()
    assert "is done after 48 steps" in status(panel)
    assert ("diagnose(panel.latest)" in status(panel)) is says
