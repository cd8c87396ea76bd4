"""Frozen weights are cast to the computing precision once, and nobody sees it: the same bits, fp32 outside."""

from contextlib import nullcontext

import pytest
import torch
from tiny import classification, language_model, same_bits, tiny_language_data, tiny_model, tiny_run, weights

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lab.training.precision import DTYPES, FrozenWeights
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import freeze, unfreeze
from finetune_lessons.prefix_tuning import add_prefix

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = {
    "lora": lambda model: add_lora(model, r=4),
    "adapters": lambda model: add_adapters(model, bottleneck_size=8),
    "prefix": lambda model: add_prefix(model, 3),
    "head": lambda model: unfreeze(freeze(model), "classifier" if hasattr(model, "classifier") else "score"),
}


def curve(run) -> list[float]:
    steps = [number for step in run for number in (step.loss, step.grad_norm, *step.metrics.values())]
    return steps + list(run.evaluate("train").values())


def cast_in_every_step(run):
    run.computing._frozen.cast = nullcontext
    return run


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ["bert", "gpt2", "llama"])
def test_the_bits_are_those_of_autocast(arch, method):
    runs = [tiny_run(METHODS[method](tiny_model(arch)), precision="bf16", eval_every=3) for _ in range(2)]
    once, every_step = curve(runs[0]), curve(cast_in_every_step(runs[1]))
    assert len(runs[0].computing._frozen._cast) >= 4
    assert once == every_step
    assert same_bits(weights(runs[0].model), weights(runs[1].model))


@pytest.mark.parametrize(("arch", "kind"), [("gpt2", "causal_lm"), ("llama", "causal_lm"), ("t5", "seq2seq")])
def test_the_bits_of_a_language_model_are_those_of_autocast(arch, kind):
    def run():
        model = add_lora(tiny_model(arch, kind), r=4)
        settings = {"loss": language_model, "epochs": 1, "precision": "bf16"}
        return tiny_run(model, tiny_language_data(), **settings)

    assert curve(run()) == curve(cast_in_every_step(run()))


def test_a_matrix_that_is_an_embedding_too_stays():
    model = freeze(tiny_model("gpt2", "causal_lm"))
    assert model.lm_head.weight is model.transformer.wte.weight
    with FrozenWeights(torch.bfloat16).cast(model):
        assert model.lm_head.weight.dtype == torch.float32
        assert model.transformer.h[0].mlp.c_fc.weight.dtype == torch.bfloat16


def test_outside_a_step_all_is_fp32_and_unchanged_and_inside_nothing_is_cast_again():
    inside = []

    def loss(model, batch):
        inside.append(model.bert.encoder.layer[0].output.dense.weight.detach())
        return classification(model, batch)

    model = add_lora(tiny_model("bert"), r=4)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    run = tiny_run(model, precision="bf16", loss=loss)
    for _ in range(3):
        next(run)
        assert same_bits({name: p.detach() for name, p in model.named_parameters() if name in frozen}, frozen)
    assert {w.dtype for w in inside} == {torch.bfloat16} and len({w.data_ptr() for w in inside}) == 1


def test_an_error_in_a_step_leaves_fp32():
    def failing(model, batch):
        raise RuntimeError("in the middle")

    model = add_lora(tiny_model("bert"), r=4)
    before = weights(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        next(tiny_run(model, precision="bf16", loss=failing))
    assert same_bits(weights(model), before)


@pytest.mark.parametrize("change", ["in place", "another tensor", "trained from now on"])
def test_a_weight_that_changes_between_two_steps_is_noticed(change):
    def with_change(run):
        weight = run.model.bert.encoder.layer[0].output.dense.weight
        next(run)
        with torch.no_grad():
            if change == "in place":
                weight.mul_(2)
            elif change == "another tensor":
                weight.data = weight.data * 2
            else:
                run.model.bert.encoder.layer[0].output.dense.weight.requires_grad_(True)
        return curve(run)

    runs = [tiny_run(add_lora(tiny_model("bert"), r=4), precision="bf16") for _ in range(2)]
    assert with_change(runs[0]) == with_change(cast_in_every_step(runs[1]))


@pytest.mark.parametrize(("weights", "precision"), [("fp16", "bf16"), ("bf16", "fp16")])
def test_weights_in_one_half_precision_are_not_computed_in_the_other(weights, precision):
    model = tiny_model("bert")
    model.bert.to(DTYPES[weights]).requires_grad_(False)
    with pytest.raises(ValueError, match=f"weights are in {weights}, which cannot be computed in {precision}: prec"):
        tiny_run(model, precision=precision)
