"""LoRA around layers of half precision and of 8 or 4 bits, merged while numbers change, and around chosen layers."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import peft
import pytest
import tiny
import torch
from quantised import QUANTISED
from test_methods import disturbed, logits, texts
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from finetune_lessons.lab.models.linears import dense_weight, is_quantised, keep_gradients
from finetune_lessons.lora import LoRALinear, add_lora, merge_lora, unmerge_lora
from finetune_lessons.model_surgery import activate, disable, eject, load_method, save_method, wrappers

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]
LABELS = torch.tensor([0, 1, 1])


def loss_of(model):
    return cross_entropy(model(**texts()).logits.float(), LABELS)


def layers_of(model):
    return {path: w for w, path in wrappers(model).items() if isinstance(w, LoRALinear)}


# half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ["bert", "gpt2", "llama", "t5"])
def test_beside_half_precision_a_and_b_are_fp32_and_learn(arch, dtype):
    model = disturbed(add_lora(tiny.tiny_model(arch, dropout=False).to(dtype), r=4))
    assert {p.dtype for layer in layers_of(model).values() for p in (layer.A, layer.B)} == {torch.float32}
    assert_close(logits(model).float(), logits(model.to(dtype)).float(), rtol=0.05, atol=0.05)
    loss_of(model).backward()
    assert all(layer.B.grad.abs().sum() > 0 for layer in layers_of(model).values())


@pytest.mark.parametrize(("arch", "kind"), [("llama", "causal_lm"), ("gpt2", "causal_lm"), ("t5", "seq2seq")])
def test_a_base_in_bf16_generates(arch, kind):
    model = disturbed(add_lora(tiny.tiny_model(arch, kind).eval().to(torch.bfloat16)))
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    first = model.generate(**texts(), **settings)
    assert torch.equal(merge_lora(model).generate(**texts(), **settings)[:, :2], first[:, :2])


def test_the_same_seed_gives_the_same_a_in_every_precision():
    ours, half = (layers_of(add_lora(tiny.tiny_model("bert").to(d))) for d in (torch.float32, torch.bfloat16))
    assert all(torch.equal(ours[path].A, half[path].A) for path in ours)


# 8 and 4 bits


def quantised(model, kind):
    "The model with each linear layer that has a norm or attention around it in 8 or 4 bits, the head left as it is."
    inside = model.base_model
    if kind.startswith("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_

        quantize_(inside, Int8WeightOnlyConfig() if "int8" in kind else IntxWeightOnlyConfig(weight_dtype=torch.int4))
        return model
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for parent in list(inside.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                size, bias = (layer.in_features, layer.out_features), layer.bias is not None
                new = (
                    Linear4bit(*size, bias, quant_type="nf4")
                    if kind.endswith("4")
                    else Linear8bitLt(*size, bias, has_fp16_weights=False)
                )
                new.load_state_dict(layer.state_dict())
                setattr(parent, name, new.to("cpu").requires_grad_(False).train(layer.training))
    return model


every_kind = pytest.mark.parametrize("kind", QUANTISED)


def made(kind, arch="bert", **settings):
    pytest.importorskip("bitsandbytes" if kind.startswith("bits") else "torchao")
    return quantised(tiny.tiny_model(arch, dropout=False, **settings), kind)


@every_kind
@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_on_a_quantised_base_a_and_b_have_the_layers_own_shape_and_learn(arch, kind):
    model = add_lora(made(kind, arch), r=4, target_modules="all-linear")
    layers = layers_of(model)
    assert sum(is_quantised(layer.base) for layer in layers.values()) >= 8
    for layer in layers.values():
        assert layer.A.shape == (4, layer.in_features) and layer.B.shape == (layer.out_features, 4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        losses.append(loss_of(model.train()))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
        logits(model)  # an evaluation in between
    assert losses[-1] < losses[0] / 2


@every_kind
def test_an_evaluation_changes_no_gradient_of_a_quantised_base(kind):
    model = disturbed(add_lora(made(kind), r=4))

    def gradients():
        model.zero_grad()
        loss_of(model.train()).backward()
        return [layer.A.grad.clone() for layer in layers_of(model).values()]

    first = gradients()
    logits(model)
    assert_close(gradients(), first, rtol=1e-5, atol=1e-6)


@every_kind
def test_a_lora_of_a_quantised_base_is_saved_loaded_and_taken_out(kind, tmp_path):
    model = made(kind)
    save_method(disturbed(add_lora(model, r=4)), tmp_path)
    again = load_method(made(kind), tmp_path)
    assert torch.equal(logits(again), logits(model))
    with disable(again):
        off = logits(again)
    eject(again)
    assert torch.equal(logits(again), off) and not torch.equal(logits(model), off)


@every_kind
def test_merged_quantised_layers_are_dense_and_the_error_is_said(kind):
    model = disturbed(add_lora(made(kind), r=4))
    before = logits(model)
    with pytest.warns(UserWarning, match=r"4 layers .* 8 or 4 bits are dense now.*%.*on average") as said:
        merge_lora(model)
    assert len([w for w in said if "dense now" in str(w.message)]) == 1
    assert_close(logits(model), before, rtol=0.02, atol=0.02)
    assert torch.equal(logits(unmerge_lora(model)), before)
    merge_lora(model)
    trained_further(model, None)
    with warnings.catch_warnings(record=True) as said:
        logits(model)
    assert not [w for w in said if "dense now" in str(w.message)]  # once a merge


@every_kind
def test_ejecting_merged_says_once_how_far_off_the_dense_layers_are(kind):
    model = disturbed(add_lora(made(kind), r=4))
    before = logits(model)
    with pytest.warns(UserWarning, match=r"4 layers .* dense now") as said:
        eject(model, merge=True)
    assert len([w for w in said if "dense now" in str(w.message)]) == 1
    assert_close(logits(model), before, rtol=0.02, atol=0.02)


def test_a_head_in_4_bits_is_trained_whole():
    model = made("bitsandbytes 4")
    layer = model.bert.pooler.dense
    add_lora(model, r=4, modules_to_save=["classifier", "pooler.dense"])
    loss_of(model.train()).backward()
    assert type(model.bert.pooler.dense.copy) is nn.Linear and model.bert.pooler.dense.copy.weight.grad.abs().sum() > 0
    assert model.bert.pooler.dense.base is layer


@every_kind
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_merged_layer_has_the_models_type(kind, dtype, bias):
    layer = nn.Sequential(nn.LayerNorm(64).to(dtype), QUANTISED[kind](dtype, bias))
    model = add_lora(layer, target_modules=["1"])
    eject(model, merge=True)
    assert type(model[1]) is nn.Linear and model[1].weight.dtype == dtype
    assert model(torch.ones(1, 64, dtype=dtype)).dtype == dtype


# merged, while something changes


def trained_further(model, other):
    with torch.no_grad():
        for layer in layers_of(model).values():
            layer.B.add_(0.1)


CHANGES = {
    "load_state_dict": lambda model, other: model.load_state_dict(other.state_dict()),
    "double": lambda model, other: model.double(),
    "half and back": lambda model, other: model.bfloat16().float(),
    "trained further": trained_further,
    "one of two switched off": lambda model, other: activate(model, "lora"),
    "the other switched off": lambda model, other: activate(model, "second"),
    "counted half": lambda model, other: activate(model, {"lora": 0.5, "second": 0.3}),
    "new tensors": lambda model, other: [
        setattr(layer, "B", nn.Parameter(layer.B.detach() + 1)) for layer in layers_of(model).values()
    ],
    "another scale": lambda model, other: [setattr(layer, "s", 3.0) for layer in layers_of(model).values()],
}


def twofold(seed=0):
    model = add_lora(tiny.tiny_model("bert", seed=seed), r=3)
    return disturbed(add_lora(model, r=3, name="second", seed=seed + 1)).eval()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("merged", [("second",), ("lora",), ("lora", "second")])
def test_merged_lora_is_never_stale(merged, change):
    model, plain = twofold(), twofold()
    for name in merged:
        merge_lora(model, name)
    before = logits(model)
    for one in (model, plain):
        CHANGES[change](one, twofold(seed=5))
    assert_close(logits(model), logits(plain), rtol=1e-4, atol=1e-5)
    assert (logits(plain).float() - before).abs().max() > 1e-3 or change == "double"


@pytest.mark.parametrize("kind", ["torchao int8", "bitsandbytes 4"])
def test_a_quantised_weight_that_is_written_shows_when_merged(kind):
    model = disturbed(add_lora(made(kind), r=4))
    merge_lora(model)
    logits(model)
    other = made(kind, seed=3)
    keep_gradients(other)
    for path, layer in layers_of(model).items():
        layer.base = other.get_submodule(path)
    merged = logits(model)
    assert_close(merged, logits(unmerge_lora(model)), rtol=0.02, atol=0.02)


def test_merging_leaves_what_is_merged_inside_as_it_is():
    model = twofold()
    weights = tiny.weights(model)
    merge_lora(model, "second")
    logits(model)
    assert tiny.same_bits(tiny.weights(model), weights)


def test_eight_threads_use_a_merged_lora_that_changes_in_between():
    model, plain = twofold(), twofold()
    merge_lora(merge_lora(model), "second")
    for _ in range(3):
        for one in (model, plain):
            trained_further(one, None)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: logits(model), range(32)))
        assert all(torch.equal(answer, answers[0]) for answer in answers)
        assert_close(answers[0], logits(plain), rtol=1e-4, atol=1e-5)


# which layers


def theirs(arch, kind="causal_lm", **settings):
    "The layers that peft takes, with rank and scale."
    model = peft.get_peft_model(tiny.tiny_model(arch, kind), peft.LoraConfig(**settings)).get_base_model()
    return {
        path: (m.r["default"], m.scaling["default"])
        for path, m in model.named_modules()
        if isinstance(m, peft.tuners.lora.LoraLayer)
    }


def ours(arch, kind="causal_lm", **settings):
    return {path: (len(m.A), m.s) for path, m in layers_of(add_lora(tiny.tiny_model(arch, kind), **settings)).items()}


@pytest.mark.parametrize("arch", ["gpt2", "llama", "opt", "qwen2"])
def test_all_linear_is_what_peft_takes(arch):
    assert ours(arch, target_modules="all-linear", lora_alpha=8) == theirs(arch, target_modules="all-linear")


def test_all_linear_leaves_out_the_head_that_is_trained_whole():
    found = ours("bert", "classifier", target_modules="all-linear")
    assert len(found) == 2 * 6 + 1 and "bert.pooler.dense" in found and "classifier" not in found


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": r"model\.layers\.1\..*_proj"},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 4, r"layers\.1\.self_attn\.v_proj": 2}},
        {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {r"layers\.\d\.mlp\.up_proj": 2, "up_proj": 5}},
        {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 5, r"layers\.\d\.mlp\.up_proj": 2}},
        {"target_modules": ["q_proj"], "alpha_pattern": {"model.layers.0.self_attn.q_proj": 32}, "use_rslora": True},
    ],
)
def test_patterns_mean_what_they_mean_in_peft(settings):
    assert ours("llama", lora_alpha=8, **settings) == theirs("llama", **settings)


@pytest.mark.parametrize("settings", [{"layers": [1], "target_modules": ["q_proj"]}, {"layers": 1}])
def test_layers_are_those_of_peft(settings):
    names = settings.get("target_modules", ["q_proj", "v_proj"])
    assert ours("llama", lora_alpha=8, **settings) == theirs("llama", target_modules=names, layers_to_transform=[1])


def test_what_is_excluded_is_what_peft_excludes():
    settings = {"target_modules": ["q_proj", "down_proj"]}
    without = theirs("llama", exclude_modules=["layers.0.mlp.down_proj"], **settings)
    assert ours("llama", lora_alpha=8, exclude=["layers.0.mlp.down_proj"], **settings) == without
    inside = ours("llama", target_modules="all-linear", exclude="mlp")
    assert inside and not [path for path in inside if ".mlp." in path]


GIVEN = {
    "set": {"value", "query"},
    "dict keys": dict.fromkeys(["query", "value"]).keys(),
    "tuple": ("query", "value"),
    "generator": (name for name in ("query", "value")),
    "array": np.array(["query", "value"]),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_any_collection_of_names_and_any_number_is_kept_as_json(kind, tmp_path):
    model = disturbed(
        add_lora(tiny.tiny_model("bert"), r=np.int64(3), lora_alpha=np.float32(6), target_modules=GIVEN[kind])
    )
    save_method(model, tmp_path)
    kept = json.loads((tmp_path / "method.json").read_text())["arguments"]
    assert kept["target_modules"] == ["query", "value"] and kept["r"] == 3 and kept["lora_alpha"] == 6.0
    assert torch.equal(logits(load_method(tiny.tiny_model("bert"), tmp_path)), logits(model))


def test_every_setting_comes_back_from_a_file(tmp_path):
    settings = {"target_modules": "all-linear", "layers": [1], "exclude": ["output"], "rank_pattern": {"query": 5}}
    model = disturbed(add_lora(tiny.tiny_model("bert"), r=2, alpha_pattern={"key": 3}, **settings))
    save_method(model, tmp_path)
    loaded = load_method(tiny.tiny_model("bert"), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert {path: len(layer.A) for path, layer in layers_of(loaded).items()} == {
        f"bert.encoder.layer.1.{name}": 5 if name.endswith("query") else 2
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense")
    }


class Encoder(nn.Module):
    "torch's own layers, which read the weights of theirs."

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.layer(x))


def dynamic():
    return torch.ao.quantization.quantize_dynamic(tiny.tiny_model("bert"), {nn.Linear}, torch.qint8)


NAMES = "query, key, value, dense"


@pytest.mark.parametrize(
    ("make", "settings", "says"),
    [
        ("bert", {"target_modules": []}, rf"target_modules= has to name .*{NAMES}"),
        ("bert", {"target_modules": ["qeury"]}, rf"target_modules='qeury' names no module .*{NAMES}"),
        ("bert", {"target_modules": "embeddings"}, rf"given: BertEmbeddings of .*{NAMES}"),
        ("bert", {"target_modules": "(query"}, "regular expression"),
        ("bert", {"layers": [7]}, r"layers=\[7\].*\[0, 1\]"),
        ("bert", {"exclude": ["nothing"]}, "nothing"),
        ("bert", {"r": True}, "r is a rank.*True"),
        ("bert", {"r": 2.5}, "r is a rank.*2.5"),
        ("bert", {"rank_pattern": {"query": 0}}, "r is a rank.*0"),
        ("bert", {"rank_pattern": {"dense": 4}}, "rank_pattern= .* 'dense'"),
        ("bert", {"alpha_pattern": {"typo": 4}}, "alpha_pattern= .* 'typo'"),
        (Encoder, {"target_modules": "out_proj"}, "out_proj, whose weight nn.MultiheadAttention reads"),
        (Encoder, {"target_modules": "linear1"}, "nn.TransformerEncoderLayer, in evaluation, reads"),
        (Encoder, {"target_modules": "all-linear"}, "exclude="),
        (dynamic, {}, "Linear of torch.ao.nn.quantized"),
        (dynamic, {"target_modules": "all-linear"}, "Linear of torch.ao.nn.quantized"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_leaves_the_model_as_it_was(make, settings, says):
    model = tiny.tiny_model(make) if isinstance(make, str) else make()
    required = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=says):
        add_lora(model, **settings)
    assert not wrappers(model) and required == {name: p.requires_grad for name, p in model.named_parameters()}


def test_torch_own_layers_can_be_left_out_by_name():
    model = add_lora(Encoder(), target_modules="all-linear", exclude="layer")
    assert layers_of(model).keys() == {"head"}


def test_the_dense_weight_of_a_merged_layer_is_the_sum():
    layer = disturbed(LoRALinear(QUANTISED["bitsandbytes 4"](), r=2, lora_alpha=3))
    expected = dense_weight(layer.base) + 1.5 * layer.B @ layer.A
    assert_close(dense_weight(layer.merged()), expected.detach(), rtol=1e-6, atol=1e-6)
