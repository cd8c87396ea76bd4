"""`train --save F` goes on where F exists: killed and started again, the curve is the same to the bit."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_data import write_csv, write_model
from tiny import classification, tiny_data, tiny_run

from finetune_lessons.lab.cli import main
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.run_files import read_header

STEPS = 12
WITHOUT = ["index", "epoch", "loss", "lr", "grad_norm", "tokens", "validation/accuracy", "validation/loss"]


def options(folder: Path, name: str, processes: int = 1) -> list[str]:
    "Of a run of 12 steps with dropout, which is saved every second step."
    size = 8 // processes
    return [
        "train", "--model", f"{folder}/model", "--csv", f"{folder}/films.csv", "--text", "body", "--label", "mood",
        "--epochs", "2", "--batch-size", f"{size}", "--lr", "3e-3", "--precision", "fp32", "--save-every", "2",
        "--save", f"{folder}/{name}.run", "--history", f"{folder}/{name}.csv",
    ]  # fmt: skip


def curve(folder: Path, name: str) -> pd.DataFrame:
    "To the bit: the seconds are all that may differ."
    return pd.read_csv(folder / f"{name}.csv", float_precision="round_trip")[WITHOUT]


def killed_once(arguments: list[str]) -> int:
    "The command in a process that is killed after the fifth step, if nothing was saved when it began."
    torch.set_num_threads(1)
    begins = not Path(arguments[arguments.index("--save") + 1]).exists()
    last = int(os.environ.get("WORLD_SIZE", 1)) - 1
    step = Run.__next__

    def killing(run: Run):
        if begins and run.index == 5 and run.processes.rank == last and "killed" in arguments[-1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(run)

    Run.__next__ = killing
    return main(arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    write_model(folder / "model")
    write_csv(folder / "films.csv")
    return folder


def start(*command: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    return start(*launcher, f"--master-port={port}", __file__, *arguments)


# killed


def test_killed_alone_the_same_command_goes_on_to_the_same_bits(folder):
    whole, killed = (options(folder, name) for name in ("whole", "killed"))
    assert start(sys.executable, __file__, *whole).returncode == 0
    assert start(sys.executable, __file__, *killed).returncode == -signal.SIGKILL
    again = start(sys.executable, __file__, *killed)
    assert again.returncode == 0, again.stderr
    assert f"{folder}/killed.run goes on after step 4; it has 4 of {STEPS} steps." in again.stdout
    pd.testing.assert_frame_equal(curve(folder, "killed"), curve(folder, "whole"), check_exact=True)


@pytest.fixture(scope="module")
def two_processes(folder):
    "What torchrun says of a job that was killed and started again; there is one that was not, too."
    assert torchrun(*options(folder, "both", 2)).returncode == 0
    ended = torchrun(*options(folder, "both-killed", 2))
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended


def test_killed_under_torchrun_the_job_ends_with_the_same_bits(folder, two_processes):
    ended = two_processes
    assert "Signal 9 (SIGKILL)" in ended.stderr or "exitcode: -9" in ended.stderr
    assert f"both-killed.run goes on after step 4; it has 4 of {STEPS} steps." in ended.stdout
    pd.testing.assert_frame_equal(curve(folder, "both-killed"), curve(folder, "both"), check_exact=True)


def test_the_same_command_goes_on_in_one_process(folder, two_processes, capsys, one_thread):
    begun = read_header(folder / "both-killed.run")
    assert (begun["index"], len(begun["random"]), begun["config"]["batch_size"]) == (STEPS, 2, 4)
    assert main(options(folder, "both-killed", 2)) == 0
    printed = capsys.readouterr().out
    assert f"{STEPS} steps of 8 texts" in printed and "is finished: nothing is trained" in printed


# finished


@pytest.fixture
def finished(arguments, tmp_path, capsys):
    "The command of a run that has come to its end, and said so."
    command = [*arguments, "--save", str(tmp_path / "run")]
    assert main(command) == 0
    return command


def test_a_finished_run_is_evaluated_and_not_trained_again(finished, files, tmp_path, monkeypatch, capsys):
    before, saved = capsys.readouterr().out.splitlines()[-1], (tmp_path / "run").read_bytes()
    monkeypatch.setattr(Run, "_train_step", lambda *_: pytest.fail("trained"))
    assert main([*finished, "--predict", str(files / "new.csv"), "--out", str(tmp_path / "answers.csv")]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/run is finished: nothing is trained; it has {STEPS} of {STEPS} steps." in printed
    assert before in printed and (tmp_path / "run").read_bytes() == saved
    assert len(pd.read_csv(tmp_path / "answers.csv")) == 3


# another run


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--lr", "1e-3"], "is a run with --lr 0.003; given: --lr 0.001."),
        (["--seed", "1", "--warmup", "0"], "with --warmup 0.1, --seed 0; given: --warmup 0.0, --seed 1."),
        (["--epochs", "3"], "with --epochs 2.0; given: --epochs 3.0."),
        (["--method", "lora"], "with --method full; given: --method lora."),
        (["--model", "minilm"], "given: --model minilm."),
        (["--optimizer", "SGD"], "with no optimizer; given: --optimizer SGD."),
        (["--n-train", "20"], "with no n_train; given: --n-train 20."),
        (["--batch-size", "4"], r"8 x 1 x 1 = 8 examples a step (batch size x processes x accumulation), these options "
                                r"4 x 1 x 1 = 4: choose --batch-size and --grad-accum that make 8"),
        (["--grad-accum", "2"], "these options 8 x 1 x 2 = 16"),
    ],
)  # fmt: skip
def test_a_file_of_other_settings_is_refused_by_name(changed, said, finished, tmp_path, capsys):
    saved = (tmp_path / "run").read_bytes()
    assert main([*finished, *changed]) == 1
    error = capsys.readouterr().err
    assert said in error and (tmp_path / "run").read_bytes() == saved


def test_arguments_of_the_method_are_settings_too(arguments, tmp_path, capsys):
    command = [*arguments, "--method", "lora", "--save", str(tmp_path / "run")]
    assert main(command) == 0
    assert main([*command, "--lora-alpha", "32", "--layers", "1"]) == 1
    assert "with --lora-alpha 16, no layers; given: --lora-alpha 32.0, --layers [1]." in capsys.readouterr().err


def test_as_many_examples_in_a_step_go_on(finished, capsys):
    assert main([*finished, "--batch-size", "2", "--grad-accum", "4"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_other_data_of_the_same_name_are_refused(arguments, tmp_path, capsys):
    films = write_csv(tmp_path / "films.csv")
    command = [*arguments, "--csv", str(films), "--save", str(tmp_path / "run")]
    assert main(command) == 0
    write_csv(films, 62)
    assert main(command) == 1
    assert "the training data given are not those" in capsys.readouterr().err


def test_a_file_that_not_all_processes_find_is_refused(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("finetune_lessons.lab.training.processes.Processes.gathered", lambda *_: [True, False])
    assert main(finished) == 1
    assert f"1 of 2 processes find {tmp_path}/run, the others do not: --save names a file" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not a run"])
def test_a_file_that_is_no_run_is_refused_and_kept(content, arguments, tmp_path, capsys):
    (tmp_path / "run").write_bytes(content)
    assert main([*arguments, "--save", str(tmp_path / "run")]) == 1
    assert "is not a saved run, or it is damaged" in capsys.readouterr().err
    assert (tmp_path / "run").read_bytes() == content


def test_a_run_saved_from_python_is_compared_by_its_settings(arguments, tmp_path, capsys):
    tiny_run(data=tiny_data(32), loss=classification).save(tmp_path / "run")
    assert main([*arguments, "--save", str(tmp_path / "run")]) == 1
    assert "is a run with --eval-every 0; given: no eval_every." in capsys.readouterr().err


if __name__ == "__main__":
    sys.exit(killed_once(sys.argv[1:]))
