"""Strangers' files run no code and lead nowhere, JupyterLab answers its owner only, and no kept file tells a secret."""

import ast
import builtins
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import torch
from test_house import MODULES, NOTEBOOKS, ROOT, kept_files
from tiny import classification, tiny_data, tiny_model, tiny_tokenizer

from finetune_lessons.lab.models.loading import load_encoder
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lora import add_lora, from_peft, to_peft
from finetune_lessons.model_surgery import load_method, save_method

# code in files


class Payload:
    "Unpickled, it leaves a file behind."

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def payload(tmp_path):
    "Bytes that run code when unpickled, as `torch.save` writes them, and the file that tells of it."
    mark, file = tmp_path / "executed", tmp_path / "payload"
    torch.save({"weight": Payload(mark)}, file)
    torch.load(file, weights_only=False)
    assert mark.exists()
    mark.unlink()
    return file.read_bytes(), mark


@pytest.fixture
def model_folder(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_in_the_place_of_a_model_is_not_executed(name, model_folder, payload):
    content, mark = payload
    (model_folder / "model.safetensors").unlink()
    (model_folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="could not load"):
        load_encoder(model_folder)
    assert not mark.exists()


def test_a_pickle_in_the_place_of_a_method_is_not_executed(tmp_path, payload):
    content, mark = payload
    save_method(add_lora(tiny_model("bert")), tmp_path / "lora")
    to_peft(add_lora(tiny_model("bert")), tmp_path / "peft")
    for name, load in (("lora/method.safetensors", load_method), ("peft/adapter_model.safetensors", from_peft)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="damaged|does not hold"):
            load(tiny_model("bert"), (tmp_path / name).parent)
        assert not mark.exists()


def test_a_pickle_in_the_place_of_a_run_is_not_executed(tmp_path, payload):
    content, mark = payload
    for file in (tmp_path / "run", tmp_path / "pickle"):
        file.write_bytes(content if file.name == "run" else pickle.dumps(Payload(mark)))
        with pytest.raises(ValueError):
            Run.resume(file, tiny_model("bert"), tiny_tokenizer(), tiny_data(), loss=classification)
    assert not mark.exists()


@pytest.mark.parametrize("model_type", ["bert", "unheard_of"])
def test_code_in_a_model_folder_is_neither_run_nor_offered(model_type, model_folder, tmp_path, monkeypatch):
    def asked(*_):
        pytest.fail("the user was asked whether to run the code of a file")

    monkeypatch.setattr(builtins, "input", asked)
    mark = tmp_path / "executed"
    (model_folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n")
    for file in ("config.json", "tokenizer_config.json"):
        settings = json.loads((model_folder / file).read_text())
        auto = {name: "own.Own" for name in ("AutoConfig", "AutoModelForSequenceClassification")}
        settings |= {"auto_map": auto | {"AutoTokenizer": ["own.Own", "own.Own"]}, "trust_remote_code": True}
        if file == "config.json":
            settings |= {"model_type": model_type, "architectures": ["Own"]}
        (model_folder / file).write_text(json.dumps(settings))
    if model_type == "bert":
        assert type(load_encoder(model_folder)[0]).__module__.startswith("transformers.")
    else:
        with pytest.raises(ValueError, match="could not load"):
            load_encoder(model_folder)
    assert not mark.exists()


RUN_TEXT = {"eval", "exec", "compile", "__import__"}
UNSAFE = {"pickle.load", "pickle.loads", "torch.load", "os.system", "yaml.load", "joblib.load", "np.load", "numpy.load"}


def unsafe_calls(source: str) -> list[str]:
    "Calls that run what a file or a text says, or let another library do so."
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            loose = keywords.get("trust_remote_code", "False") != "False" or "shell" in keywords
            if name in UNSAFE | RUN_TEXT or loose:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("call", ["eval(text)", "torch.load(f)", "run(c, shell=True)", "f(x, trust_remote_code=given)"])
def test_an_unsafe_call_is_found(call):
    assert unsafe_calls(f"def f():\n    return {call}\n") == [call]


def test_the_package_has_no_unsafe_call():
    sources = {name: (ROOT / name.replace(".", "/")).with_suffix(".py") for name in MODULES}
    found = {name: unsafe_calls(file.read_text()) for name, file in sources.items() if file.is_file()}
    assert len(found) > 30
    assert {name: calls for name, calls in found.items() if calls} == {}


# places


@pytest.mark.parametrize("save", [save_method, to_peft])
def test_a_method_is_not_written_through_a_link(save, tmp_path):
    model, folder, outside = add_lora(tiny_model("bert")), tmp_path / "method", tmp_path / "outside"
    save(model, folder)
    names = [file.name for file in folder.iterdir()]
    assert len(names) >= 2
    for name in names:
        outside.write_text("precious")
        (folder / name).unlink()
        (folder / name).symlink_to(outside)
        save(model, folder)
        assert outside.read_text() == "precious" and not (folder / name).is_symlink()


def test_a_method_in_the_files_of_peft_is_not_read_through_a_link(tmp_path):
    to_peft(add_lora(tiny_model("bert")), tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out of its folder"):
        from_peft(tiny_model("bert"), tmp_path / "peft")


# JupyterLab


OPENING = "finetune_lessons.lab.notebooks.opening"
OPEN = f"""
import pathlib, sys
from {OPENING.rpartition(".")[0]} import opening
opening.copies = lambda: pathlib.Path("nbs")
opening.open_lessons(sys.argv[1:])
"""


@pytest.fixture
def make_lab(tmp_path):
    "JupyterLab as `make lab` starts it, but without a window: its process, and the address that it prints."
    planned = subprocess.run(["make", "-n", "lab"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    flags = shlex.split(next(line for line in reversed(planned.splitlines()) if OPENING in line).partition(OPENING)[2])
    places = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", OPEN, *flags, "--no-browser", "--ServerApp.port_retries=50"],
            cwd=ROOT, env=os.environ | places | {"PYTHONPATH": str(ROOT)}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield server, address_in(log, server)
    finally:
        server.terminate()
        server.wait()


def address_in(log: Path, server: subprocess.Popen) -> str:
    for _ in range(600):
        if found := re.search(r"http://(?:127\.0\.0\.1|localhost):\d+/lab\S*", log.read_text()):
            return found.group()
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    pytest.fail(f"no address in the log:\n{log.read_text()}")


def status(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_lab_answers_only_with_its_token_and_only_on_this_machine(make_lab):
    server, address = make_lab
    page, token = address.split("?token=")
    home, opened = page.split("/lab/")
    assert len(token) >= 32 and opened == "tree/index.ipynb"
    contents = home + "/api/contents"
    assert status(contents) == status(f"{contents}?token={'0' * len(token)}") == 403
    assert status(f"{contents}?token={token}") == 200
    process = psutil.Process(server.pid)
    connections = process.net_connections if hasattr(process, "net_connections") else process.connections  # psutil 5
    listening = {c.laddr.ip for c in connections("inet") if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


# what is kept

SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bsk-[\w-]{20,}|\bAKIA[A-Z0-9]{16}\b"
    r"|\bxox[abp]-[\w-]{10,}|BEGIN [A-Z ]*PRIVATE KEY|token=[0-9a-f]{20,}|://[^/\s:@\"']+:[^/\s@\"']+@"
)
PLACE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|var/folders|work|mnt|content)/\S+|\b[A-Z]:\\\\?Users\\")


def told(text: str) -> list[str]:
    "The secrets in a text: what looks like one, and the values of this environment's."
    named = {value for name, value in os.environ.items() if re.search("TOKEN|SECRET|PASSWORD|API_KEY", name)}
    return SECRET.findall(text) + [value for value in named if len(value) >= 12 and value in text]


@pytest.mark.parametrize(
    "secret",
    ["hf_" + "a1" * 17, "ghp_" + "b2" * 18, "AKIA" + "Q" * 16, "http://127.0.0.1:8888/lab?token=" + "0a" * 24,
     "https://user:word@index.example/simple", "-----BEGIN RSA " + "PRIVATE KEY-----"],
)  # fmt: skip
def test_a_secret_is_found(secret):
    assert told(f"some {secret} text")


def test_a_secret_of_the_environment_is_found(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "correct horse battery")
    assert told("it is correct horse battery staple") == ["correct horse battery"]


def test_no_kept_file_holds_a_secret():
    files = [file for file in kept_files() if file.name != Path(__file__).name]
    assert len(files) > 50
    found = {str(file): told((ROOT / file).read_text(encoding="utf-8", errors="replace")) for file in files}
    assert {file: secrets for file, secrets in found.items() if secrets} == {}


def test_no_result_and_no_notebook_holds_a_place_of_a_machine():
    results = sorted((ROOT / "nbs" / "results").glob("*.json"))
    assert len(results) > 5
    assert PLACE.search('"path": "/home/ada/runs"') and PLACE.search("in C:\\Users\\ada")
    assert {f.name: found for f in [*results, *NOTEBOOKS] if (found := PLACE.findall(f.read_text()))} == {}
