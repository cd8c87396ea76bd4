"""Each optimizer is that of torch or of its authors over 50 steps; a run takes, saves, resumes it; picks are fair."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import classification, tiny_model, tiny_rows, tiny_tokenizer
from torch import nn

from finetune_lessons import optimizers as ours
from finetune_lessons.lab.training.optimisation import training_weights
from finetune_lessons.optimizers import Muon, ScheduleFreeAdamW, orthogonalized, state_bytes

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
        assert (mine - their).norm() < 3e-2 * (their - before).norm()


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
def test_a_state_is_loaded_into_a_new_optimizer_that_goes_on_alike(kind):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(3, 4, generator=generator).requires_grad_() for _ in range(2)]
    copy = [p.detach().clone().requires_grad_() for p in parameters]
    first, second = kind(parameters), kind(copy)
    for t in range(6):
        for mine, their in zip(copy, parameters, strict=True):
            their.grad = torch.randn(3, 4, generator=generator)
            mine.grad = their.grad.clone()
        if t == 3:
            with torch.no_grad():
                for mine, their in zip(copy, parameters, strict=True):
                    mine.copy_(their)
            second.load_state_dict(deepcopy(first.state_dict()))
        for optimizer in (first, second) if t >= 3 else (first,):
            with training_weights(optimizer):
                optimizer.step()
    assert all(map(torch.equal, copy, parameters))


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


@pytest.mark.parametrize(("kind", "wrong", "message"), [
    (ours.Adafactor, {"clip": 0.0}, "clip must be above 0"),
    (ScheduleFreeAdamW, {"betas": (0.0, 0.9)}, "above 0.*to x"),
])  # fmt: skip
def test_what_would_divide_by_0_is_refused(kind, wrong, message):
    with pytest.raises(ValueError, match=message):
        kind([torch.ones(2, 2, requires_grad=True)], **wrong)


def test_sparse_gradients_are_refused_in_words():
    words = nn.Embedding(4, 2, sparse=True)
    words(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="Adam takes no sparse gradients"):
        ours.Adam(words.parameters()).step()
