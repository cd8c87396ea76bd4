"""Each optimizer is that of torch or of its authors over 50 steps; a run takes, saves, resumes it; picks are fair."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import classification, tiny_data, tiny_model, tiny_rows, tiny_run, tiny_tokenizer
from torch import nn
from transformers import get_scheduler

from finetune_lessons import optimizers as ours
from finetune_lessons.lab.reports.diagnose import diagnose
from finetune_lessons.lab.training.optimisation import training_weights
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.schedules import SCHEDULES
from finetune_lessons.optimizers import Muon, ScheduleFreeAdamW, muon_for, orthogonalized, pick_best, state_bytes

theirs = torch.optim


def lion(params, **settings):
    return pytest.importorskip("lion_pytorch").Lion(params, **settings)


def schedule_free(params, **settings):
    return pytest.importorskip("schedulefree").AdamWScheduleFree(params, foreach=False, **settings)


PAIRS = {
    "SGD": (ours.SGD, theirs.SGD, {"lr": 0.01, "weight_decay": 0.1}),
    "momentum": (ours.SGD, theirs.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    "Nesterov": (ours.SGD, theirs.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "RMSProp": (ours.RMSProp, theirs.RMSprop, {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1}),
    "Adam": (ours.Adam, theirs.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1}),
    "AdamW": (ours.AdamW, theirs.AdamW, {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}),
    "Adafactor": (ours.Adafactor, theirs.Adafactor, {"lr": 0.05, "weight_decay": 0.1}),
    "Lion": (ours.Lion, lion, {"lr": 0.01, "weight_decay": 0.1}),
    "schedule-free": (ScheduleFreeAdamW, schedule_free, {"lr": 0.01, "weight_decay": 0.1}),
}
EVERY = {name: kind for name, (kind, _, _) in PAIRS.items()} | {"Muon": Muon}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
every = pytest.mark.parametrize("kind", dict.fromkeys(EVERY.values()), ids=lambda kind: kind.__name__)


def tiny_batch() -> dict[str, torch.Tensor]:
    rows = tiny_rows(8)
    return {**tiny_tokenizer()(rows["text"], padding=True, return_tensors="pt"), "labels": torch.tensor(rows["label"])}


def switched(optimizer, training: bool) -> None:
    "Theirs too, where it has a mode."
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


def step_alike(pair, parameters: list[torch.Tensor], gradients: Callable, copy: list[torch.Tensor]) -> None:
    "50 steps of both with the same gradients, and rates that differ from group to group and step to step."
    kind, reference, settings = pair
    optimizers = [
        make([{"params": of[::2]}, {"params": of[1::2], "lr": settings["lr"] / 3}], **settings)
        for make, of in ((kind, copy), (reference, parameters))
    ]
    for optimizer in optimizers:
        switched(optimizer, True)
    for t in range(50):
        gradients()
        for mine, their in zip(copy, parameters, strict=True):
            mine.grad = None if their.grad is None else their.grad.clone()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * (0.5 + 0.5 * math.cos(t / 9) ** 2)
            optimizer.step()
    for optimizer in optimizers:
        switched(optimizer, False)


@pairs
def test_50_steps_on_random_gradients_are_those_of_the_reference(pair):
    torch.manual_seed(0)
    shapes = [(4, 6), (5,), (6, 3), (2, 3, 4), (1, 7), (1,)]
    parameters = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    copy = [p.detach().clone().requires_grad_() for p in parameters]

    def gradients():
        for p in parameters:
            p.grad = torch.randn_like(p) * 10 ** float(torch.randn(()))

    start = [p.detach().clone() for p in parameters]
    step_alike(pair, parameters, gradients, copy)
    for mine, their, before in zip(copy, parameters, start, strict=True):
        assert not torch.allclose(their, before, atol=1e-3)
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-11)


@pairs
@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
def test_50_steps_on_the_gradients_of_a_model_are_those_of_the_reference(pair, arch):
    model, batch = tiny_model(arch, dropout=False).double(), tiny_batch()
    parameters = [p for p in model.parameters() if p.requires_grad]
    copy = [p.detach().clone().requires_grad_() for p in parameters]

    def gradients():
        model.zero_grad()
        classification(model, batch).backward()

    before = classification(model, batch).item()
    step_alike(pair, parameters, gradients, copy)
    assert classification(model, batch).item() != pytest.approx(before, abs=1e-3)
    for mine, their in zip(copy, parameters, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-8, atol=1e-10)


def muon_reference(params, lr, weight_decay):
    return theirs.Muon(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


@pytest.mark.parametrize("shape", [(8, 8), (4, 24), (24, 4)])
def test_muon_is_that_of_torch_within_the_rounding_of_bfloat16(shape):
    torch.manual_seed(0)
    parameters = [torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)]
    copy = [p.detach().clone().requires_grad_() for p in parameters]

    def gradients():
        for p in parameters:
            p.grad = torch.randn_like(p)

    start = [p.detach().clone() for p in parameters]
    step_alike((Muon, muon_reference, {"lr": 0.01, "weight_decay": 0.1}), parameters, gradients, copy)
    for mine, their, before in zip(copy, parameters, start, strict=True):
        assert (mine - their).norm() < 1e-2 * (their - before).norm()


def test_muon_gives_vectors_and_other_groups_the_step_of_adamw():
    torch.manual_seed(0)
    parameters = [torch.randn(5, requires_grad=True), torch.randn(3, 4, requires_grad=True)]
    copy = [p.detach().clone().requires_grad_() for p in parameters]
    optimizers = Muon(copy, orthogonal=False), ours.AdamW(parameters)
    for _ in range(5):
        for mine, their in zip(copy, parameters, strict=True):
            mine.grad = their.grad = torch.randn_like(their)
        for optimizer in optimizers:
            optimizer.step()
    assert all(map(torch.equal, copy, parameters))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_orthogonalized_keeps_the_directions_and_levels_their_sizes(rows, columns, seed, size):
    G = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    U, S, V = torch.linalg.svd(G, full_matrices=False)
    found = U.T @ orthogonalized(G) @ V.T
    strong = S > 0.1 * S.max()
    assert ((found.diagonal()[strong] > 0.3) & (found.diagonal()[strong] < 1.4)).all()
    assert (found - found.diagonal().diag()).abs().max() < 0.1


# what the formulas promise


@given(st.floats(1e-3, 1e3), st.floats(1e-4, 0.1))
def test_the_first_step_of_adam_is_the_rate_whatever_the_gradient(size, lr):
    for kind in (ours.Adam, partial(ours.AdamW, weight_decay=0.0), ours.Lion):
        w = torch.zeros(2, requires_grad=True)
        w.grad = torch.tensor([size, -size])
        kind([w], lr=lr).step()
        torch.testing.assert_close(w.detach(), torch.tensor([-lr, lr]), rtol=1e-4, atol=0)


def test_adamw_decays_all_weights_alike_and_adam_does_not():
    torch.manual_seed(0)
    left = {}
    for kind in (ours.Adam, ours.AdamW):
        w = torch.ones(2, requires_grad=True)
        optimizer = kind([w], lr=0.01, weight_decay=0.1)
        for _ in range(500):
            w.grad = torch.randn(2) * torch.tensor([0.01, 10.0])
            optimizer.step()
        left[kind.__name__] = w.detach()
    small, large = left["Adam"]
    assert abs(small) < 0.1 and large > 0.5
    assert left["AdamW"].min() > 0.3


def stepped(kind, steps: int = 5, **settings) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, generator=generator).requires_grad_()
    optimizer = kind([w], **settings)
    for _ in range(steps):
        w.grad = torch.randn(3, 4, generator=generator)
        with training_weights(optimizer):
            optimizer.step()
    return w.detach()


def test_what_counts_nothing_changes_nothing_to_the_bit():
    assert torch.equal(stepped(ours.AdamW, weight_decay=0.0), stepped(ours.Adam))
    assert torch.equal(stepped(ours.SGD, momentum=0.0), stepped(theirs.SGD, lr=0.01))
    assert torch.equal(stepped(Muon, orthogonal=False), stepped(ours.AdamW))


@every
def test_a_rate_of_0_as_at_the_start_of_a_warm_up_moves_nothing(kind):
    assert torch.equal(stepped(kind, lr=0.0, weight_decay=0.1), stepped(kind, steps=0))


@every
def test_weights_without_a_gradient_stay_and_are_not_remembered(kind):
    w, frozen = torch.ones(3, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    optimizer = kind([w, frozen], lr=0.1, weight_decay=0.5)
    w.grad = torch.ones(3, 2)
    with training_weights(optimizer):
        optimizer.step()
    assert torch.equal(frozen, torch.ones(3, 2)) and not torch.equal(w, torch.ones(3, 2))
    assert not optimizer.state[frozen]


@pytest.mark.parametrize(
    ("kind", "floats"),
    [(ours.SGD, 0), (partial(ours.SGD, momentum=0.9), 60), (ours.RMSProp, 60), (ours.Adam, 120), (ours.AdamW, 120),
     (ours.Lion, 60), (ours.Adafactor, 10 + 6), (Muon, 60), (ScheduleFreeAdamW, 120)],
)  # fmt: skip
def test_bytes_of_state(kind, floats):
    w = torch.ones(10, 6, requires_grad=True)
    w.grad = torch.ones(10, 6)
    optimizer = kind([w])
    assert state_bytes(optimizer) == 0
    with training_weights(optimizer):
        optimizer.step()
    assert state_bytes(optimizer) == 4 * floats


@every
def test_a_closure_is_called_once_with_gradients_and_its_loss_returned(kind):
    w, calls = torch.ones(2, 2, requires_grad=True), []

    def closure():
        calls.append(1)
        loss = w.square().sum()
        loss.backward()
        return loss

    optimizer = kind([w])
    with training_weights(optimizer):
        assert optimizer.step(closure).item() == 4
        assert optimizer.step() is None
    assert len(calls) == 1


@every
@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"lr": math.nan}, {"weight_decay": -0.1}])
def test_settings_that_cannot_train_are_refused_of_a_later_group_too(kind, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"numbers of at least 0; given: .*{name}"):
        kind([torch.ones(2, requires_grad=True)], **wrong)
    optimizer = kind([torch.ones(2, requires_grad=True)])
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": [torch.ones(3, requires_grad=True)], **wrong})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (0.9, math.nan)])
def test_means_that_never_move_are_refused(betas):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        ours.AdamW([torch.ones(2, requires_grad=True)], betas=betas)


def test_sparse_gradients_are_refused_in_words():
    words = nn.Embedding(4, 2, sparse=True)
    words(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="Adam takes no sparse gradients"):
        ours.Adam(words.parameters()).step()


# schedules


@pytest.mark.parametrize(("name", "of_transformers"), [
    ("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup"), ("inverse_sqrt", "inverse_sqrt"),
])  # fmt: skip
@pytest.mark.parametrize(("steps", "warmup"), [(50, 0), (50, 5), (7, 1), (30, 30), (1, 0)])
def test_schedules_are_those_of_transformers(name, of_transformers, steps, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(of_transformers, optimizer, warmup, steps)
    for t in range(steps):
        assert SCHEDULES[name](t, steps, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("steps", "warmup"), [(50, 5), (50, 20), (12, 2), (50, 0)])
def test_one_cycle_is_that_of_torch(steps, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, pct_start=warmup / steps, cycle_momentum=False)
    schedule = cycle(optimizer, 1.0, steps)
    for t in range(steps):
        assert SCHEDULES["one_cycle"](t, steps, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        if t < steps - 1:
            optimizer.step()
            schedule.step()


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 300), st.data())
def test_a_schedule_climbs_to_1_and_then_does_not_rise(name, steps, data):
    warmup = data.draw(st.integers(0, steps))
    factors = [SCHEDULES[name](t, steps, warmup) for t in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[: warmup] == sorted(factors[: warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert len(factors) <= warmup or name == "one_cycle" or factors[warmup] == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_takes_every_schedule_by_name_and_resumes_in_it(name, tmp_path):
    run = tiny_run(schedule=name, warmup=0.25, lr=1e-3)
    rates = [step.lr for step in run]
    assert rates == [1e-3 * SCHEDULES[name](t, len(run), round(0.25 * len(run))) for t in range(len(run))]
    begun = tiny_run(schedule=name, warmup=0.25, lr=1e-3)
    for _ in range(5):
        next(begun)
    begun.save(tmp_path / "run.safetensors")
    model, tokenizer, data = tiny_model("bert"), tiny_tokenizer(), tiny_data()
    resumed = Run.resume(tmp_path / "run.safetensors", model, tokenizer, data, loss=classification)
    assert [step.lr for step in resumed] == rates[5:]


# in a run


def in_run(kind, **settings):
    model = tiny_model("bert")
    optimizer = muon_for(model) if kind is Muon else kind
    given = {"lr": 3e-3, "epochs": 2, "batch_size": 8, "precision": "fp32", "eval_every": 0} | settings
    return Run(model, tiny_tokenizer(), tiny_data(), loss=classification, optimizer=optimizer, **given)


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
    resumed = Run.resume(tmp_path / "run.safetensors", model, tiny_tokenizer(), tiny_data(), loss=classification,
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
    run = in_run(schedule_free, schedule="constant")
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


# the best of a table


def scores(**methods: list[float]) -> pd.DataFrame:
    return pd.DataFrame([{"method": name, "seed": seed, "accuracy": score, "loss": 1 - score}
                         for name, values in methods.items() for seed, score in enumerate(values)])  # fmt: skip


def test_the_best_is_told_apart_where_the_seeds_allow_it():
    pick = pick_best(scores(a=[0.80, 0.82, 0.81], b=[0.84, 0.86, 0.85], c=[0.85, 0.83, 0.86]))
    assert (pick.best, pick.level) == ("b", ("c",))
    assert repr(pick) == "b; not told apart from it: c"
    assert pick.table["told_apart"].to_dict() == {"b": False, "c": False, "a": True}
    assert repr(pick_best(scores(a=[0.80, 0.82], b=[0.84, 0.86]))) == "b; it alone"


def test_seeds_are_pairs():
    luck = np.array([0.70, 0.80, 0.90])
    pick = pick_best(scores(a=list(luck), b=list(luck + [0.010, 0.011, 0.012])))
    assert (pick.best, pick.level) == ("b", ())
    shuffled = scores(a=list(luck), b=list(luck[::-1] + [0.010, 0.011, 0.012]))
    assert pick_best(shuffled).level == ("a",)


def test_of_a_loss_the_lowest_is_the_best():
    table = scores(a=[0.80, 0.82, 0.81], b=[0.84, 0.86, 0.85])
    assert pick_best(table, "loss").best == "b"
    assert (pick_best(table, "loss").table["behind"] >= 0).all()


@pytest.mark.parametrize("seeds", [2, 3, 10, 15])
def test_chance_tells_two_equal_methods_apart_once_in_twenty_times(seeds):
    random, told = np.random.default_rng(seeds), 0
    for _ in range(300):
        luck = random.normal(size=seeds)
        both = {name: list(luck + random.normal(size=seeds)) for name in "ab"}
        told += not pick_best(scores(**both)).level
    assert 4 <= told <= 30


def test_the_quantiles_are_those_of_students_t():
    stats = pytest.importorskip("scipy.stats")
    assert list(ours._T95) == [pytest.approx(stats.t.ppf(0.975, n - 1), abs=1e-3) for n in range(2, 11)]


@pytest.mark.parametrize(
    ("table", "metric", "message"),
    [
        (scores(a=[0.8, 0.9]), "f1", "no column f1; the table has method, seed, accuracy, loss"),
        (scores(a=[0.8], b=[0.9]), "accuracy", "at least two"),
        (scores(a=[0.8, 0.9], b=[0.9, 0.8, 0.7]), "accuracy", "the same seeds"),
        (scores(a=[0.8, math.nan], b=[0.9, 0.8]), "accuracy", "a number for each"),
        (pd.concat([scores(a=[0.8, 0.9])] * 2), "accuracy", "same seed twice"),
    ],
)
def test_tables_that_compare_nothing_are_refused(table, metric, message):
    with pytest.raises(ValueError, match=message):
        pick_best(table, metric)
