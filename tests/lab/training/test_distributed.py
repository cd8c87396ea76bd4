"""Several processes are one process with a larger batch: launched for real, by accelerate."""

import atexit
import json
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from tiny import (
    classification,
    language_model,
    tiny_data,
    tiny_language_data,
    tiny_model,
    tiny_run,
    tiny_tokenizer,
    weights,
)
from torch.nn.functional import cross_entropy

from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.training import checkpoint
from finetune_lessons.lab.training.processes import NOT_FOLLOWED
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.run_files import read_header

pytestmark = pytest.mark.usefixtures("one_thread")


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr=lr)


class Heads(torch.nn.Module):
    "A head for each class of length: most batches leave some of them out, and the two halves of a batch others."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.heads = torch.nn.Embedding(200, 8), torch.nn.ModuleList(torch.nn.Linear(8, 2) for _ in range(4))

    def forward(self, input_ids, attention_mask):
        hidden = (self.body(input_ids) * attention_mask[..., None]).sum(1)
        which = attention_mask.sum(1).div(6, rounding_mode="floor").clamp(max=3)
        logits = hidden.new_zeros(len(hidden), 2)
        for number in which.unique().tolist():
            logits[which == number] = self.heads[number](hidden[which == number])
        return logits


def heads_loss(model, batch):
    return cross_entropy(model(batch["input_ids"], batch["attention_mask"]), batch["labels"])


