"""The methods give the numbers of the library peft, and read and write its files.

In double precision: what is left between the two is then no rounding.
"""

import json
import re

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from test_methods import disturbed, logits, texts
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from finetune_lessons.lora import LoRALinear, add_lora, from_peft, to_peft
from finetune_lessons.model_surgery import wrappers
from finetune_lessons.prefix_tuning import add_prefix, prefixes
from finetune_lessons.prompt_tuning import add_prompt, soft_prompt

every_architecture = pytest.mark.parametrize("arch", tiny.EVERY)
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
TARGETS = {
    "distilbert": ["q_lin", "v_lin"], "modernbert": ["Wqkv"], "gpt2": ["c_attn"], "t5": ["q", "v"],
    **dict.fromkeys(("bert", "roberta", "electra"), ["query", "value"]),
    **dict.fromkeys(("opt", "llama", "qwen2", "bart"), ["q_proj", "v_proj"]),
}  # fmt: skip
HEADS = {
    "distilbert": ["pre_classifier", "classifier"], "modernbert": ["head", "classifier"],
    **dict.fromkeys(tiny.DECODERS, ["score"]), **dict.fromkeys(tiny.ENCODER_DECODERS, ["classification_head"]),
}  # fmt: skip


def their_lora(arch, **settings):
    settings = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS[arch]} | settings
    settings |= {"modules_to_save": HEADS.get(arch, ["classifier"])}  # peft leaves out what has another name
    config = peft.LoraConfig(task_type="SEQ_CLS", fan_in_fan_out=arch == "gpt2", **settings)
    return peft.get_peft_model(tiny.tiny_model(arch, dropout=False), config)


def pairs(ours, theirs):
    "Our parameters and theirs, side by side."
    named = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            path = re.sub(r"\.([AB])$", r".lora_\1.default.weight", name)
            path = re.sub(r"\.copy\.", ".modules_to_save.default.", path)
            yield parameter, named[f"base_model.model.{path}"]


def with_the_numbers_of(theirs, ours):
    with torch.no_grad():
        for a, b in pairs(ours, theirs):
            a.copy_(b)
    return ours


def assert_equal(a, b):
    assert_close(a, b, rtol=1e-7, atol=1e-7)


def loss(model):
    return cross_entropy(model(**texts()).logits, torch.tensor([0, 1, 1]))


@every_architecture
@pytest.mark.parametrize("use_rslora", [False, True])
def test_lora_has_the_logits_and_gradients_of_peft(arch, use_rslora):
    theirs = disturbed(their_lora(arch, use_rslora=use_rslora))
    ours = add_lora(tiny.tiny_model(arch, dropout=False), r=4, lora_alpha=6, use_rslora=use_rslora)
    with_the_numbers_of(theirs, ours)
    assert_equal(logits(ours.double()), logits(theirs.double()))
    loss(ours).backward()
    loss(theirs).backward()
    found = [(a.grad, b.grad) for a, b in pairs(ours, theirs)]
    assert len(found) == sum(p.requires_grad for p in theirs.parameters())
    for a, b in found:
        assert_equal(a, b)


@every_architecture
def test_lora_and_peft_stay_together_in_training(arch):
    theirs = disturbed(their_lora(arch)).eval()
    ours = with_the_numbers_of(theirs, add_lora(tiny.tiny_model(arch, dropout=False), r=4, lora_alpha=6)).eval()
    for model in (ours.double(), theirs.double()):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(20):
            loss(model).backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in pairs(ours, theirs):
        assert_equal(a, b)


@every_architecture
def test_peft_loads_our_lora(arch, tmp_path):
    ours = disturbed(add_lora(tiny.tiny_model(arch), r=3, lora_alpha=5))
    to_peft(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny.tiny_model(arch), tmp_path)
    assert_equal(logits(theirs.double()), logits(ours.double()))


@every_architecture
def test_a_lora_trained_by_peft_loads_here(arch, tmp_path):
    theirs = disturbed(their_lora(arch, use_rslora=True))
    theirs.save_pretrained(tmp_path)
    ours = from_peft(tiny.tiny_model(arch, dropout=False), tmp_path)
    assert_equal(logits(ours.double()), logits(theirs.double()))
    assert {len(wrapper.A) for wrapper in wrappers(ours) if isinstance(wrapper, LoRALinear)} == {4}


