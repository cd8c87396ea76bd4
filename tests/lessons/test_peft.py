"""The methods give the numbers of the library peft, and read and write its files.

In double precision: what is left between the two is then no rounding.
"""

import json
import re
import sys
from functools import partial

import peft
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_methods import disturbed, logits, texts
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from finetune_lessons.lab.models.probing import dummy_inputs
from finetune_lessons.lora import LoRALinear, add_lora, from_peft, to_peft
from finetune_lessons.model_surgery import eject, inject, wrappers
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
    [({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"lora_bias": True}, "lora_bias")],
)
def test_variants_of_peft_that_are_not_here_are_refused_by_name(settings, says, tmp_path):
    their_lora("bert", **settings).save_pretrained(tmp_path)
    model = tiny.tiny_model("bert")
    before = tiny.weights(model)
    with pytest.raises(ValueError, match=says):
        from_peft(model, tmp_path)
    assert tiny.same_bits(tiny.weights(model), before)


PATTERNS = {"rank_pattern": {"query": 2, "layer.0.attention.self.value": 6}, "alpha_pattern": {"value": 9}}


def changed(folder, **settings):
    "The folder, with other settings in the file of them."
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("begun", [True, "gaussian", "eva", "orthogonal", "mica", "pissa", "olora"])
def test_a_lora_gives_the_logits_of_peft_however_it_began(begun, use_rslora, tmp_path):
    theirs = disturbed(their_lora("bert", init_lora_weights=begun, use_rslora=use_rslora, **PATTERNS))
    theirs.save_pretrained(tmp_path)
    expected = logits(peft.PeftModel.from_pretrained(tiny.tiny_model("bert", dropout=False), tmp_path))
    model = tiny.tiny_model("bert", dropout=False)
    before, weights = logits(model), tiny.weights(model)
    ours = from_peft(model, tmp_path)
    assert_close(logits(ours), expected, rtol=1e-4, atol=1e-5)
    assert (expected - before).abs().max() > 1e-2
    assert tiny.same_bits(tiny.weights(eject(ours)), weights)


@pytest.mark.parametrize(("arch", "begun"), [("gpt2", "pissa"), ("llama", "olora")])
def test_what_was_taken_out_of_other_weights_is_known_too(arch, begun, tmp_path):
    disturbed(their_lora(arch, init_lora_weights=begun)).save_pretrained(tmp_path)
    expected = logits(peft.PeftModel.from_pretrained(tiny.tiny_model(arch, dropout=False), tmp_path))
    assert_close(logits(from_peft(tiny.tiny_model(arch, dropout=False), tmp_path)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("begun", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_a_beginning_that_the_files_do_not_tell_is_refused_with_what_to_do(begun, tmp_path):
    their_lora("bert").save_pretrained(tmp_path)
    changed(tmp_path, init_lora_weights=begun, loftq_config={"loftq_bits": 4})
    with pytest.raises(ValueError, match=f"{begun}.*path_initial_model_for_weight_conversion"):
        from_peft(tiny.tiny_model("bert"), tmp_path)


def test_a_pissa_that_peft_has_made_plain_loads(tmp_path):
    def model():
        return tiny.tiny_model("llama", "causal_lm", dropout=False)

    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa")
    theirs = peft.get_peft_model(model(), config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "first")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    expected, first = logits(disturbed(theirs)), str(tmp_path / "first")
    theirs.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=first)
    assert_close(logits(from_peft(model(), tmp_path / "plain")), expected, rtol=1e-4, atol=1e-4)


def test_a_head_that_is_said_to_be_there_and_is_not_is_missed(tmp_path):
    their_lora("bert").save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({key: x for key, x in load_file(file).items() if "lora_" in key}, file)
    with pytest.raises(ValueError, match="classifier was trained whole, and does not hold it"):
        from_peft(tiny.tiny_model("bert"), tmp_path)


def test_patterns_go_to_peft_and_come_back(tmp_path):
    ours = disturbed(add_lora(tiny.tiny_model("bert", dropout=False), r=4, lora_alpha=6, **PATTERNS))
    to_peft(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny.tiny_model("bert", dropout=False), tmp_path)
    assert_equal(logits(theirs.double()), logits(ours.double()))
    again = from_peft(
        tiny.tiny_model("bert", dropout=False), changed(tmp_path, rank_pattern={"q": 1} | PATTERNS["rank_pattern"])
    )
    assert_equal(logits(again.double()), logits(ours))


EMPTY = {"target_parameters": [], "loftq_config": None, "megatron_core": None, "layer_replication": [], "bias": None}


def test_what_is_empty_is_the_default(tmp_path):
    disturbed(their_lora("bert")).save_pretrained(tmp_path)
    expected = logits(from_peft(tiny.tiny_model("bert"), tmp_path))
    changed(tmp_path, **EMPTY, rank_pattern=None, alpha_pattern=None, use_rslora=None, a_later_setting=None)
    assert torch.equal(logits(from_peft(tiny.tiny_model("bert"), tmp_path)), expected)
    with pytest.raises(ValueError, match="a_later_setting=3"):
        from_peft(tiny.tiny_model("bert"), changed(tmp_path, a_later_setting=3))


def mixture():
    shape = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes = {"num_key_value_heads": 2, "num_local_experts": 4, "vocab_size": 103, "initializer_range": 0.2}
    torch.manual_seed(0)
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**shape, **sizes)).eval()


