"""What one run did."""

import pytest
from fake_runs import FakeRun

from finetune_lessons.lab.panel.traces import Trace, clock


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_time_left_and_speed_come_from_what_happened():
    trace = Trace(1, {})
    trace.total = 100
    for step in FakeRun():
        trace.append(step, 0.5)
    assert trace.seconds_left == pytest.approx(40)
    assert trace.tokens_per_second == pytest.approx(64_000)
