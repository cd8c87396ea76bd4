"""Adapters in every layer of many kinds of models, in any type, from any thread; or a sentence, and nothing changed."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
import torch
import transformers
import zoo
from quantised import D_IN, D_OUT, QUANTISED
from torch import nn

from finetune_lessons.adapters import BottleneckAdapter, Tap, add_adapters
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import disable, eject, find_modules, load_method, save_method, wrappers

PLACEMENTS = ("houlsby", "pfeiffer", "parallel")
PLACES = {  # what is wrapped in the last layer, but for its FFN
    "mixtral": ("self_attn.o_proj", "mlp"), "qwen3_moe": ("self_attn.o_proj", "mlp"),
    "phimoe": ("self_attn.o_proj", "mlp"), "olmoe": ("self_attn.o_proj", "mlp"),
    "flex_olmo": ("self_attn.o_proj", "mlp"), "minimax": ("self_attn.out_proj", "mlp"),
    "granitemoe": ("self_attn.o_proj", "block_sparse_moe"), "deepseek_v3": ("self_attn.o_proj", "mlp"),
    "gptj": ("attn.out_proj", "mlp.fc_out"), "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"), "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "phi": ("self_attn.dense", "mlp.fc2"), "phi3": ("self_attn.o_proj", "mlp.down_proj"),
    "lfm2": ("self_attn.out_proj", "feed_forward.w2"), "jamba": ("self_attn.o_proj", "feed_forward"),
    "mpnet": ("attention.attn.o", "output.dense"), "albert": ("attention.dense", "ffn_output"),
    "deberta-v2": ("attention.output.dense", "output.dense"), "vit": ("attention.o_proj", "mlp.fc2"),
    "rwkv": ("attention.output", "feed_forward"),
}  # fmt: skip


def model_of(arch: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(zoo.config(arch)).eval()


def answer(model, **changed) -> torch.Tensor:
    with torch.no_grad():
        return model(**zoo.inputs(model) | changed)[0]


def adapters(model) -> dict[str, BottleneckAdapter]:
    return {path: wrapper for wrapper, path in wrappers(model).items() if isinstance(wrapper, BottleneckAdapter)}


def trained(model):
    "The model after a training that changed much."
    torch.manual_seed(3)
    for adapter in adapters(model).values():
        nn.init.normal_(adapter.up.weight, std=0.3)
    return model


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("arch", PLACES)
def test_adapters_are_in_every_layer_and_each_of_them_learns(arch, placement):
    model = model_of(arch)
    before = answer(model)
    add_adapters(model, 4, placement)
    assert torch.equal(answer(model), before)
    found, attention_and_ffn = adapters(model), PLACES[arch]
    ends = attention_and_ffn if placement == "houlsby" else attention_and_ffn[1:]
    last = list(found)[-len(ends) :]
    assert all(any(path.endswith(f".{end}") for path in last) for end in ends)
    assert len(found) == len(ends) * (1 if arch == "albert" else 2)
    moved = answer(trained(model))
    assert not torch.allclose(moved, before, atol=1e-4)
    for adapter in found.values():  # each of them alone makes a difference
        adapter.enabled = False
        assert not torch.equal(answer(model), moved)
        adapter.enabled = True
    assert torch.equal(answer(eject(model)), before)


def test_every_attention_of_an_encoder_decoder_has_one():
    for arch, attentions in {"led": 6, "prophetnet": 6, "t5": 6, "whisper": 6}.items():
        kind = "speech_to_text" if arch == "whisper" else "seq2seq"
        model = add_adapters(zoo.model(arch, kind), 4)
        assert len(adapters(model)) == attentions + 4, arch


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_beside_a_mixture_of_experts_an_adapter_reads_what_goes_in(placement):
    model = add_adapters(model_of("mixtral"), 4, placement)
    trained(model)
    adapter = adapters(model)["layers.1.mlp"]
    block, seen = adapter.base, {}
    block.register_forward_hook(lambda _, x, y: seen.update(x=x[0], y=y))
    adapter.register_forward_hook(lambda _, x, y: seen.update(changed=y))
    answer(model)
    x = seen["x"] if placement == "parallel" else seen["y"]
    assert torch.allclose(seen["changed"], seen["y"] + adapter.up(adapter.f(adapter.down(x))), atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "placement", "message"),
    [
        ("mamba", "pfeiffer", r"0 of 2 layers of MambaModel have a feed-forward.*target_modules=\['out_proj'\]"),
        ("zamba2", "houlsby", "1 of 2 layers of Zamba2Model have a feed-forward.*target_modules="),
        ("fnet", "houlsby", "0 of 2 layers of FNetModel have attention.*target_modules="),
        ("xlnet", "parallel", "XLNetModel has no transformer layers.*target_modules="),
        ("ibert", "pfeiffer", "QuantLinear .* is no linear layer that is known here"),
    ],
)
def test_what_has_no_place_for_an_adapter_is_refused_and_stays_as_it_was(arch, placement, message):
    model = model_of(arch)
    before, weights = answer(model), {name: (p, p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        add_adapters(model, 4, placement)
    assert {name: (p, p.requires_grad) for name, p in model.named_parameters()} == weights
    assert not wrappers(model) and torch.equal(answer(model), before)


def test_what_the_refusal_advises_works():
    model = model_of("mamba")
    before = answer(model)
    add_adapters(model, 4, target_modules=["out_proj"])
    assert list(adapters(model)) == ["layers.0.mixer.out_proj", "layers.1.mixer.out_proj"]
    assert torch.equal(answer(model), before) and not torch.equal(answer(trained(model)), before)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_they_are_kept_in_fp32_and_computed_in_the_type_of_the_model(dtype, placement):
    for arch in ("bert", "llama", "mixtral") if dtype != torch.float64 else ("bert", "llama"):
        model = model_of(arch).to(dtype)
        before = answer(model)
        add_adapters(model, 4, placement)
        assert torch.equal(answer(model), before)
        moved = trained(model)(**zoo.inputs(model))[0]
        assert moved.dtype == dtype and not torch.equal(moved, before)
        moved.float().pow(2).sum().backward()
        for adapter in adapters(model).values():
            assert dtype == torch.float64 or adapter.up.weight.dtype == torch.float32
            assert adapter.up.weight.grad.abs().sum() > 0 and adapter.down.weight.grad.abs().sum() > 0


def test_layers_and_exclude_say_where():
    def places(**where) -> list[str]:
        model = add_adapters(tiny.tiny_model("bert"), 4, **where)
        return [path.removeprefix("bert.encoder.layer.") for path in adapters(model)]

    assert places(layers=[1]) == ["1.attention.output.dense", "1.output.dense"]
    assert places(layers=[0, 1]) == places() and len(places()) == 4
    assert places(exclude=["attention"]) == ["0.output.dense", "1.output.dense"]
    assert places(placement="parallel", layers=(0,)) == ["0.output.dense"]
    assert places(placement="pfeiffer", layers=range(1, 2)) == ["1.output.dense"]
    assert places(target_modules=["attention.output.LayerNorm"], layers=[0]) == ["0.attention.output.LayerNorm"]
    for where in ({"layers": [7]}, {"exclude": "encoder"}, {"target_modules": []}):
        model = tiny.tiny_model("bert")
        with pytest.raises(ValueError, match="layer|leave no place"):
            add_adapters(model, 4, **where)
        assert not wrappers(model) and all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="leave out one"):
        add_adapters(tiny.tiny_model("bert"), 4, "parallel", target_modules="query")


def test_places_of_ones_own_are_saved_and_loaded(tmp_path):
    where = {"target_modules": {"mlp"}, "layers": range(1, 2), "bottleneck_size": np.int64(4)}
    model = trained(add_adapters(tiny.tiny_model("llama"), **where))
    batch = {"input_ids": torch.arange(7, 15)[None]}
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        save_method(model, tmp_path)
        loaded = load_method(tiny.tiny_model("llama"), tmp_path).eval()
        assert torch.equal(loaded(**batch).logits, expected)


def test_the_width_of_packed_weights_is_that_of_the_layer():
    base = nn.Linear(32, 48)
    assert BottleneckAdapter(base, np.int64(4)).up.out_features == 48
    model = add_adapters(tiny.tiny_model("gpt2"), np.int64(4))
    assert {adapter.down.in_features for adapter in adapters(model).values()} == {32}
    for size in (0, 2.5, "8"):
        with pytest.raises(ValueError, match="bottleneck_size"):
            add_adapters(tiny.tiny_model("bert"), size)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_eight_threads_get_what_one_gets(placement):
    model = trained(add_adapters(tiny.tiny_model("bert").eval(), 4, placement))
    inputs = [torch.randint(7, 100, (2, 3 + i % 9), generator=torch.Generator().manual_seed(i)) for i in range(1000)]

    def call(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    expected = [call(ids) for ids in inputs]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(torch.equal, pool.map(call, inputs), expected))


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_a_call_that_failed_halfway_leaves_nothing(arch):
    model = trained(add_adapters(tiny.tiny_model(arch), 4, "parallel"))
    ids, heard = torch.arange(7, 15)[None], []
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits

    def fail(*_):
        raise MemoryError

    for wrapper in wrappers(model):
        if isinstance(wrapper, Tap):
            wrapper.register_forward_hook(lambda _, x, y: heard.append(weakref.ref(x[0])))
    acts = find_modules(model, "intermediate_act_fn").values() if arch == "bert" else ()
    halfway = acts or [adapter.base for adapter in adapters(model).values()]
    hooks = [module.register_forward_pre_hook(fail) for module in halfway]
    try:
        model.train()(input_ids=ids)
    except MemoryError:
        pass
    else:
        pytest.fail("did not fail")
    gc.collect()
    assert heard and not any(ref() is not None for ref in heard)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, expected)


def test_parallel_adapters_are_copied_pickled_compiled_and_recomputed(tmp_path):
    model = trained(add_adapters(tiny.tiny_model("bert", dropout=False), 4, "parallel"))
    ids = torch.arange(7, 15)[None]
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(input_ids=ids).logits, expected)
            trained(eject(twin))
            assert not any(m._forward_hooks for m in twin.modules())
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.equal(compiled(input_ids=ids).logits, expected)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.train().gradient_checkpointing_enable()
        model(input_ids=ids).logits.sum().backward()
        gradients.append([p.grad.clone() for a in adapters(model).values() for p in a.own_parameters().values()])
    assert all(map(torch.allclose, *gradients))


def test_after_lora_and_beside_it_the_places_are_the_same():
    model = add_lora(model_of("gpt_neox"), target_modules=["dense", "dense_4h_to_h"])
    before = answer(model)
    add_adapters(model, 4, "parallel", name="second")
    assert torch.equal(answer(model), before)
    moved = answer(trained(model))
    assert not torch.equal(moved, before)
    with disable(model, "second"):
        assert torch.equal(answer(model), before)
    assert torch.equal(answer(eject(model, "second")), before)


@pytest.mark.parametrize("kind", QUANTISED)
def test_an_adapter_behind_a_quantised_layer_is_trained_saved_and_loaded(kind, tmp_path):
    def new(seed):
        model = torch.nn.Sequential(QUANTISED[kind](), torch.nn.LayerNorm(D_OUT))
        return add_adapters(model, 8, target_modules=["0"], modules_to_save=[], seed=seed)

    model, x = new(0), torch.randn(5, D_IN)
    with torch.no_grad(), disable(model):
        first = model(x)
    own = next(iter(wrappers(model))).own_parameters().values()
    assert {p.dtype for p in own} == {torch.float32} and torch.equal(model(x), first)
    optimizer = torch.optim.Adam(own, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square()[:, 0].sum().backward()
        optimizer.step()
    trained = model(x)
    assert all(p.grad.any() for p in own) and not torch.allclose(trained, first, atol=1e-2)
    save_method(model, tmp_path)
    assert torch.equal(load_method(eject(new(1)), tmp_path)(x), trained)
