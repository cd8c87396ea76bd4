"""Which tasks an epoch is made of."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_lessons.lab.training.sampling import JointRows, Rows, plan_epoch, steps_per_epoch

SIZES = {"large": 200, "middle": 50, "small": 13}
LENGTHS = {task: np.arange(n) % 7 + 1 for task, n in SIZES.items()}


def plan(sampling, seed=0, epoch=0, lengths=LENGTHS, batch_size=8):
    return plan_epoch(lengths, batch_size, np.random.default_rng([seed, epoch]), sampling)


def steps_of(sampling, epochs=20) -> Counter:
    return Counter(rows.task for epoch in range(epochs) for rows in plan(sampling, epoch=epoch))


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    batch_size=st.integers(1, 16),
    sampling=st.sampled_from(["proportional", "round_robin", "together", 1, 2.5, 100.0]),
)
def test_an_epoch_has_the_steps_that_were_announced_and_only_rows_that_exist(sizes, batch_size, sampling):
    lengths = {f"task {i}": np.ones(n) for i, n in enumerate(sizes)}
    steps = plan(sampling, lengths=lengths, batch_size=batch_size)
    assert len(steps) == steps_per_epoch(lengths, batch_size, sampling)
    for step in steps:
        for rows in step.by_task if isinstance(step, JointRows) else [step]:
            assert 0 < len(rows.index) <= batch_size and len(set(rows.index.tolist())) == len(rows.index)
            assert max(rows.index) < len(lengths[rows.task])


def test_together_every_step_has_every_task_and_the_largest_comes_once():
    steps = plan("together")
    assert len(steps) == 25 and all([rows.task for rows in step.by_task] == list(SIZES) for step in steps)
    seen = {task: Counter() for task in SIZES}
    for step in steps:
        for rows in step.by_task:
            seen[rows.task].update(rows.index.tolist())
    assert seen["large"] == Counter(range(200))
    for task in ("middle", "small"):  # as often as the others of their task, but for one round
        assert len(seen[task]) == SIZES[task] and max(seen[task].values()) - min(seen[task].values()) <= 1


def test_round_robin_gives_each_task_the_same_number_of_steps():
    assert [rows.task for rows in plan("round_robin")[:6]] == [*SIZES, *SIZES]


def test_a_temperature_goes_from_the_sizes_to_equal_shares():
    total = 20 * (25 + 7 + 2)
    for temperature in (1, 3, 1000):
        weight = {task: n ** (1 / temperature) for task, n in SIZES.items()}
        steps = steps_of(temperature)
        assert sum(steps.values()) == total
        for task in SIZES:
            assert steps[task] / total == pytest.approx(weight[task] / sum(weight.values()), abs=0.05)


def test_the_plan_hangs_on_seed_and_epoch_alone():
    def flat(steps):
        return [(step.task, *step.index.tolist()) for step in steps]

    for sampling in ("proportional", "round_robin", "together", 2.0):
        assert flat(plan(sampling)) == flat(plan(sampling))
        assert flat(plan(sampling)) != flat(plan(sampling, epoch=1)) != flat(plan(sampling, seed=1, epoch=1))


def test_pieces_of_a_joint_step_hold_every_task_and_lose_no_row():
    step = JointRows((Rows("a", np.arange(8)), Rows("b", np.arange(4)), Rows("c", np.arange(1))))
    pieces = step.split(2)
    assert [[(rows.task, len(rows.index)) for rows in piece.by_task] for piece in pieces] == [
        [("a", 4), ("b", 2), ("c", 1)],
        [("a", 4), ("b", 2)],
    ]
    assert sorted(i for piece in pieces for i in piece.index) == sorted(step.index)
