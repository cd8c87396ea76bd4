"""Prefixes of the library peft, read and written, to equal logits; refused where they would be others."""

import json

import pytest
import tiny
import torch
import zoo
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from finetune_lessons.model_surgery import eject, wrappers
from finetune_lessons.prefix_tuning import add_prefix, prefix_from_peft, prefix_to_peft, prefixes

peft = pytest.importorskip("peft")

TURNED = "llama gpt_neox phi gptj codegen falcon qwen3 stablelm glm cohere gemma granite olmoe smollm3".split()
BY_DISTANCE = ["bloom", "mpt"]
EQUAL = [*TURNED, *BY_DISTANCE]
SIZES = {
    "falcon": {"num_attention_heads": 1, "token_dim": 8},  # several heads share a key, which peft does not see
    "mpt": {"num_attention_heads": 4, "token_dim": 32, "num_layers": 2},
}


@torch.no_grad()
def logits(model):
    return model.eval()(**zoo.inputs(getattr(model, "base_model", model))).logits


def theirs(arch, kind="causal_lm", task="CAUSAL_LM", n=3, **settings):
    torch.manual_seed(0)
    settings = {**SIZES.get(arch, {}), **settings}
    config = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=n, **settings)
    return peft.get_peft_model(zoo.model(arch, kind), config).eval()


@pytest.mark.parametrize("arch", EQUAL)
def test_a_prefix_of_pefts_is_read_to_equal_logits(arch, tmp_path):
    trained = theirs(arch)
    trained.save_pretrained(tmp_path)
    expected = trained(**zoo.inputs(zoo.model(arch, "causal_lm"))).logits
    model = prefix_from_peft(zoo.model(arch, "causal_lm"), tmp_path)
    assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(eject(model)), expected, atol=1e-2)


@pytest.mark.parametrize("arch", EQUAL)
@pytest.mark.parametrize("reparametrization", [None, 8])
def test_a_prefix_is_written_for_peft_to_equal_logits(arch, reparametrization, tmp_path):
    model = add_prefix(zoo.model(arch, "causal_lm"), 3, reparametrization=reparametrization)
    expected = logits(model)
    prefix_to_peft(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(zoo.model(arch, "causal_lm"), tmp_path).eval()
    with torch.no_grad():
        assert_close(loaded(**zoo.inputs(model)).logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), expected)
    again = prefix_from_peft(zoo.model(arch, "causal_lm"), tmp_path, "again")
    assert_close(logits(again), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "task"), [("classifier", "SEQ_CLS"), ("token_classifier", "TOKEN_CLS")])
@pytest.mark.parametrize("projected", [False, True])
def test_the_new_head_goes_along(kind, task, projected, tmp_path):
    trained = theirs("llama", kind, task, prefix_projection=projected)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(torch.randn_like(p) * 0.1 * p.requires_grad)
    trained.save_pretrained(tmp_path / "theirs")
    expected = trained(**zoo.inputs(zoo.model("llama", kind))).logits
    model = prefix_from_peft(zoo.model("llama", kind), tmp_path / "theirs")
    assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    prefix_to_peft(model, tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(zoo.model("llama", kind), tmp_path / "ours").eval()
    assert_close(loaded(**zoo.inputs(model)).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_longer_prefix_and_a_longer_way_are_turned_as_exactly(tmp_path):
    model = add_prefix(zoo.model("llama", "causal_lm"), 40)
    prefix_to_peft(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(zoo.model("llama", "causal_lm"), tmp_path).eval()
    with torch.no_grad():
        assert_close(loaded(**zoo.inputs(model)).logits, logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "kind", "why"),
    [
        ("gpt2", "causal_lm", "positions are learnt"),
        ("opt", "causal_lm", "positions are learnt"),
        ("bert", "classifier", "positions are learnt"),
        ("t5", "seq2seq", "no decoder"),
        ("modernbert", "classifier", "no decoder"),
        ("vit", "image_classifier", "no decoder"),
        ("mistral", "causal_lm", "reaches 8 tokens back"),
        ("gemma2", "causal_lm", "reaches 8 tokens back"),
        ("jamba", "causal_lm", "each of its 2 layers, here 1"),
    ],
)
def test_where_pefts_logits_would_be_others_it_is_said(arch, kind, why, tmp_path):
    model = add_prefix(zoo.model(arch, kind), 3)
    before = logits(model)
    with pytest.raises(ValueError, match=rf"{type(model).__name__}: .*{why}"):
        prefix_to_peft(model, tmp_path / "ours")
    assert not (tmp_path / "ours").exists() and torch.equal(logits(model), before)


def test_what_does_not_fit_is_refused_and_the_model_is_as_it_was(tmp_path):
    theirs("llama").save_pretrained(tmp_path / "prefix")
    theirs("gpt2").save_pretrained(tmp_path / "learnt")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(zoo.model("llama", "causal_lm"), config).save_pretrained(tmp_path / "prompt")
    (tmp_path / "empty").mkdir()
    wide = zoo.config("llama")
    wide.num_key_value_heads = 4
    cases = {
        "prompt": (zoo.model("llama", "causal_lm"), "PROMPT_TUNING, no table of a prefix"),
        "empty": (zoo.model("llama", "causal_lm"), r"holds no adapter_model\.safetensors"),
        "learnt": (zoo.model("gpt2", "causal_lm"), "positions are learnt"),
        "prefix": (
            type(zoo.model("llama", "causal_lm"))(wide).eval(),
            r"2 tables \(2, 2, 3, 8\).* 2 of \(2, 4, 3, 8\)",
        ),
    }
    for folder, (model, why) in cases.items():
        before = logits(model)
        with pytest.raises(ValueError, match=why):
            prefix_from_peft(model, tmp_path / folder)
        assert not wrappers(model) and all(p.requires_grad for p in model.parameters())
        assert torch.equal(logits(model), before)


def test_a_damaged_file_is_named(tmp_path):
    theirs("llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    table = load_file(file)["prompt_embeddings"]
    save_file({"prompt_embeddings": table[:, :-1].contiguous()}, file)
    with pytest.raises(ValueError, match="does not hold a prefix that can be read"):
        prefix_from_peft(zoo.model("llama", "causal_lm"), tmp_path)
    file.write_bytes(b"none")
    with pytest.raises(ValueError, match="does not hold a prefix that can be read"):
        prefix_from_peft(zoo.model("llama", "causal_lm"), tmp_path)


def test_the_file_names_its_base_and_its_sizes(tmp_path):
    model = add_prefix(zoo.model("llama", "causal_lm"), 3)
    model.config._name_or_path = "somebody/llama"
    prefix_to_peft(model, tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "somebody/llama" and written["peft_type"] == "PREFIX_TUNING"
    assert [written[key] for key in ("num_attention_heads", "token_dim", "num_layers")] == [2, 16, 2]
    assert len(prefixes(model)) == 2


def test_what_peft_cannot_train_along_is_refused(tmp_path):
    model = add_prefix(tiny.tiny_model("llama", "causal_lm"), 3, modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="lm_head is trained whole"):
        prefix_to_peft(model, tmp_path / "ours")
