"""A run in a notebook's kernel survives the stop button and a restart: one line goes on from what was saved."""

import time
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel
from tiny import tiny_run

pytestmark = pytest.mark.usefixtures("one_thread")
PATIENCE = 300  # seconds; a wait ends as soon as what it waits for is there
LOADED = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tiny import Run, classification, tiny_data, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens
"""
RESUME = (
    "run = Run.resume('run.safetensors', tiny_model('bert'), tiny_tokenizer(), tiny_tokens(), loss=classification)"
    ".finish(save='run.safetensors', save_every=1)"
)


@pytest.fixture
def kernel(tmp_path):
    manager, client = start_new_kernel(cwd=str(tmp_path), startup_timeout=PATIENCE)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def output(client, code: str) -> str:
    "What a cell prints; an AssertionError where it fails."
    printed: list[str] = []

    def hear(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hear, timeout=PATIENCE)["content"]
    assert reply["status"] == "ok", reply
    return "".join(printed)


def start(client, code: str, until: Path) -> str:
    "Start a cell; returns when the file is there, with the number of the request."
    until.unlink(missing_ok=True)
    request = client.execute(code)
    for _ in range(PATIENCE * 20):
        if until.exists():
            return request
        time.sleep(0.05)
    pytest.fail(f"no {until.name}")


def reply_to(client, request: str) -> dict:
    while True:
        message = client.get_shell_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") == request:
            return message["content"]


def test_a_run_goes_on_after_the_stop_button_and_after_a_restart(kernel, tmp_path):
    manager, client = kernel
    saved, loaded = tmp_path / "run.safetensors", LOADED.format(tests=str(Path(__file__).parents[2]))
    output(client, loaded)
    cell = "run = tiny_run(epochs=40); run.finish(save='run.safetensors', save_every=1)"
    request = start(client, cell, saved)
    manager.interrupt_kernel()
    assert reply_to(client, request)["ename"] == "KeyboardInterrupt"
    stopped = int(output(client, "print(run.index)"))
    assert 0 < stopped < 320
    start(client, "run.finish(save='run.safetensors', save_every=1)", saved)
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=PATIENCE)
    output(client, loaded)
    code = f"{RESUME}\nprint('losses', [step.loss for step in run.steps])"
    losses = output(client, code).rpartition("losses ")[2].strip()
    assert losses == str([step.loss for step in tiny_run(epochs=40).finish().steps])
