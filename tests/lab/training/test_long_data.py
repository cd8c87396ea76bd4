"""A million texts train in no more memory than ten thousand, but for a few numbers a text."""

import subprocess
import sys
from pathlib import Path

import pytest

FEW, MANY = 10_000, 1_000_000
BYTES_A_TEXT, CONSTANT = 40, 60e6  # its length, its place in the plan of an epoch, while that is sorted; and slack


def train(folder: Path, texts: int) -> None:
    "Tokenise and train four steps, and print the most memory that was the process's own at any time."
    import threading
    from contextlib import suppress

    import datasets
    import torch
    from tiny import tiny_data, tiny_run

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    part = tiny_data(FEW)["train"]
    part.save_to_disk(folder / "part")
    part = datasets.load_from_disk(folder / "part")
    data = datasets.DatasetDict(train=datasets.concatenate_datasets([part] * (texts // FEW)))
    tiny_run(data=tiny_data(64), epochs=1).finish()  # what is loaded on first use
    highest, done = [own_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            with suppress(OSError):
                highest.append(own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run = tiny_run(data=data, epochs=1)
    for _ in range(4):
        next(run)
    assert len(run) == texts // 8
    done.set()
    watcher.join()
    print(max(highest) - highest[0])


def own_memory() -> int:
    "Bytes, without the pages of mapped files, which the system takes back when it needs them."
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_hardly_grows_with_the_number_of_texts(tmp_path):
    used = {}
    for texts in (FEW, MANY):
        (tmp_path / str(texts)).mkdir()
        command = [sys.executable, __file__, str(tmp_path / str(texts)), str(texts)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        used[texts] = int(done.stdout.split()[-1])
    print(used)
    assert used[MANY] - used[FEW] < BYTES_A_TEXT * (MANY - FEW) + CONSTANT


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
