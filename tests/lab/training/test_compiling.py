"""A compiled model learns the same under the same names; without a compiler one sentence says so."""

import pytest
import torch
from tiny import classification, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens, weights

from finetune_lessons.lab.training import compiling
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.run import Run
from finetune_lessons.model_surgery import freeze, unfreeze

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def eager_backend(monkeypatch):
    "What dynamo traces, without the minutes of a compiler."
    compile, calls = torch.compile, []

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return compile(*args, **kwargs | {"backend": "eager"})

    monkeypatch.setattr(torch, "compile", counted)
    yield calls
    torch._dynamo.reset()


def test_a_compiled_run_learns_the_same(eager_backend, tmp_path):
    found, expected = (tiny_run(tiny_model("bert", dropout=False), compile=on, epochs=1) for on in (True, False))
    names = list(weights(found.model))
    next(found)
    found.save(tmp_path / "run")
    assert eager_backend[:2] == [{}, {"dynamic": True}]  # a sum that tells whether it works, and the model
    assert names == list(weights(expected.model)) and not any("_orig" in n for n in names)
    losses = [step.loss for step in expected]
    assert [step.loss for step in found.finish().steps] == pytest.approx(losses, abs=1e-6)
    assert found.evaluate("test") == pytest.approx(expected.evaluate("test"), abs=1e-6)
    model = tiny_model("bert", dropout=False)
    again = Run.resume(tmp_path / "run", model, tiny_tokenizer(), tiny_tokens(), loss=classification)
    assert again.config["compile"] and [s.loss for s in again.finish().steps] == pytest.approx(losses, abs=1e-6)


def test_with_dropout_too(eager_backend):
    run = tiny_run(compile=True, epochs=4).finish()
    assert run.steps[-1].loss < run.steps[0].loss


def test_a_machine_without_compiler_says_so(monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(compiling, "_sum", no_compiler)
    with pytest.raises(ValueError, match=r"compile=True needs a C\+\+ compiler .*\(.*No working C\+\+ compiler found"):
        tiny_run(compile=True)


def test_what_does_not_go_with_it(eager_backend):
    probe = unfreeze(freeze(tiny_model("bert")), "classifier")
    with pytest.raises(ValueError, match="cache= leaves out the first layers"):
        tiny_run(probe, compile=True, cache=ActivationCache())
    with pytest.raises(ValueError, match="compile must be True or False; given: 'yes'"):
        tiny_run(compile="yes")