def test_a_lora_of_peft_for_a_mixture_of_experts_loads(tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    theirs = disturbed(peft.get_peft_model(mixture(), config))
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_parameters"] == []
    assert_close(logits(from_peft(mixture(), tmp_path)), logits(theirs), rtol=1e-5, atol=1e-5)
    experts = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=[], target_parameters=["experts.down_proj"])
    peft.get_peft_model(mixture(), experts).save_pretrained(tmp_path / "experts")
    with pytest.raises(ValueError, match="target_parameters"):
        from_peft(mixture(), tmp_path / "experts")


@pytest.mark.parametrize("tied", [False, True])
def test_lora_of_peft_around_a_head_that_puts_out_words_loads(tied, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head", "q_proj"])
    model = partial(tiny.tiny_model, "llama", "causal_lm", tie_word_embeddings=tied)
    theirs = disturbed(peft.get_peft_model(model(), config))
    theirs.save_pretrained(tmp_path)
    assert_close(logits(from_peft(model(), tmp_path)), logits(theirs), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="holds a .* that is not this model's own"):
        from_peft(model(seed=3), tmp_path)


def test_lora_of_peft_around_an_embedding_is_refused(tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens", "q_proj"])
    peft.get_peft_model(tiny.tiny_model("llama", "causal_lm"), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="LoRA around an embedding.*embed_tokens"):
        from_peft(tiny.tiny_model("llama", "causal_lm"), tmp_path)


def deepseek():
    shape = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 3}
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "vocab_size": 103}
    heads = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(**shape, **sizes, **heads, **experts, initializer_range=0.2)
    return transformers.DeepseekV3ForCausalLM(config).eval()


def test_a_lora_that_peft_would_read_as_another_is_refused_and_nothing_written(tmp_path):
    whole = add_lora(deepseek(), target_modules="all-linear", r=2)
    with pytest.raises(ValueError, match="peft would not make of its files .* save_method keeps it"):
        to_peft(whole, tmp_path / "whole")
    assert not list((tmp_path / "whole").glob("*"))
    attention = disturbed(add_lora(deepseek(), target_modules=["q_b_proj", "kv_b_proj", "o_proj"], r=2))
    to_peft(attention, tmp_path)
    theirs = peft.PeftModel.from_pretrained(deepseek(), tmp_path)
    assert_close(logits(theirs), logits(attention), rtol=1e-5, atol=1e-5)


def test_many_layers_go_to_peft_by_their_paths(tmp_path):
    model = partial(tiny.tiny_model, "llama", "causal_lm", num_hidden_layers=4)
    ours = disturbed(add_lora(model(), target_modules="all-linear", exclude=["layers.2", "layers.0.mlp.up_proj"], r=2))
    to_peft(ours, tmp_path)  # more than twenty, which peft shortens
    assert_close(logits(peft.PeftModel.from_pretrained(model(), tmp_path)), logits(ours), rtol=1e-5, atol=1e-5)


