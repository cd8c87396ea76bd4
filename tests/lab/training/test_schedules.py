"""Schedules are those of transformers and torch, functions of nothing but the step, and a run takes each by name."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import classification, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens
from torch import nn
from transformers import get_scheduler

from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.schedules import SCHEDULES


@pytest.mark.parametrize(("name", "of_transformers"), [
    ("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup"), ("inverse_sqrt", "inverse_sqrt"),
])  # fmt: skip
@pytest.mark.parametrize(("steps", "warmup"), [(50, 0), (50, 5), (7, 1), (30, 30), (1, 0)])
def test_schedules_are_those_of_transformers(name, of_transformers, steps, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(of_transformers, optimizer, warmup, steps)
    for t in range(steps):
        assert SCHEDULES[name](t, steps, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("steps", "warmup"), [(50, 5), (50, 20), (12, 2), (50, 0)])
def test_one_cycle_is_that_of_torch(steps, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, pct_start=warmup / steps, cycle_momentum=False)
    schedule = cycle(optimizer, 1.0, steps)
    for t in range(steps):
        assert SCHEDULES["one_cycle"](t, steps, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        if t < steps - 1:
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("steps", [10, 50, 200, 1230])
def test_the_slanted_triangle_is_ulmfits_with_a_tenth_on_the_way_up(steps):
    cut, ratio = steps // 10, 32
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / 0.1 - 1))
        expected = 0.01 * (1 + p * (ratio - 1)) / ratio
        assert 0.01 * SCHEDULES["slanted_triangular"](t, steps, cut) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("steps", "warmup"), [(19, 2), (9, 1), (7, 3), (33, 0), (50, 20)])
def test_the_slanted_triangle_is_straight_between_its_corners_for_any_number_of_steps(steps, warmup):
    corners = ([0, warmup, steps], [1 / 32, 1, 1 / 32]) if warmup else ([0, steps], [1, 1 / 32])
    factors = [SCHEDULES["slanted_triangular"](t, steps, warmup) for t in range(steps)]
    assert factors == pytest.approx(np.interp(range(steps), *corners).tolist(), abs=1e-12)
    assert min(factors) >= 1 / 32


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 300), st.data())
def test_a_schedule_climbs_to_1_and_then_does_not_rise(name, steps, data):
    warmup = data.draw(st.integers(0, steps))
    factors = [SCHEDULES[name](t, steps, warmup) for t in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[: warmup] == sorted(factors[: warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert len(factors) <= warmup or name == "one_cycle" or factors[warmup] == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_takes_every_schedule_by_name_and_resumes_in_it(name, tmp_path):
    run = tiny_run(schedule=name, warmup=0.25, lr=1e-3)
    rates = [step.lr for step in run]
    assert rates == [1e-3 * SCHEDULES[name](t, len(run), round(0.25 * len(run))) for t in range(len(run))]
    begun = tiny_run(schedule=name, warmup=0.25, lr=1e-3)
    for _ in range(5):
        next(begun)
    begun.save(tmp_path / "run.safetensors")
    model, tokenizer, data = tiny_model("bert"), tiny_tokenizer(), tiny_tokens()
    resumed = Run.resume(tmp_path / "run.safetensors", model, tokenizer, data, loss=classification)
    assert [step.lr for step in resumed] == rates[5:]
