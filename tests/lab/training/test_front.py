"""The frozen start of the first trained layer is kept too, where that is most of it; no number changes."""

import pytest
import torch
from test_activations import CACHEABLE, assert_same_with_and_without
from tiny import tiny_model, tiny_run, tiny_tokens
from torch import nn

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.trunk import Trunk
from finetune_lessons.lora import add_lora

pytestmark = pytest.mark.usefixtures("one_thread")
ON_TOP = {"bottleneck_size": 4, "layers": [1]}


def kept(model) -> list[str]:
    trunk, names = Trunk(model), {module: name for name, module in model.named_modules()}
    return [names[module] for module in trunk.front.kept]


@pytest.mark.parametrize("arch", CACHEABLE)
def test_adapters_on_top_of_every_architecture_learn_the_same(arch):
    def make_run(**settings):
        torch.manual_seed(0)
        model = add_adapters(tiny_model(arch, dropout=False), **ON_TOP)
        assert [name.endswith(".base") for name in kept(model)] == [True]
        return tiny_run(model, tiny_tokens(24, 8), eval_every=2, **settings)

    assert_same_with_and_without(make_run)


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_in_bf16_too(arch):
    def losses(**settings):
        torch.manual_seed(0)
        model = add_adapters(tiny_model(arch, dropout=False), **ON_TOP)
        return [step.loss for step in tiny_run(model, precision="bf16", **settings)]

    assert losses(cache=ActivationCache()) == pytest.approx(losses(), abs=0.02)


def test_the_attention_below_an_adapter_is_computed_once_for_each_text():
    model, calls = add_adapters(tiny_model("bert"), **ON_TOP), []
    attention = model.bert.encoder.layer[1].attention.self
    inner, texts = attention.forward, tiny_tokens(24, 8)

    def counted(*args, **kwargs):
        calls.append(len(args[0] if args else kwargs["hidden_states"]))
        return inner(*args, **kwargs)

    attention.forward = counted
    for _ in tiny_run(model, texts, cache=ActivationCache()):
        pass
    assert sum(rows for rows in calls if rows > 1) == 24  # the others are of the search for what is kept


def test_dropout_is_off_in_the_front_and_on_behind_it():
    model, modes = add_adapters(tiny_model("bert"), **ON_TOP), {}

    def looking(model, batch):
        modes.update({name: module.training for name, module in model.named_modules()})
        return nn.functional.cross_entropy(model(input_ids=batch["input_ids"]).logits, batch["labels"])

    next(tiny_run(model, loss=looking, cache=ActivationCache()))
    assert not modes["bert.encoder.layer.1.attention.self.dropout"]
    assert modes["bert.encoder.layer.1.attention.output.dropout"]


@pytest.mark.parametrize("make_model", [
    lambda: add_lora(tiny_model("bert"), r=2, layers=[1]),
    lambda: add_adapters(tiny_model("llama"), **ON_TOP).train(),
], ids=["LoRA in the attention", "backward computes the layer again"])  # fmt: skip
def test_what_saves_too_little_or_is_computed_again_is_not_kept(make_model):
    model = make_model()
    if "llama" in model.config.model_type:
        assert kept(model)
        model.gradient_checkpointing_enable()
    assert kept(model) == []


class Behind(nn.Module):
    "What its base is given depends on a trained parameter, and has no gradient."

    def __init__(self, base):
        super().__init__()
        self.base, self.scale = base, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.base(x * self.scale.item()) + 0 * self.scale


def test_a_module_that_is_reached_by_what_is_trained_without_a_gradient_is_not_kept():
    model = tiny_model("bert").requires_grad_(False)
    output = model.bert.encoder.layer[1].attention.output
    output.dense = Behind(output.dense)
    assert kept(model) == ["bert.encoder.layer.1.attention.self"]


def test_a_hook_in_the_front_sees_what_it_does():
    model, seen = add_adapters(tiny_model("bert", dropout=False), **ON_TOP), []
    run = tiny_run(model, cache=ActivationCache())
    next(run)
    model.bert.encoder.layer[1].attention.self.query.register_forward_hook(lambda *_: seen.append(1))
    next(run)
    assert seen
