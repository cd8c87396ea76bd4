"""The memory gauge sees what was taken, and nothing of what was there before."""

import mmap
import random
import time

import pytest
import torch
from tiny import tiny_model, weights

from finetune_lessons.lab.reports import memory
from finetune_lessons.lab.reports.memory import PeakMemory

pytestmark = pytest.mark.usefixtures("one_thread")


def from_the_system(megabytes: int) -> torch.Tensor:
    "Floats in memory that was nobody's before: an allocator may hand out again what it holds already."
    pages = mmap.mmap(-1, megabytes * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).fill_(1)


@pytest.mark.parametrize("gauge", ["glibc", "resident"])
def test_peak_memory_sees_what_was_taken_each_time(gauge, monkeypatch):
    if gauge == "resident":
        monkeypatch.setattr(memory, "_info", None)
    for _ in range(2):
        with PeakMemory() as peak:
            block = torch.ones(2**24) if gauge == "glibc" else from_the_system(megabytes=64)
            total = sum(float(block[:1000].sum()) for _ in range(20_000))
            del block
        assert total > 0 and peak.megabytes == pytest.approx(64, rel=0.1)
    with PeakMemory() as nothing:
        pass
    assert nothing.megabytes < 8


@pytest.mark.skipif(memory._info is None, reason="not glibc")
def test_peak_memory_is_the_same_each_time_however_scattered_the_free_memory_is():
    def scatter() -> float:
        "Takes and frees blocks of many sizes at random; the most that it held, in megabytes."
        chance, held, most = random.Random(0), list[bytearray](), 0
        for _ in range(3000):
            if held and (sum(map(len, held)) > 150 * 2**20 or chance.random() < 0.45):
                held.pop(chance.randrange(len(held)))
            else:
                held.append(bytearray(chance.randrange(20_000, 3 * 2**20)))
                most = max(most, sum(map(len, held)))
        time.sleep(0.05)
        return most / 2**20

    for _ in range(3):
        with PeakMemory() as peak:
            expected = scatter()
        assert peak.megabytes == pytest.approx(expected, rel=0.1)


def test_peak_memory_does_not_hide_in_what_earlier_code_freed():
    def take():
        return [b"x" * 2**16 for _ in range(1024)]

    freed, above = take(), b"x" * 2**16  # with something above it the heap cannot shrink by itself
    del freed
    with PeakMemory() as peak:
        again = take()
    assert peak.megabytes == pytest.approx(64, rel=0.1) and above and again


def test_peak_memory_of_a_run_covers_its_model():
    with PeakMemory() as peak:
        held = weights(tiny_model("bert", vocab_size=200_000))
    assert peak.megabytes > 2 * 200_000 * 32 * 4 / 2**20 * 0.9 and held
