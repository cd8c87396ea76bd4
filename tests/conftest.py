"""What every test runs under: no network, and data that fit the tiny models."""

import os
import signal
from pathlib import Path

os.environ["PYTHONPATH"] = os.pathsep.join(map(str, Path(__file__).parents[:2]))  # for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["FINETUNE_LESSONS_PROGRESS"] = ""  # no exercise that a test does is one that somebody has done

import pytest
import tiny
import torch
from hypothesis import settings

settings.register_profile("no timed asserts", deadline=None)
settings.load_profile("no timed asserts")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts pytest in the background ignores it

HERE = Path(__file__).parent
SLOW = {
    "benchmarks", "browser", "exercises", "lab/cli", "lab/notebooks", "lab/reports/test_memory.py",
    "lab/reports/test_profile.py", "lab/training/test_compiling.py", "lab/training/test_determinism.py",
    "lab/training/test_distributed.py", "lab/training/test_fuzz.py", "lab/training/test_kills.py",
    "lab/training/test_long_data.py", "lessons/test_works.py", "test_house.py", "test_packaging.py", "test_types.py",
}  # fmt: skip


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="leave out what takes long and hangs on no version")


def pytest_ignore_collect(collection_path, config):
    if config.getoption("fast") and collection_path.is_relative_to(HERE):
        return collection_path.relative_to(HERE).as_posix() in SLOW or None


def pytest_collection_modifyitems(items):
    "A test is called the same in every process: by its name it is run again, and shared among several."
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: an address is in its name; give the parameter an id")


@pytest.fixture
def one_thread():
    "For tiny models: threads would wait for each other longer than they compute."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data():
    return tiny.tiny_data()


@pytest.fixture
def tokenizer():
    return tiny.tiny_tokenizer()
