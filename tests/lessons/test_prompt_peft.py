"""Soft prompts in the files of the library peft, both ways, to equal logits."""

import peft
import pytest
import tiny
import torch
from test_methods import disturbed, texts
from torch.testing import assert_close

from finetune_lessons.model_surgery import wrappers
from finetune_lessons.prompt_tuning import add_prompt, prompt_from_peft, prompt_to_peft

CASES = [
    *((arch, "classifier", "SEQ_CLS") for arch in ("bert", "electra")),
    *((arch, "causal_lm", "CAUSAL_LM") for arch in ("gpt2", "opt", "llama", "qwen2")),
    *((arch, "seq2seq", "SEQ_2_SEQ_LM") for arch in ("t5", "bart")),
]
every_case = pytest.mark.parametrize(("arch", "kind", "task"), CASES)
pytestmark = pytest.mark.usefixtures("one_thread")


def a_model(arch, kind):
    return tiny.tiny_model(arch, kind, dropout=False).eval()


def logits(model, kind):
    inputs = texts() | ({"decoder_input_ids": texts()["input_ids"][:, :4]} if kind == "seq2seq" else {})
    with torch.no_grad():
        return model.eval()(**inputs).logits


def assert_same(ours, theirs, kind):
    expected = logits(theirs, kind)
    assert_close(logits(ours, kind), expected[:, 3:] if kind == "causal_lm" else expected, rtol=1e-5, atol=1e-5)


@every_case
def test_peft_loads_our_prompt(arch, kind, task, tmp_path):
    ours = disturbed(add_prompt(a_model(arch, kind), 3))
    prompt_to_peft(ours, tmp_path)
    assert_same(ours, peft.PeftModel.from_pretrained(a_model(arch, kind), tmp_path), kind)


@every_case
def test_a_prompt_trained_by_peft_loads_here(arch, kind, task, tmp_path):
    config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=3, token_dim=32, num_layers=2)
    config.num_attention_heads, config.num_transformer_submodules = 4, 1
    theirs = disturbed(peft.get_peft_model(a_model(arch, kind), config))
    theirs.save_pretrained(tmp_path)
    assert_same(prompt_from_peft(a_model(arch, kind), tmp_path), theirs, kind)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
            "holds P_TUNING",
        ),
        (peft.LoraConfig(task_type="CAUSAL_LM"), "holds LORA, not PROMPT_TUNING"),
    ],
)
def test_other_methods_of_peft_are_refused_by_name(config, says, tmp_path):
    peft.get_peft_model(a_model("gpt2", "causal_lm"), config).save_pretrained(tmp_path)
    model = a_model("gpt2", "causal_lm")
    with pytest.raises(ValueError, match=says):
        prompt_from_peft(model, tmp_path)
    assert not wrappers(model)


def test_what_only_one_of_the_two_has_is_refused(tmp_path):
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    peft.get_peft_model(a_model("t5", "seq2seq"), config).save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="half of its vectors stand before the decoder's text"):
        prompt_from_peft(a_model("t5", "seq2seq"), tmp_path / "two")
    with pytest.raises(ValueError, match="peft puts no soft prompt into BertForMaskedLM: save_method"):
        prompt_to_peft(add_prompt(a_model("bert", "masked_lm"), 3), tmp_path / "masked")
    with pytest.raises(ValueError, match="classification_head is trained whole, which peft's soft prompts cannot"):
        prompt_to_peft(add_prompt(a_model("bart", "classifier"), 3), tmp_path / "head")
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        prompt_from_peft(a_model("t5", "seq2seq"), tmp_path)
    prompt_to_peft(add_prompt(a_model("gpt2", "causal_lm"), 3), tmp_path / "gpt2")
    wide = tiny.tiny_model("llama", "causal_lm", hidden_size=16)
    with pytest.raises(ValueError, match=r"has the shape \(3, 32\), expected \(3, 16\)"):
        prompt_from_peft(wide, tmp_path / "gpt2")
    assert not wrappers(wide) and all(p.requires_grad for p in wide.parameters())
