"""A model that is none, or has no numbers, and a tokenizer that is none, are refused in words."""

import accelerate
import pytest
import torch
from tiny import classification, tiny_data, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens

from finetune_lessons.lab.models.generating import generate
from finetune_lessons.lab.models.predicting import predict
from finetune_lessons.lab.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")
CALLS = {
    "Run, texts": lambda model, tokenizer: Run(model, tokenizer, tiny_data(), loss=classification),
    "Run, tokens": lambda model, tokenizer: Run(model, tokenizer, tiny_tokens(), loss=classification),
    "predict": lambda model, tokenizer: predict(model, tokenizer, ["good"]),
    "generate": lambda model, tokenizer: generate(model, tokenizer, ["good"], max_new_tokens=2),
}
every_call = pytest.mark.parametrize("call", CALLS)


def on_meta():
    with torch.device("meta"):
        return tiny_model("bert")


@every_call
@pytest.mark.parametrize(("given", "says"), [(None, "None"), ("minilm", "'minilm'"), (3, "int")])
def test_a_tokenizer_that_is_none_is_refused(call, given, says):
    with pytest.raises(ValueError, match=f"tokenizer is the one that belongs to the model, .*; given: {says}$"):
        CALLS[call](tiny_model("bert"), given)


@every_call
@pytest.mark.parametrize(("given", "says"), [(None, "None"), ("minilm", "'minilm'"), (lambda **_: 0, "function")])
def test_a_model_that_is_none_is_refused(call, given, says):
    with pytest.raises(ValueError, match=f"model is a torch.nn.Module, .*; given: {says}$"):
        CALLS[call](given, tiny_tokenizer())


@every_call
def test_a_model_without_numbers_is_refused(call):
    with pytest.raises(ValueError, match="word_embeddings.weight is one of 41 weights on the device meta, without num"):
        CALLS[call](on_meta(), tiny_tokenizer())


# weights that accelerate keeps elsewhere, as `device_map=` has it


def offloaded(arch, kind, folder):
    "On the disk until they are needed."
    model = tiny_model(arch, kind)
    accelerate.disk_offload(model, folder, execution_device="cpu")
    return model


def test_weights_that_are_put_away_serve_as_well_as_those_that_are_not(tmp_path):
    expected = predict(tiny_model("bert"), tiny_tokenizer(), ["good", "bad film"])
    away = offloaded("bert", "classifier", tmp_path / "a")
    assert predict(away, tiny_tokenizer(), ["good", "bad film"]).equals(expected)
    said = generate(tiny_model("llama", "causal_lm"), tiny_tokenizer(), ["good"], max_new_tokens=3)
    away = offloaded("llama", "causal_lm", tmp_path / "b")
    assert generate(away, tiny_tokenizer(), ["good"], max_new_tokens=3) == said


def test_weights_that_are_put_away_are_not_trained(tmp_path):
    with pytest.raises(ValueError, match="is not in one place .*disk or memory.*device_map"):
        tiny_run(offloaded("bert", "classifier", tmp_path))


def test_a_model_on_several_devices_is_not_moved_to_one():
    model = tiny_model("bert")
    model.hf_device_map = {"bert.embeddings": 0, "bert.encoder": 1}
    with pytest.raises(ValueError, match="is not in one place .*device_map"):
        tiny_run(model)