@pytest.mark.parametrize("arch", tiny.DECODERS)
def test_a_decoder_with_lora_keeps_its_head_in_peft(arch, tmp_path):
    ours = disturbed(add_lora(tiny.tiny_model(arch, "causal_lm")))
    to_peft(ours, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    theirs = peft.PeftModel.from_pretrained(tiny.tiny_model(arch, "causal_lm"), tmp_path)
    assert_equal(logits(theirs.double()), logits(ours.double()))


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"rank_pattern": {"query": 2}}, "rank_pattern")],
)
def test_variants_of_peft_that_are_not_here_are_refused_by_name(settings, says, tmp_path):
    their_lora("bert", **settings).save_pretrained(tmp_path)
    model = tiny.tiny_model("bert")
    before = tiny.weights(model)
    with pytest.raises(ValueError, match=says):
        from_peft(model, tmp_path)
    assert tiny.same_bits(tiny.weights(model), before)


def test_other_methods_and_damaged_files_of_peft_are_refused(tmp_path):
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    peft.get_peft_model(tiny.tiny_model("bert"), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ValueError, match="PROMPT_TUNING, not LoRA"):
        from_peft(tiny.tiny_model("bert"), tmp_path / "prompt")
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        from_peft(tiny.tiny_model("bert"), tmp_path)
    their_lora("bert").save_pretrained(tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop("base_model.model.bert.encoder.layer.1.attention.self.value.lora_B.weight")
    save_file(tensors, file)
    model = tiny.tiny_model("bert")
    with pytest.raises(ValueError, match="lora_B"):
        from_peft(model, tmp_path / "lora")
    assert not wrappers(model) and all(p.requires_grad for p in model.parameters())


def prefix_parity(arch, kind, task):
    config = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3)
    theirs = peft.get_peft_model(tiny.tiny_model(arch, kind, dropout=False), config)
    table = theirs.prompt_encoder["default"].embedding.weight.detach()  # (tokens, layers * 2 * width)
    ours = add_prefix(tiny.tiny_model(arch, kind, dropout=False), num_virtual_tokens=3)
    with torch.no_grad():
        for layer, wrapper in enumerate(prefixes(ours).values()):
            heads, n, width = wrapper.shape
            columns = table[:, 2 * layer * heads * width : 2 * (layer + 1) * heads * width]
            wrapper.table.copy_(columns.view(n, 2, heads, width).permute(1, 2, 0, 3))
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("arch", tiny.DECODERS)
def test_a_prefix_has_the_logits_of_peft(arch):
    ours, theirs = prefix_parity(arch, "causal_lm", "CAUSAL_LM")
    batch = texts()
    positions = torch.arange(12).expand(3, -1) + 3  # peft counts the prefix
    if arch == "opt":  # takes its positions from the mask
        batch = {name: x[:1] for name, x in batch.items()}
        positions = positions[:1]
    with torch.no_grad():
        expected = theirs(**batch).logits
        assert_close(ours(**batch, position_ids=positions).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["bert", "electra"])
def test_a_prefix_of_an_encoder_has_the_logits_of_peft(arch):
    ours, theirs = prefix_parity(arch, "classifier", "SEQ_CLS")
    positions = torch.arange(12).expand(3, -1) + 3  # peft counts the prefix
    with torch.no_grad():
        assert_close(ours(**texts(), position_ids=positions).logits, logits(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", [a for a in tiny.EVERY if a not in tiny.ENCODER_DECODERS])
def test_a_prompt_has_the_logits_of_peft(arch):
    kind = "causal_lm" if arch in tiny.DECODERS else "classifier"
    task = "CAUSAL_LM" if kind == "causal_lm" else "SEQ_CLS"
    config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=3, token_dim=32, num_layers=2)
    config.num_attention_heads = 4  # peft does not find it in every config
    theirs = peft.get_peft_model(tiny.tiny_model(arch, kind, dropout=False), config).eval()
    ours = add_prompt(tiny.tiny_model(arch, kind, dropout=False), num_virtual_tokens=3).eval()
    with torch.no_grad():
        soft_prompt(ours).vectors.copy_(theirs.prompt_encoder["default"].embedding.weight)
        expected = theirs(**texts()).logits
        if kind == "causal_lm":
            expected = expected[:, 3:]  # without the prompt's own
        assert_close(ours(**texts()).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("arch", "words"), [("gpt2", "wte"), ("llama", "embed_tokens")])
def test_a_shared_weight_that_is_trained_whole_is_not_written_for_peft(arch, words, tmp_path):
    model = add_lora(tiny.tiny_model(arch, "causal_lm", tie_word_embeddings=True), r=2, modules_to_save=[words])
    with pytest.raises(ValueError, match="shares the weight of another module that is trained whole.*save_method"):
        to_peft(model, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