SOUND = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
SOUND |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 60, "pad_token_id": 1}
SOUND |= {"bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 4, "num_mel_bins": 8}
SOUND |= {"max_source_positions": 16, "classifier_proj_size": 8}
PICTURE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
PICTURE |= {"image_size": 16, "patch_size": 8}
SMALL = {
    "vocab_size": 103,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
CLASSES = {
    "WhisperForAudioClassification": ("WhisperConfig", SOUND, None),
    "WhisperForConditionalGeneration": ("WhisperConfig", SOUND, None),
    "ViTForImageClassification": ("ViTConfig", PICTURE, None),
    "BertForTokenClassification": ("BertConfig", SMALL, "TOKEN_CLS"),
    "BertForQuestionAnswering": ("BertConfig", SMALL, "QUESTION_ANS"),
    "BertForSequenceClassification": ("BertConfig", SMALL, "SEQ_CLS"),
    "BertForMaskedLM": ("BertConfig", SMALL, None),
    "BertModel": ("BertConfig", SMALL, "FEATURE_EXTRACTION"),
    "BertLMHeadModel": ("BertConfig", SMALL | {"is_decoder": True}, "CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_peft_is_told_what_the_model_does_and_where_it_came_from(kind, tmp_path):
    config, shape, task = CLASSES[kind]
    torch.manual_seed(0)
    base = getattr(transformers, kind)(getattr(transformers, config)(**shape))
    base.save_pretrained(tmp_path / "base")
    ours = disturbed(add_lora(getattr(transformers, kind).from_pretrained(tmp_path / "base"), r=2))
    to_peft(ours, tmp_path / "lora")
    described = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert described["task_type"] == task and described["base_model_name_or_path"] == str(tmp_path / "base")
    auto = "AutoPeftModel" + {
        "TOKEN_CLS": "ForTokenClassification", "QUESTION_ANS": "ForQuestionAnswering", "CAUSAL_LM": "ForCausalLM",
        "SEQ_CLS": "ForSequenceClassification", "FEATURE_EXTRACTION": "ForFeatureExtraction", None: "",
    }[task]  # fmt: skip
    theirs = getattr(peft, auto).from_pretrained(tmp_path / "lora").eval()
    inputs = dummy_inputs(ours)
    with torch.no_grad():
        for a, b in zip(ours.eval()(**inputs).values(), theirs(**inputs).values(), strict=True):
            if isinstance(a, torch.Tensor):
                assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_classifier_whose_head_is_not_trained_loads_in_peft(tmp_path):
    ours = disturbed(add_lora(tiny.tiny_model("bert"), modules_to_save=[]))
    to_peft(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny.tiny_model("bert"), tmp_path)
    assert_close(logits(theirs), logits(ours), rtol=1e-5, atol=1e-5)


def test_what_is_no_lora_is_not_written_for_peft(tmp_path):
    with pytest.raises(ValueError, match="'prefix' is no LoRA that add_lora has added"):
        to_peft(add_prefix(tiny.tiny_model("bert")), tmp_path, name="prefix")
    model = inject(tiny.tiny_model("bert"), LoRALinear, ["query"], name="own")
    with pytest.raises(ValueError, match="'own' is no LoRA that add_lora has added"):
        to_peft(model, tmp_path, name="own")


def test_without_peft_a_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    to_peft(add_lora(tiny.tiny_model("bert")), tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    for call in (lambda: to_peft(add_lora(tiny.tiny_model("bert")), tmp_path), lambda: from_peft(None, tmp_path)):
        with pytest.raises(ValueError, match="pip install peft"):
            call()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_files_of_peft_hold_what_is_beside_any_precision(dtype, tmp_path):
    ours = disturbed(add_lora(tiny.tiny_model("bert", dropout=False).to(dtype)))
    to_peft(ours, tmp_path)
    again = from_peft(tiny.tiny_model("bert", dropout=False).to(dtype), tmp_path)
    assert_close(logits(again), logits(ours), rtol=1e-6, atol=1e-6)


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