def make_run(case: str, processes: int, rank: int = 0) -> Run:
    "The same run for one process and for several, whose batches are so much smaller."
    size = {"batch_size": 8 // processes}
    model = tiny_model("bert", dropout=False, seed=rank)  # the others start from the weights of the first
    if case == "full batches":
        return tiny_run(model, tiny_data(32), **size, eval_every=2)
    if case == "incomplete last batch":
        return tiny_run(model, tiny_data(13, 7, 5), **size, eval_every=None)
    if case == "one process without examples":
        return tiny_run(model, tiny_data(17, 1, 3), **size, eval_every=None, epochs=1)
    if case == "accumulation":
        return tiny_run(model, tiny_data(32), batch_size=2, grad_accum=4 // processes, optimizer=sgd, lr=0.1)
    if case == "parts of the loss":
        return tiny_run(model, tiny_data(32), **size, epochs=1, loss=with_part)
    if case == "classes with weights":
        weighted = partial(classification_loss, weight=[0.1, 3.0])
        return tiny_run(model, tiny_data(29), **size, epochs=1, loss=weighted, optimizer=sgd, lr=0.1)
    if case == "heads that are not always used":
        return tiny_run(Heads(), tiny_data(29), **size, loss=heads_loss, weight_decay=0.3, eval_every=0)
    model = tiny_model("gpt2", "causal_lm", dropout=False, seed=rank)
    settings = {"loss": language_model, "optimizer": sgd, "lr": 0.1, "eval_every": None}
    return tiny_run(model, tiny_language_data(21, 9), **size, **settings)


def with_part(model, batch):
    return {"loss": classification(model, batch), "share": batch["labels"].float().mean()}


CASES = ("full batches", "incomplete last batch", "one process without examples", "accumulation", "parts of the loss",
         "classes with weights", "heads that are not always used", "language model")  # fmt: skip


def outcome(run: Run) -> dict:
    "Everything that has to agree, in numbers."
    steps = [[step.loss, step.grad_norm, step.tokens, step.parts, step.metrics] for step in run]
    found = {"steps": steps, "evaluation": {name: run.evaluate(name) for name in run.splits}}
    if "accuracy" in found["evaluation"]["train"]:
        table = run.predict("train")
        found["predictions"] = [table.index.tolist(), table["prediction"].tolist(), table["text"].tolist()]
    return found


def compare(folder: Path) -> None:
    "What each of the processes does."
    state = PartialState()
    found = {}
    for number, case in enumerate(CASES):
        run = make_run(case, state.num_processes, state.process_index)
        found[case] = outcome(run)
        if state.is_main_process:
            save_file(weights(run.model), folder / f"{number}.safetensors")
    if state.is_main_process:
        (folder / "found.json").write_text(json.dumps(found))
    save_and_resume(folder)
    resume_what_one_saved(folder)


def killed_once(folder: Path) -> None:
    "Train and save each step; the second process is killed in the third step, unless something was saved before."
    state = PartialState()
    saved = folder / "saved"
    resumed = saved.exists()
    if resumed:
        run = Run.resume(saved, tiny_model("bert", dropout=False), tiny_tokenizer(), tiny_data(32), loss=classification)
    else:
        run = make_run("full batches", state.num_processes, state.process_index)
    for step in run:
        if step.index == 2 and not resumed and state.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        run.save(saved / f"{run.index}.run")
    if state.is_main_process:
        (folder / "losses.json").write_text(json.dumps([step.loss for step in run.steps]))


def resume_what_one_saved(folder: Path) -> None:
    "One process has taken a step of 8 examples; here a process has fewer of them, or accumulates them."
    run = resumed(folder / "alone")
    accumulated = resumed(folder / "alone", batch_size=1)
    losses = [[step.loss for step in each] for each in (run, accumulated)]
    if run.is_main_process:
        sizes = [[each.config["batch_size"], each.config["grad_accum"]] for each in (run, accumulated)]
        (folder / "shared.json").write_text(json.dumps({"sizes": sizes, "losses": losses}))
    for name, dropout in (("even", False), ("drops", True)):
        run = tiny_run(tiny_model("bert", dropout=dropout), tiny_data(32), batch_size=8 // run.processes.count)
        next(run)
        run.save(folder / name)


def resumed(file: Path, **changes) -> Run:
    return Run.resume(
        file, tiny_model("bert", dropout=False), tiny_tokenizer(), tiny_data(32), loss=classification, **changes
    )


def save_and_resume(folder: Path) -> None:
    data, model = tiny_data(32), tiny_model("bert")
    run = tiny_run(model, data, batch_size=4)
    next(run)
    run.save(folder / "run")
    expected = [step.loss for step in run]
    PartialState().wait_for_everyone()
    again = Run.resume(folder / "run", tiny_model("bert"), tiny_tokenizer(), data, loss=classification)
    (folder / f"resumed{again.processes.rank}").write_text(str([step.loss for step in again] == expected))


def launch(task: str, folder: Path, processes: int, *more: str) -> subprocess.CompletedProcess:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `--multi_gpu` is how accelerate starts several processes; `--cpu` would quietly start one.
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    settings = [f"--num_processes={processes}", "--num_machines=1", f"--main_process_port={port}",
                "--num_cpu_threads_per_process=1", "--mixed_precision=no", "--dynamo_backend=no", *more]  # fmt: skip
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*launcher, *settings, __file__, task, str(folder), str(processes)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module", params=[2, 4])
def processes(request, tmp_path_factory):
    "How many, and the folder of what they found."
    folder = tmp_path_factory.mktemp("several")
    torch.set_num_threads(1)
    one = tiny_run(tiny_model("bert", dropout=False), tiny_data(32))
    next(one)
    one.save(folder / "alone")
    done = launch("compare", folder, request.param)
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, folder


@pytest.mark.parametrize("case", CASES)
def test_several_processes_are_one_with_a_larger_batch(case, processes):
    _, folder = processes
    found = json.loads((folder / "found.json").read_text())[case]
    run = make_run(case, processes=1)
    expected = outcome(run)
    assert len(found["steps"]) == len(expected["steps"]) == len(run)
    for ours, theirs in zip(found["steps"], expected["steps"], strict=True):
        assert ours[:3] == pytest.approx(theirs[:3], abs=1e-5)
        assert ours[3] == pytest.approx(theirs[3], abs=1e-5)
        assert ours[4] == pytest.approx(theirs[4], rel=1e-5, abs=1e-5)
    for split, metrics in expected["evaluation"].items():
        assert found["evaluation"][split] == pytest.approx(metrics, rel=1e-5, abs=1e-5)
    assert found.get("predictions") == expected.get("predictions")
    ends = load_file(folder / f"{CASES.index(case)}.safetensors")
    for name, tensor in ends.items():
        if not name.endswith("key.bias"):  # its gradient is 0 but for rounding, which AdamW blows up
            torch.testing.assert_close(tensor, run.model.state_dict()[name], atol=1e-5, rtol=0)


def test_they_resume_with_their_own_random_states(processes):
    count, folder = processes
    assert [(folder / f"resumed{rank}").read_text() for rank in range(count)] == ["True"] * count


def test_each_process_leaves_the_group_before_it_ends(processes):
    count, folder = processes
    assert [(folder / f"left{rank}").read_text() for rank in range(count)] == ["True"] * count


def whole_curve() -> list[float]:
    return [step.loss for step in tiny_run(tiny_model("bert", dropout=False), tiny_data(32))]


def test_several_go_on_with_what_one_saved(processes):
    count, folder = processes
    found = json.loads((folder / "shared.json").read_text())
    assert found["sizes"] == [[8 // count, 1], [1, 8 // count]]
    for losses in found["losses"]:
        assert losses == pytest.approx(whole_curve()[1:], abs=1e-5)


def test_one_goes_on_with_what_several_saved(processes):
    count, folder = processes
    run = resumed(folder / "even")
    assert (run.config["batch_size"], run.config["grad_accum"]) == (8 // count, count)
    assert [step.loss for step in run] == pytest.approx(whole_curve()[1:], abs=1e-5)
    large = resumed(folder / "even", batch_size=8)
    assert large.config["grad_accum"] == 1
    assert [step.loss for step in large] == pytest.approx(whole_curve()[1:], abs=1e-5)


def test_with_dropout_one_goes_on_with_the_random_numbers_of_the_first(processes):
    _, folder = processes
    run = resumed(folder / "drops")
    first = read_header(folder / "drops")["random"][0]["torch"]
    assert run.random_state.state["torch"].tolist() == first
    assert all(step.loss < 2 for step in run)


@pytest.mark.parametrize(
    ("count", "batch_size", "message"),
    [
        (3, None, r"has 8 x 1 x 1 = 8 examples a step .*; 3 processes cannot share 8 evenly: start 1, 2, 4 or 8$"),
        (2, 3, "batch_size=3 in 2 processes cannot make 8$"),
        (1, 16, "batch_size=16 in 1 process cannot make 8$"),
        (1, 0.5, "batch_size=0.5 in 1 process cannot make 8$"),
    ],
)
def test_examples_of_a_step_that_cannot_be_shared_are_refused(count, batch_size, message, tmp_path, monkeypatch):
    run = tiny_run(data=tiny_data(32))
    run.save(tmp_path / "run")
    monkeypatch.setattr(checkpoint, "Processes", lambda: SimpleNamespace(count=count, device=run.device))
    with pytest.raises(ValueError, match=message):
        Run.resume(tmp_path / "run", run.model, run.tokenizer, tiny_data(32), loss=run.loss, batch_size=batch_size)


# settings of the launcher


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", r"--use_fsdp .*ACCELERATE_USE_FSDP=true\).*add_lora.*to_peft"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "--use_deepspeed .*to_peft"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "--use_megatron_lm .*to_peft"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "--use_parallelism_config .*to_peft"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "--mixed_precision .*precision='bf16'"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision .*precision='bf16'"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps .*grad_accum="),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend .*compile=True"),
    ],
)
def test_what_a_launcher_asks_for_and_a_run_does_not_follow_is_refused(variable, value, message, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_FULLGRAPH", "False")  # as accelerate launch always sets
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"a Run does not follow accelerate's {message}"):
        tiny_run()


def test_what_changes_nothing_is_no_reason_to_refuse(monkeypatch):
    for variable, (harmless, *_) in NOT_FOLLOWED.items():
        monkeypatch.setenv(variable, sorted(harmless)[-1].upper())
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_FULLGRAPH", "False")
    tiny_run()


def test_what_a_trainer_left_behind_is_no_launchers_wish(monkeypatch):
    for variable in ("LOCAL_RANK", "ACCELERATE_DYNAMO_USE_FULLGRAPH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    tiny_run()


def test_accelerate_itself_sets_what_is_refused(tmp_path):
    ended = launch("compare", tmp_path, 2, "--mixed_precision=bf16")
    assert ended.returncode != 0
    assert "ValueError: a Run does not follow accelerate's --mixed_precision" in ended.stderr


@pytest.mark.parametrize("processes", [2], indirect=True)
def test_a_killed_process_ends_the_job_with_its_number_and_the_job_resumes(processes, tmp_path):
    count, folder = processes
    ended = launch("killed_once", tmp_path, count)
    assert ended.returncode != 0
    assert re.search(r"rank\s*: 1 .*\n\s*exitcode\s*: -9 .*\n.*\n\s*traceback\s*: Signal 9 \(SIGKILL\)", ended.stderr)
    assert [file.name for file in (tmp_path / "saved").iterdir() if file.suffix == ".run"]
    again = launch("killed_once", tmp_path, count)
    assert again.returncode == 0, again.stderr[-4000:]
    whole = json.loads((folder / "found.json").read_text())["full batches"]["steps"]
    assert json.loads((tmp_path / "losses.json").read_text()) == [step[0] for step in whole]


if __name__ == "__main__":
    torch.set_num_threads(1)
    ended = Path(sys.argv[2]) / f"left{os.environ['RANK']}"
    atexit.register(lambda: ended.write_text(str(not torch.distributed.is_initialized())))  # called last
    state = PartialState(cpu=True)
    assert (state.num_processes, state.device.type) == (int(sys.argv[3]), "cpu")
    {"compare": compare, "killed_once": killed_once}[sys.argv[1]](Path(sys.argv[2]))
