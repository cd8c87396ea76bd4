"""What a processor is measured to do, and what follows from it."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import tiny_model, tiny_run

from finetune_lessons.lab.training import processor
from finetune_lessons.lab.training.precision import fastest_precision, widest_product

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    "On a processor that says that it has bf16."
    monkeypatch.setenv("FINETUNE_LESSONS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(processor, "capabilities", lambda: {"avx512_bf16": True, "cpu_name": "a processor"})
    return tmp_path / "home"


@pytest.mark.parametrize(("gain", "expected"), [(3.5, "bf16"), (1.02, "fp32"), (0.54, "fp32")])
def test_bf16_is_taken_where_it_is_measured_to_be_faster(monkeypatch, gain, expected):
    monkeypatch.setattr(processor, "_measured", lambda *shape: gain)
    run = tiny_run(precision="auto")
    assert run.precision == expected
    assert run.computing.reason == f"a processor multiplies {gain:.2g} times as fast in bf16 as in fp32, measured"


def test_a_processor_without_bf16_is_not_measured(monkeypatch):
    monkeypatch.setattr(processor, "_measured", None)
    monkeypatch.setattr(processor, "capabilities", dict)
    assert fastest_precision(CPU, tiny_model("bert")).precision == "fp32"


def test_an_asked_precision_is_not_measured(monkeypatch):
    monkeypatch.setattr(processor, "_measured", None)
    run = tiny_run(precision="bf16")
    assert (run.precision, run.computing.reason) == ("bf16", "as asked for")


def test_measured_once_said_once_and_kept(monkeypatch, own_home, capsys):
    gains = iter([2.5, 0.5, 0.25])
    monkeypatch.setattr(processor, "_measured", lambda *shape: next(gains))
    assert [processor.gain_of_bf16((64, 32)) for _ in range(3)] == [2.5, 2.5, 2.5]
    assert processor.gain_of_bf16((32, 64)) == 0.5
    assert capsys.readouterr().err.count("Measured once") == 2
    assert list(json.loads((own_home / "bf16.json").read_text()).values()) == [2.5, 0.5]
    monkeypatch.setattr(processor, "capabilities", lambda: {"bf16": True, "cpu_name": "another"})
    assert processor.gain_of_bf16((64, 32)) == 0.25


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "b"}', "{", "\x00"])
def test_a_damaged_file_is_measured_anew(monkeypatch, own_home, content):
    own_home.mkdir()
    (own_home / "bf16.json").write_text(content)
    monkeypatch.setattr(processor, "_measured", lambda *shape: 2.0)
    assert processor.gain_of_bf16((64, 32)) == 2.0
    assert list(json.loads((own_home / "bf16.json").read_text()).values()) == [2.0]


def test_a_folder_that_cannot_be_written_costs_only_the_memory(monkeypatch, own_home):
    own_home.write_text("a file")
    monkeypatch.setattr(processor, "_measured", lambda *shape: 2.0)
    assert processor.gain_of_bf16((64, 32)) == 2.0


def test_measuring_disturbs_nobody():
    before = torch.get_rng_state()
    with torch.no_grad():
        assert 0 < processor._measured(64, 32) < 1000
    assert torch.equal(torch.get_rng_state(), before)


def test_what_most_parameters_are_in_is_measured():
    model = torch.nn.Sequential(torch.nn.Linear(8, 1000), torch.nn.Linear(50, 100), torch.nn.Linear(50, 100))
    assert widest_product(model) == (100, 50)
    assert widest_product(torch.nn.Embedding(2, 2)) == widest_product(None) == (1024, 1024)


@pytest.mark.parametrize(("given", "kept"), [({}, 2), ({"OMP_NUM_THREADS": "4"}, 4)])
def test_no_more_threads_than_fit_unless_they_are_asked_for(monkeypatch, given, kept):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processor, "fitting_threads", lambda: 2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        tiny_run()
        assert torch.get_num_threads() == kept
        torch.set_num_threads(1)
        tiny_run()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


WAITING = "import os; {}import finetune_lessons.lab; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(("before", "expected"), [
    ("", "1000"), ("os.environ['GOMP_SPINCOUNT'] = '7'; ", "7"), ("os.environ['OMP_WAIT_POLICY'] = 'active'; ", "None"),
])  # fmt: skip
def test_threads_do_not_spin_for_long_before_torch_is_loaded(monkeypatch, before, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", WAITING.format(before)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_the_package_itself_loads_no_torch():
    code = "import sys, finetune_lessons; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
