"""A run's random numbers are its own, and the process keeps its."""

import json
import random
import threading

import numpy as np
import pytest
import torch

from finetune_lessons.lab.training.random_state import RandomState, from_json, to_json

CPU = torch.device("cpu")


def draw() -> list:
    return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.normal()]


def drawn(state: RandomState, keep: bool = True) -> list:
    with state.swapped_in():
        numbers = draw()
        if keep:
            state.keep()
    return numbers


def test_a_seed_gives_the_numbers_that_it_gives_everywhere():
    with torch.random.fork_rng():
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        assert draw() == drawn(RandomState(3, CPU))
    assert drawn(RandomState(3, CPU)) != drawn(RandomState(4, CPU))


def test_only_numbers_that_are_kept_are_used_up():
    state = RandomState(0, CPU)
    first = drawn(state, keep=False)
    assert drawn(state) == first != drawn(state)


def test_the_process_goes_on_with_its_own_numbers():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    state = RandomState(0, CPU)
    drawn(state)
    with pytest.raises(KeyboardInterrupt), state.swapped_in():
        draw()
        raise KeyboardInterrupt
    assert draw() == expected


def test_states_inside_each_other_do_not_mix():
    outer, inner = RandomState(0, CPU), RandomState(1, CPU)
    with outer.swapped_in():
        before = draw()
        between = drawn(inner)
        after = draw()
    alone = RandomState(0, CPU)
    with alone.swapped_in():
        assert draw() == before and draw() == after
    assert between == drawn(RandomState(1, CPU))


def test_threads_take_turns():
    states = [RandomState(seed, CPU) for seed in range(4)]
    found: dict[int, list] = {}

    def work(seed):
        found[seed] = [drawn(states[seed]) for _ in range(50)]

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        alone = RandomState(seed, CPU)
        assert found[seed] == [drawn(alone) for _ in range(50)]


def test_a_state_survives_json():
    state, other = RandomState(0, CPU), RandomState(1, CPU)
    drawn(state)
    other.state = from_json(json.loads(json.dumps(to_json(state.state))))
    assert drawn(other) == drawn(state)
