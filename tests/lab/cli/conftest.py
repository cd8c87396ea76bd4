"""What the command trains on in tests."""

import pytest
import torch
from command_data import write_csv, write_model, write_new_texts


@pytest.fixture(scope="package")
def files(tmp_path_factory):
    "A folder with model, films.csv (60 texts) and new.csv (3 rows, one without a text)."
    folder = tmp_path_factory.mktemp("command")
    write_model(folder / "model")
    write_csv(folder / "films.csv")
    write_new_texts(folder / "new.csv")
    return folder


@pytest.fixture
def arguments(files, one_thread):
    "Of a run of 12 steps in fp32."
    torch.set_num_threads(1)
    return [
        "train", "--model", str(files / "model"), "--csv", str(files / "films.csv"), "--text", "body",
        "--label", "mood", "--epochs", "2", "--batch-size", "8", "--lr", "3e-3", "--precision", "fp32",
    ]  # fmt: skip
