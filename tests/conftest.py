"""What every test runs under: no network, and data that fit the tiny models."""

import os
import signal
from pathlib import Path

os.environ["PYTHONPATH"] = os.pathsep.join(map(str, Path(__file__).parents[:2]))  # for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import tiny
import torch
from hypothesis import settings

settings.register_profile("no timed asserts", deadline=None)
settings.load_profile("no timed asserts")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts pytest in the background ignores it


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
