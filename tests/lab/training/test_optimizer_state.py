"""Optimizers of other makers are saved and resumed to the bit, or the first save says that they cannot be."""

import json

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import classification, same_bits, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens, weights

from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.run_files import checksum, write_whole

bitsandbytes, torchao = pytest.importorskip("bitsandbytes"), pytest.importorskip("torchao")
pytest.importorskip("torchao.optim")
pytestmark = pytest.mark.usefixtures("one_thread")

MAKERS = {
    "bitsandbytes, 8 bits": lambda groups, lr: bitsandbytes.optim.AdamW8bit(groups, lr=lr),
    "bitsandbytes, two averages": lambda groups, lr: bitsandbytes.optim.AdEMAMix8bit(groups, lr=lr),
    "bitsandbytes, one state": lambda groups, lr: bitsandbytes.optim.Lion8bit(groups, lr=lr),
    "bitsandbytes, 32 bits": lambda groups, lr: bitsandbytes.optim.AdamW(groups, lr=lr),
    "transformers, factors": lambda groups, lr: transformers.Adafactor(groups, lr=lr, relative_step=False),
    "torch, Adagrad": lambda groups, lr: torch.optim.Adagrad(groups, lr=lr),
}


def wide():
    "Its matrices have the 4,096 numbers from which on bitsandbytes takes 8 bits."
    return tiny_model("bert", hidden_size=64, intermediate_size=128)


def run_of(maker: str, **settings) -> Run:
    return tiny_run(wide(), tiny_tokens(32, 0, 0), optimizer=MAKERS[maker], **settings)


def resume(path, maker: str) -> Run:
    how = {"loss": classification, "optimizer": MAKERS[maker]}
    return Run.resume(path, wide(), tiny_tokenizer(), tiny_tokens(32, 0, 0), **how)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_run_goes_on_to_the_same_bits(maker, tmp_path):
    run = run_of(maker)
    for _ in range(3):
        next(run)
    run.save(tmp_path / "run.safetensors")
    again = resume(tmp_path / "run.safetensors", maker)
    assert [step.loss for step in again] == [step.loss for step in run]
    assert same_bits(weights(again.model), weights(run.model))


def test_the_state_of_eight_bits_is_kept_in_eight_bits(tmp_path):
    run = run_of("bitsandbytes, 8 bits")
    next(run)
    run.save(tmp_path / "run.safetensors")
    kinds = {t.dtype for name, t in load_file(tmp_path / "run.safetensors").items() if name.endswith("state1")}
    assert kinds == {torch.uint8, torch.float32}


@pytest.mark.parametrize("part", ["state1", "absmax2", "qmap1"])
def test_a_state_that_is_too_short_is_refused(part, tmp_path):
    path = tmp_path / "run.safetensors"
    run = run_of("bitsandbytes, 8 bits")
    next(run)
    run.save(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["run"])
    tensors = load_file(path)
    (name, *_) = [n for n in tensors if n.endswith(part) and (part != "state1" or tensors[n].dtype == torch.uint8)]
    tensors[name] = tensors[name].flatten()[:-1].clone()
    header["checksums"][name] = checksum(tensors[name])
    write_whole(path, tensors, header)
    with pytest.raises(ValueError, match=f"the optimizer's {part} has another shape than its parameter"):
        resume(path, "bitsandbytes, 8 bits")


@torch.compiler.set_stance("force_eager")  # torchao compiles its step, for which not every machine has the tools
def test_a_state_that_no_file_can_hold_is_said_by_name_and_the_run_goes_on(tmp_path):
    run = tiny_run(wide(), optimizer=lambda groups, lr: torchao.optim.AdamW8bit(groups, lr=lr))
    next(run)
    with pytest.raises(ValueError, match="AdamW8bit remembers OptimState8bit, which a saved run cannot hold: "):
        run.save(tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())
    assert next(run).index == 1
