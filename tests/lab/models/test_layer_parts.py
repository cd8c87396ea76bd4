"""The table of names is held against transformers' own modules: their classes, the order of calls, their widths."""

import re
import warnings

import pytest
import tiny
import torch
import transformers
import zoo
from torch import nn
from transformers.initialization import no_init_weights

from finetune_lessons.lab.models.linears import is_linear, shape_of
from finetune_lessons.lab.models.parts import Parts, check_parts, parts_of, query_and_value
from finetune_lessons.lora import add_lora

KIND = {arch: kind for arch, kind in reversed(zoo.PAIRS)}
NO_FFN = {"falcon_mamba", "mamba", "mamba2", "zamba2"}  # in some layers
NO_ATTENTION = {"fnet"}
UNKNOWN = {"squeezebert", "xlnet"}  # convolutions and bare weights in the place of linear layers
WHOLE = [arch for arch in zoo.ARCHITECTURES if arch not in NO_FFN | NO_ATTENTION | UNKNOWN]
MORE = (
    "arcee aria bert-generation bitnet blenderbot blip cohere2 dia doge ernie4_5_moe exaone4 falcon_h1 flex_olmo "
    "gemma3n_text glm4 glm4_moe gpt-sw3 gpt_neox_japanese granitemoehybrid granitemoeshared imagegpt layoutlm lilt "
    "llama4_text luke mellum minimax ministral3 mistral4 mobilevit moonshine mvp nanochat nllb-moe olmo olmo3 "
    "olmo_hybrid persimmon phi4_multimodal pixtral plbart qwen3_next qwen3_vl reformer seed_oss siglip2 solar_open "
    "splinter switch_transformers timesformer vilt visual_bert vitdet wavlm xglm xlm-roberta-xl xmod yoso zaya"
).split()  # beside those of the zoo, by their default configurations
MIXER = re.compile("Attention|Mixer|ShortConv|RecurrentBlock")  # in the names of transformers' classes


def on_meta(arch: str) -> nn.Module:
    with torch.device("meta"), no_init_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModel.from_config(transformers.CONFIG_MAPPING[arch]())


def last_calls(model: nn.Module) -> list[str]:
    "The paths of all modules in the order in which each was last called."
    called: list[str] = []
    hooks = [m.register_forward_hook(lambda *_, path=path: called.append(path)) for path, m in model.named_modules()]
    with torch.no_grad():
        model(**zoo.inputs(model))
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(reversed(called)))[::-1]


def mixers(model: nn.Module, layer: str) -> list[str]:
    "The outermost modules in the layer whose class says that they are attention, or what stands in its place."
    inside = [
        path for path, m in model.named_modules() if path.startswith(f"{layer}.") and MIXER.search(type(m).__name__)
    ]
    return [path for path in inside if not any(path.startswith(f"{other}.") for other in inside)]


@pytest.mark.parametrize("arch", WHOLE)
def test_the_parts_of_a_layer_are_what_the_model_calls_last_and_of_its_width(arch):
    model = zoo.model(arch, KIND[arch])
    layers, modules, calls = parts_of(model), dict(model.named_modules()), last_calls(model)
    check_parts(model, layers, Parts._fields)
    assert len(layers) == (1 if arch == "albert" else 4 if model.config.is_encoder_decoder else 2)
    for layer, parts in layers.items():
        linear = [
            path
            for path in calls
            if path.startswith(f"{layer}.") and type(modules[path]).__name__.endswith(("Linear", "Conv1D"))
        ]
        for mixer in mixers(model, layer):
            assert [p for p in linear if p.startswith(f"{mixer}.")][-1] in parts.attention_ends, mixer
        for start, end in zip(parts.ffn_starts, parts.ffn_ends, strict=True):
            assert calls.index(start) <= calls.index(end)
            if is_linear(modules[start]):
                assert shape_of(modules[start])[1] == shape_of(modules[end])[0]


@pytest.mark.parametrize("arch", MORE)
def test_every_layer_has_its_parts(arch):
    model = on_meta(arch)
    layers, modules = parts_of(model), dict(model.named_modules())
    check_parts(model, layers, Parts._fields)
    for layer, parts in layers.items():
        for mixer in mixers(model, layer):
            assert any(end.startswith(f"{mixer}.") for end in parts.attention_ends), mixer
        experts = [path for path in modules if path.startswith(f"{layer}.") and path.endswith(".experts")]
        assert {path.rpartition(".")[0] for path in experts} <= set(parts.ffn_ends)
        for path in {path for paths in parts for path in paths}:
            assert path.startswith(f"{layer}.")
            assert not any(path.startswith(f"{around}.") for around in parts.ffn_ends)  # never a part of the experts


@pytest.mark.parametrize(
    "arch, kind, message",
    [
        ("mamba", "ffn_ends", "0 of 2 layers of MambaModel have a feed-forward network"),
        ("zamba2", "ffn_starts", "1 of 2 layers of Zamba2Model have a feed-forward network"),
        ("fnet", "attention_ends", "0 of 2 layers of FNetModel have attention"),
        ("xlnet", "ffn_ends", "XLNetModel has no transformer layers whose parts are known here"),
    ],
)
def test_fewer_parts_than_layers_is_an_error_that_counts_them(arch, kind, message):
    model = transformers.AutoModel.from_config(zoo.config(arch))
    with pytest.raises(ValueError, match=f"{message}.*target_modules="):
        check_parts(model, parts_of(model), [kind])


def test_parts_are_found_through_what_was_added_before():
    model = tiny.tiny_model("llama")
    before, names = parts_of(model), query_and_value(model)
    add_lora(model, target_modules=["q_proj", "o_proj", "up_proj", "down_proj"])
    assert parts_of(model) == before and query_and_value(model) == names == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "arch, names",
    [
        ("bert", ["query", "value"]), ("gpt_neox", ["query_key_value"]), ("phi3", ["qkv_proj"]), ("gpt2", ["c_attn"]),
        ("deberta", ["in_proj"]), ("deberta-v2", ["query_proj", "value_proj"]), ("modernbert", ["Wqkv"]),
        ("distilbert", ["q_lin", "v_lin"]), ("deepseek_v3", ["q_b_proj", "kv_b_proj"]), ("mamba", ["in_proj"]),
        ("jamba", ["in_proj", "q_proj", "v_proj"]), ("rwkv", ["attention.value", "attention.receptance"]),
    ],
)  # fmt: skip
def test_queries_and_values_have_names_that_mean_nothing_else(arch, names):
    model = transformers.AutoModel.from_config(zoo.config(arch))
    assert query_and_value(model) == names
    meant = [path for path, _ in model.named_modules() if f".{path}".endswith(tuple(f".{name}" for name in names))]
    assert sorted(meant) == sorted(path for parts in parts_of(model).values() for path in parts.queries_and_values)


def test_a_model_without_layers_is_searched_whole():
    assert query_and_value(nn.ModuleDict({"q_proj": nn.Linear(2, 2), "out": nn.Linear(2, 2)})) == ["q_proj"]
    with pytest.raises(ValueError, match="Sequential has no transformer layers.*target_modules="):
        query_and_value(nn.Sequential(nn.Linear(2, 2)))
