"""A hub that holds what a test gives it."""

import datasets
import pytest


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub: what it holds, and what it was asked for."""
    held, asked = {}, []

    def load_dataset(*arguments):
        asked.append(arguments)
        if arguments not in held:
            raise FileNotFoundError(f"no data set {arguments}")
        return held[arguments]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return held, asked
