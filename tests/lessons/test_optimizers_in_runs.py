"""A run takes every optimizer of lesson 12, saves and resumes it to the bit, and holds the weights to use."""

import pytest
import torch
from tiny import classification, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens
from torch import nn

from finetune_lessons.lab.reports.diagnose import diagnose
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.schedules import SCHEDULES
from finetune_lessons.optimizers import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Lion,
    Muon,
    RMSProp,
    ScheduleFreeAdamW,
    muon_for,
    state_bytes,
)

EVERY = (SGD, RMSProp, Adam, AdamW, Lion, Adafactor, Muon, ScheduleFreeAdamW)
every = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)


def in_run(kind, **settings) -> Run:
    model = tiny_model("bert")
    return tiny_run(model, optimizer=muon_for(model) if kind is Muon else kind, **settings)


@every
def test_a_saved_run_goes_on_to_the_bit(kind, tmp_path):
    whole = in_run(kind)
    losses = [step.loss for step in whole]
    assert losses[-1] != losses[0]
    begun = in_run(kind)
    for _ in range(7):
        next(begun)
    begun.save(tmp_path / "run.safetensors")
    model = tiny_model("bert")
    optimizer = muon_for(model) if kind is Muon else kind
    resumed = Run.resume(tmp_path / "run.safetensors", model, tiny_tokenizer(), tiny_tokens(), loss=classification,
                         optimizer=optimizer)  # fmt: skip
    assert [step.loss for step in resumed] == losses[7:]
    assert all(map(torch.equal, resumed.model.state_dict().values(), whole.model.state_dict().values()))
    assert state_bytes(resumed.optimizer) == state_bytes(whole.optimizer)


@every
def test_what_is_frozen_on_the_way_stays_where_it_is(kind):
    run = in_run(kind, weight_decay=0.1)
    for _ in range(3):
        next(run)
    frozen = run.model.bert.encoder.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in frozen.named_parameters()}
    head = run.model.classifier.weight.detach().clone()
    for _ in run:
        pass
    assert all(torch.equal(p, before[name]) for name, p in frozen.named_parameters())
    assert not torch.equal(run.model.classifier.weight, head)


@every
def test_a_group_added_on_the_way_follows_the_schedule(kind):
    run = in_run(kind, lr=1e-3, warmup=0.25)
    for _ in range(3):
        next(run)
    run.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": 5e-4})
    for step in run:
        factor = SCHEDULES["linear"](step.index, len(run), 4)
        *others, last = [group["lr"] for group in run.optimizer.param_groups]
        assert others == [pytest.approx(1e-3 * factor)] * len(others)
        assert last == pytest.approx(5e-4 * factor)


def test_outside_a_step_the_model_holds_the_mean_and_not_where_the_gradient_is_taken():
    run = in_run(ScheduleFreeAdamW, schedule="constant", warmup=0, lr=1e-3)
    weight = run.model.classifier.weight
    mean, trained_at = weight.detach().clone(), []
    run.model.register_forward_pre_hook(lambda *_: trained_at.append(weight.detach().clone()))
    for step in run:
        z = run.optimizer.state[weight]["z"]
        if not step.index:
            mean = torch.zeros_like(z)
        mean += (z - mean) / (step.index + 1)
        torch.testing.assert_close(weight.detach(), mean, rtol=1e-4, atol=1e-6)
    assert (trained_at[-1] - weight).abs().max() > 1e-5
    used = weight.detach().clone()
    run.evaluate()
    assert torch.equal(trained_at[-1], used), "what is evaluated is what is saved"


def test_evaluating_on_the_way_changes_nothing_of_a_schedule_free_run():
    quiet, watched = in_run(ScheduleFreeAdamW), in_run(ScheduleFreeAdamW, eval_every=2, keep_best="loss")
    assert [step.loss for step in quiet] == [step.loss for step in watched]
    measured = {step.index: step.metrics["loss"] for step in watched.steps if step.metrics}
    watched.best.load()
    assert watched.evaluate()["loss"] == pytest.approx(measured[watched.best.step], rel=1e-5)


def test_schedule_free_refuses_a_step_from_the_mean():
    w = torch.ones(2, requires_grad=True)
    optimizer = ScheduleFreeAdamW([w])
    w.grad = torch.ones(2)
    with pytest.raises(ValueError, match="train\\(\\) before the step"):
        optimizer.step()


def test_a_run_takes_the_schedule_free_optimizer_of_its_authors():
    run = in_run(pytest.importorskip("schedulefree").AdamWScheduleFree, schedule="constant")
    alike = in_run(ScheduleFreeAdamW, schedule="constant")
    for step, like in zip(run, alike, strict=True):
        assert step.loss == pytest.approx(like.loss, rel=1e-3)
    assert run.evaluate()["loss"] == pytest.approx(alike.evaluate()["loss"], rel=1e-3)


@every
def test_a_run_with_it_is_diagnosed(kind):
    diagnose(in_run(kind))


@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5", "llama", "modernbert"])
def test_muon_is_for_the_weights_of_the_layers(arch):
    model = tiny_model(arch)
    names = {p: name for name, p in model.named_parameters()}
    optimizer = muon_for(model)([{"params": list(model.parameters()), "weight_decay": 0.0}], lr=1e-3)
    orthogonal = {names[p] for g in optimizer.param_groups if g["orthogonal"] for p in g["params"]}
    assert {names[p] for g in optimizer.param_groups for p in g["params"]} == set(names.values())
    assert len([name for name in orthogonal if name.endswith("weight")]) >= 2 * 4
    assert not [n for n in orthogonal if any(part in n for part in ("embed", "wte", "wpe", "shared", "bias_", "score"))]
    assert not [n for n in orthogonal if n.startswith(("classifier", "classification_head", "head"))]
