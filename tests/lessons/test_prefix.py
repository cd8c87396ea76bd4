"""Prefixes on attention of every kind, or one sentence; what a call changes, and what it must not."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
import transformers
import zoo
from torch.testing import assert_close

from finetune_lessons.distillation import look_inside
from finetune_lessons.lab.models.modes import mode
from finetune_lessons.model_surgery import disable, eject, load_method, pretrained, save_method, wrappers
from finetune_lessons.prefix_tuning import (
    Recorder,
    add_prefix,
    attention_modules,
    drop_reparametrization,
    extend_mask,
    init_prefix,
    prefixes,
    record_keys_and_values,
)

REFUSED = (
    "big_bird convbert deberta deberta-v2 fnet funnel ibert longformer megatron-bert nystromformer rembert roformer "
    "squeezebert xlnet gpt_neo deepseek_v3 falcon_mamba mamba mamba2 rwkv led prophetnet"
).split()
OWN_WAYS = ("bloom", "codegen", "falcon", "gptj", "mpnet", "mpt")  # ask no interface
KIND = {arch: kind for arch, kind in reversed(zoo.PAIRS) if kind != "question_answering"}
THROUGH_THE_INTERFACE = [arch for arch in zoo.ARCHITECTURES if arch not in (*REFUSED, *OWN_WAYS)]


@torch.no_grad()
def logits(model):
    return model(**zoo.inputs(model)).logits


def configs(model):
    return {name: module.config for name, module in model.named_modules() if "config" in vars(module)}


# what a call changes


@pytest.mark.parametrize(("arch", "kind"), [("bert", "classifier"), ("llama", "causal_lm"), ("falcon", "causal_lm")])
def test_eight_threads_have_the_bits_of_one(arch, kind):
    model = add_prefix(zoo.model(arch, kind), 3)
    expected = logits(model)
    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(logits, [model] * 1000))
    assert torch.equal(logits(model), expected)


def test_a_call_that_fails_in_the_middle_harms_no_other_and_not_the_model():
    model = add_prefix(zoo.model("llama", "causal_lm"), 3)
    expected, before = logits(model), model.config._attn_implementation
    last = list(prefixes(model).values())[-1].base
    last.v_proj.register_forward_hook(lambda layer, inputs, output: 1 / 0 if len(output) == 1 else None)

    def call(fails):
        if fails:
            with pytest.raises(ZeroDivisionError):
                model(torch.tensor([[7, 8]]))
        return fails or torch.equal(logits(model), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, [False, True] * 100))
    assert torch.equal(logits(model), expected) and model.config._attn_implementation == before


def test_one_thread_may_use_the_prefix_while_another_has_it_disabled():
    model, plain = zoo.model("bert", "classifier"), zoo.model("bert", "classifier")
    expected = logits(add_prefix(model, 3))
    (first, *_) = prefixes(model).values()
    seen = []
    first.base.value.register_forward_hook(lambda *_: seen.append(first.base.config._attn_implementation))
    logits(model)
    with disable(model):
        assert torch.equal(logits(model), logits(plain))
    inside, outside = seen
    assert inside != outside == plain.config._attn_implementation == first.base.config._attn_implementation
    assert torch.equal(logits(model), expected)


def test_the_configuration_is_the_models_own_with_a_prefix_and_after_it():
    model = zoo.model("gemma3_text", "causal_lm")
    before = configs(model)
    expected = logits(add_prefix(model, 3))
    model.set_attn_implementation("eager")
    (first, *_) = prefixes(model).values()
    assert first.base.config._attn_implementation == "eager" and first.base.config.hidden_size == 32
    assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    first.base.config.new_setting = 5
    assert model.config.new_setting == 5
    for again in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        again.set_attn_implementation("sdpa")
        assert torch.equal(logits(again), expected)
        assert model.config._attn_implementation == "eager" and again.config is not model.config
    add_prefix(model, 2, name="second")
    eject(model, "second")
    assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    eject(model)
    after = configs(model)
    assert all(after[name] is config for name, config in before.items()) and after.keys() == before.keys()


def test_each_module_keeps_its_mode():
    model = tiny.tiny_model("bert").train()
    model.bert.encoder.layer[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    record_keys_and_values(model, torch.tensor([[7, 8]]))
    assert {name: module.training for name, module in model.named_modules()} == before
    add_prefix(model, 3)
    assert not model.bert.encoder.layer[0].output.training and model.bert.encoder.layer[1].output.training


# attention of every kind


@pytest.mark.parametrize("arch", THROUGH_THE_INTERFACE)
def test_a_prefix_is_the_models_plain_attention_with_more_keys(arch, monkeypatch):
    if "t5" in arch:
        zoo.needs_transformers("5.20", "T5's attention is its own, which this test cannot replace")
    model, by_hand = (zoo.model(arch, KIND[arch]) for _ in range(2))
    add_prefix(model, 3)
    by_hand.set_attn_implementation("eager")
    there = attention_modules(by_hand)
    tables = {there[path]: wrapper.table.detach() for path, wrapper in prefixes(model).items()}
    for source in {sys.modules[type(attention).__module__] for attention in there.values()}:

        def attend(module, query, key, value, mask, position_bias=None, plain=source.eager_attention_forward, **more):
            prefix = tables[module][:, None].repeat(1, len(key), 1, 1, 1)
            before = torch.zeros(len(query), 1, query.shape[2], 3)
            if mask is None and query.shape[2] > 1 and module.is_causal:
                mask = torch.full((query.shape[2], key.shape[2]), -torch.inf).triu(1).expand(len(query), 1, -1, -1)
            if mask is not None:
                mask = torch.cat([before.expand(-1, mask.shape[1], -1, -1), mask.expand(len(query), -1, -1, -1)], -1)
            if position_bias is not None:
                more["position_bias"] = torch.cat([before[:1].expand(1, query.shape[1], -1, -1), position_bias], -1)
            key, value = (torch.cat(pair, dim=2) for pair in zip(prefix, (key, value), strict=True))
            return plain(module, query, key, value, mask, **more)

        monkeypatch.setattr(source, "eager_attention_forward", attend)
    expected = logits(by_hand)
    monkeypatch.undo()
    assert not torch.allclose(expected, logits(by_hand), atol=1e-4)
    assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", OWN_WAYS)
def test_where_attention_asks_no_interface_a_prefix_learns_and_leaves_without_a_trace(arch):
    model = zoo.model(arch, KIND[arch])
    before = logits(model)
    add_prefix(model, 3)
    with disable(model):
        assert torch.equal(logits(model), before)
    changed = model(**zoo.inputs(model)).logits
    assert not torch.allclose(changed, before, atol=1e-3)
    changed.square().mean().backward()
    assert len(prefixes(model)) == 2 and all(wrapper.table.grad.any() for wrapper in prefixes(model).values())
    assert torch.equal(logits(eject(model)), before)


def test_a_prefix_of_mpnet_is_attention_with_more_keys():
    model = add_prefix(zoo.model("mpnet", "classifier"), 3)
    (first, *_) = prefixes(model).values()
    calls = []
    first.register_forward_hook(lambda module, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True)
    logits(model)
    ((hidden, mask, bias), _, (output,)) = calls[0]
    q, k, v = (layer(hidden).view(3, 12, 4, 8).transpose(1, 2) for layer in (first.q, first.k, first.v))
    (k, v) = (torch.cat([p.expand(3, -1, -1, -1), x], 2) for p, x in zip(first.table, (k, v), strict=True))
    seen = torch.cat([torch.zeros(3, 4, 12, 3), mask + bias.expand(3, -1, -1, -1)], -1)
    expected = first.o(F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2))
    assert mask.min() < -1e9 and bias.any()
    assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", OWN_WAYS)
def test_two_prefixes_are_one_of_both(arch):
    model, both = (zoo.model(arch, KIND[arch]) for _ in range(2))
    add_prefix(add_prefix(model, 2), 3, name="outer", seed=1)
    add_prefix(both, 5)
    outer, inner = prefixes(model, "outer").values(), prefixes(model).values()
    for one, a, b in zip(prefixes(both).values(), outer, inner, strict=True):
        one.table.data = torch.cat([a.table.data, b.table.data], dim=2)
    assert_close(logits(model), logits(both), rtol=1e-5, atol=1e-5)
    with disable(model, "outer"):
        alone = logits(model)
    assert torch.equal(logits(eject(model, "outer")), alone)


@pytest.mark.parametrize("arch", ["bloom", "codegen", "falcon", "gptj", "mpt", "gpt_neox", "phi"])
def test_generating_with_a_cache_and_without_is_the_same(arch):
    model = add_prefix(zoo.model(arch, "causal_lm"), 3)
    ids = torch.tensor([[0, 0, 7, 8, 9], [10, 11, 12, 13, 14]])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "attention_mask": (ids > 0).long()}
    cached, uncached = (model.generate(ids, use_cache=use, **settings) for use in (True, False))
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("arch", ["bloom", "falcon", "mpt", "llama"])
def test_a_prefix_from_a_text_is_that_text_in_front(arch):
    model = zoo.model(arch, "causal_lm")
    text, more = torch.tensor([[7, 8, 9]]), torch.tensor([[10, 11, 12, 13]])
    with torch.no_grad():
        expected = model(torch.cat([text, more], 1)).logits[:, 3:]
        init_prefix(add_prefix(model, 3), text)
        positions = {} if arch in ("bloom", "mpt") else {"position_ids": torch.arange(3, 7)[None]}
        assert_close(model(more, **positions).logits, expected, rtol=1e-4, atol=1e-4)


def test_the_bias_of_positions_counts_a_prefix_as_a_text_in_front():
    config = zoo.config("falcon")
    config.alibi, config.new_decoder_architecture = True, False
    text, more = torch.tensor([[7, 8, 9]]), torch.tensor([[10, 11, 12, 13]])
    model = type(zoo.model("falcon", "causal_lm"))(config).eval()
    with torch.no_grad():
        expected = model(torch.cat([text, more], 1)).logits[:, 3:]
        init_prefix(add_prefix(model, 3), text)
        assert_close(model(more).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", REFUSED)
def test_what_a_prefix_cannot_get_into_is_refused_before_anything_is_changed(arch):
    model = zoo.model(arch, KIND[arch])
    before, required = logits(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=rf"(?s){type(model).__name__}.*add_lora"):
        add_prefix(model, 3)
    assert not wrappers(model) and [p.requires_grad for p in model.parameters()] == required
    assert torch.equal(logits(model), before)
    assert not [m for m in model.modules() if isinstance(m, Recorder)]


def test_a_text_is_no_start_for_what_reads_pictures():
    model = add_prefix(zoo.model("vit", "image_classifier"), 3)
    with pytest.raises(ValueError, match="ViTForImageClassification reads pixel_values"):
        init_prefix(model, torch.tensor([[7, 8, 9]]))


# the network behind a prefix


def test_a_reparametrised_prefix_can_be_saved_copied_and_loaded(tmp_path):
    model = add_prefix(tiny.tiny_model("bert"), 3, reparametrization=8).eval()
    model.save_pretrained(tmp_path / "whole")
    names = [name for name, _ in model.named_parameters(remove_duplicate=False) if "trunk" in name]
    assert len(names) == 3  # of one network
    expected = model(**zoo.inputs(model)).logits
    for again in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(**zoo.inputs(again)).logits, expected)
        trunks = {wrapper.shared[0] for wrapper in prefixes(again).values()}
        assert len(trunks) == 1 and trunks.isdisjoint(wrapper.shared[0] for wrapper in prefixes(model).values())
    save_method(model, tmp_path / "method")
    loaded = load_method(tiny.tiny_model("bert"), tmp_path / "method").eval()
    assert torch.equal(loaded(**zoo.inputs(loaded)).logits, expected)
    assert torch.equal(logits(drop_reparametrization(model)), expected)
    assert not [name for name in model.state_dict() if "trunk" in name or "branch" in name]


# types and arguments


@pytest.mark.parametrize("arch", ["llama", "bloom", "falcon", "mpnet", "vit"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_prefix_of_a_half_precision_base_is_kept_in_fp32(arch, dtype):
    model = zoo.model(arch, KIND[arch]).to(dtype)
    add_prefix(model, 3, modules_to_save=[])
    assert {wrapper.table.dtype for wrapper in prefixes(model).values()} == {torch.float32}
    output = model(**{name: x.to(dtype) if x.is_floating_point() else x for name, x in zoo.inputs(model).items()})
    assert output.logits.dtype == dtype
    output.logits.float().square().mean().backward()
    assert all(wrapper.table.grad.isfinite().all() for wrapper in prefixes(model).values())


@pytest.mark.parametrize("n", [np.int64(3), torch.tensor(3)])
def test_the_number_of_virtual_tokens_may_be_any_kind_of_whole_number(n):
    model = add_prefix(tiny.tiny_model("bert"), n).eval()
    assert {type(wrapper.shape[1]) for wrapper in prefixes(model).values()} == {int}


@pytest.mark.parametrize(
    ("name", "wrong"), [("num_virtual_tokens", 2.5), ("num_virtual_tokens", True), ("reparametrization", -1)]
)
def test_numbers_that_are_none_are_refused(name, wrong):
    model = tiny.tiny_model("bert")
    with pytest.raises(ValueError, match=f"{name} must be at least 1, a whole number"):
        add_prefix(model, **{name: wrong})
    assert not wrappers(model)


@pytest.mark.parametrize("ids", [torch.tensor([7, 8, 9]), torch.tensor([[7, 8], [9, 10]])])
def test_a_start_is_one_text(ids):
    model = add_prefix(tiny.tiny_model("bert"), 2)
    with pytest.raises(ValueError, match="one text"):
        init_prefix(model, ids)


def test_a_prefix_lies_around_the_pretrained_attention():
    model = tiny.tiny_model("bert")
    there = attention_modules(model)
    add_prefix(model, 2)
    assert {path: pretrained(wrapper) for path, wrapper in prefixes(model).items()} == there


def test_the_mask_of_flex_attention_gets_columns_too():
    from torch.nn.attention.flex_attention import create_block_mask, create_mask

    padded = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    mask = create_block_mask(lambda b, h, q, k: (k <= q) & padded[b, k], 2, None, 5, 5, "cpu")
    longer = extend_mask(mask, 3, torch.zeros(2, 4, 5, 8), 5, causal=True)
    seen = create_mask(longer.mask_mod, 2, 1, 5, 8, "cpu")
    expected = torch.ones(5, 5, dtype=torch.bool).tril() & padded[:, None, None]
    assert longer.shape == (2, 1, 5, 8) and seen[..., :3].all() and torch.equal(seen[..., 3:], expected)


def test_a_prefix_of_a_base_in_4_bits_learns_and_is_loaded_also_when_it_was_in_evaluation_before(tmp_path):
    pytest.importorskip("bitsandbytes")
    config = zoo.config("llama")
    config.hidden_size, config.intermediate_size, config.head_dim, config.num_key_value_heads = 64, 128, 16, 4
    type(zoo.model("llama", "causal_lm"))(config).save_pretrained(tmp_path / "base")

    def in_4_bits():
        bits = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
        return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=bits)

    def evaluated(model):
        with mode(model, False):
            return logits(model)

    model = in_4_bits()
    before = evaluated(model)
    add_prefix(model, 3)
    assert not torch.allclose(evaluated(model), before, atol=1e-2)
    model.train()(**zoo.inputs(model)).logits.square().mean().backward()
    assert all(wrapper.table.grad.any() for wrapper in prefixes(model).values())
    save_method(model, tmp_path / "prefix")
    assert torch.equal(evaluated(load_method(in_4_bits(), tmp_path / "prefix")), evaluated(model))


@pytest.mark.parametrize(
    ("arch", "arguments", "expected"),
    [
        ("bert", {"layers": [1]}, ["bert.encoder.layer.1.attention.self"]),
        ("bert", {"exclude": "layer.0"}, ["bert.encoder.layer.1.attention.self"]),
        (
            "mt5",
            {"layers": [0], "exclude": ["encoder", "EncDecAttention"]},
            ["transformer.decoder.block.0.layer.0.SelfAttention"],
        ),
    ],
)
def test_a_prefix_is_where_it_is_asked_for_and_is_loaded_there(arch, arguments, expected, tmp_path):
    model = add_prefix(zoo.model(arch, KIND[arch]), 3, **arguments)
    assert list(prefixes(model)) == expected
    save_method(model, tmp_path)
    again = load_method(zoo.model(arch, KIND[arch]), tmp_path)
    assert list(prefixes(again)) == expected and torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"layers": [7]}, "in layer 7"),
        ({"layers": []}, "leave no attention"),
        ({"exclude": "nothing"}, "nothing"),
        ({"exclude": "encoder"}, "leave no attention"),
    ],
)
def test_places_that_are_not_there_are_refused(arguments, why):
    model = zoo.model("bert", "classifier")
    with pytest.raises(ValueError, match=why):
        add_prefix(model, 3, **arguments)
    assert not wrappers(model)


def test_a_layer_without_attention_is_refused_unless_the_model_is_a_hybrid():
    model = zoo.model("llama", "causal_lm")
    model.model.layers[1].self_attn = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"model\.layers\.1 of LlamaForCausalLM has no attention.*layers="):
        add_prefix(model, 3)
    assert not wrappers(model)
    assert list(prefixes(add_prefix(zoo.model("jamba", "causal_lm"), 3))) == ["model.layers.1.self_attn"]


def test_a_look_inside_leaves_no_trace_and_says_where_there_are_no_scores():
    model = zoo.model("llama", "causal_lm")
    before = [vars(module).get("config") for module in model.modules()]
    assert len(look_inside(model, zoo.inputs(model)).scores) == 2
    assert all(vars(m).get("config") is config for m, config in zip(model.modules(), before, strict=True))
    bloom = zoo.model("bloom", "causal_lm")
    with pytest.raises(ValueError, match="no queries: say scores=False"):
        look_inside(bloom, zoo.inputs(bloom))
    assert look_inside(bloom, zoo.inputs(bloom), scores=False).depth == 2
