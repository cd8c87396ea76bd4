"""L2-SP, mixout and R-Drop are their formulas, do nothing at zero, and say where they could not do anything."""

import warnings
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import EVERY, tiny_model, tiny_rows, tiny_run, tiny_tokenizer, tiny_tokens, weights
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab import ActivationCache, diagnose
from finetune_lessons.lab.models.new_modules import new_modules
from finetune_lessons.lab.training.run import Run
from finetune_lessons.model_surgery import freeze, unfreeze
from finetune_lessons.overfitting import L2SP, Mixout, mixed, r_drop_loss, set_dropout, symmetric_kl

pytestmark = pytest.mark.usefixtures("one_thread")
every = pytest.mark.parametrize("arch", EVERY)
WRAPPED = {"L2-SP": L2SP, "mixout": Mixout}
wrapped = pytest.mark.parametrize("kind", WRAPPED.values(), ids=WRAPPED)


def tiny_batch(n: int = 8) -> dict[str, torch.Tensor]:
    rows = tiny_rows(n)
    inputs = tiny_tokenizer()(rows["text"], padding=True, return_tensors="pt")
    return {**inputs, "labels": torch.tensor(rows["label"])}


def moved(model: nn.Module, by: float = 0.05) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model


def total(found) -> torch.Tensor:
    return found["loss"] if isinstance(found, dict) else found


def gradients(model: nn.Module, loss, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    total(loss(model, batch)).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def pretrained_names(model: nn.Module) -> list[str]:
    new = tuple(f"{path}." for path in new_modules(model))
    return [name for name, p in model.named_parameters() if p.requires_grad and not name.startswith(new)]


# nothing at zero, nothing in evaluation


NOTHING = {
    "L2-SP": lambda model: L2SP(model, strength=0.0),
    "mixout": lambda model: Mixout(model, p=0.0),
    "R-Drop": lambda model: partial(r_drop_loss, alpha=0.0),
}


@pytest.mark.parametrize("make", NOTHING.values(), ids=NOTHING)
def test_at_zero_a_run_is_that_of_the_plain_loss_to_the_bit(make):
    model = tiny_model("bert")
    plain = [step.loss for step in tiny_run(tiny_model("bert"), loss=classification_loss)]
    assert [step.loss for step in tiny_run(model, loss=make(model))] == plain


@every
def test_in_evaluation_all_are_the_plain_loss(arch):
    model, batch = tiny_model(arch), tiny_batch()
    losses = [L2SP(model, strength=1.0), Mixout(model, p=0.5), r_drop_loss]
    moved(model).eval()
    with torch.no_grad():
        for loss in losses:
            assert torch.equal(total(loss(model, batch)), classification_loss(model, batch))


def test_a_run_validates_with_the_plain_loss():
    model = tiny_model("bert")
    run = tiny_run(model, loss=L2SP(model, partial(r_drop_loss, alpha=2.0), strength=1.0))
    list(run)
    assert {"cross-entropy", "KL", "L2-SP"} == set(run.steps[-1].parts) and run.steps[-1].parts["L2-SP"] > 0
    model.eval()
    by_hand = tiny_run(model, loss=classification_loss).evaluate()
    assert run.evaluate() == by_hand


# L2-SP


@every
def test_l2_sp_pulls_what_is_pretrained_to_where_it_was_and_nothing_else(arch):
    model, batch = tiny_model(arch, dropout=False).train(), tiny_batch()
    start, loss = weights(model), L2SP(model, strength=0.3)
    moved(model)
    plain, pulled = gradients(model, classification_loss, batch), gradients(model, loss, batch)
    known = pretrained_names(model)
    for name, p in model.named_parameters():
        expected = plain[name] + (0.3 * (p.detach() - start[name]) if name in known else 0)
        torch.testing.assert_close(pulled[name], expected, rtol=1e-4, atol=1e-6)
    found = loss(model, batch)
    now = weights(model)
    by_hand = 0.15 * sum(float((now[name].double() - start[name].double()).square().sum()) for name in known)
    assert by_hand > 0 and float(found["L2-SP"]) == pytest.approx(by_hand, rel=1e-4)
    assert float(found["loss"]) == pytest.approx(float(found["task"]) + by_hand, rel=1e-4)


def test_pulled_hard_a_model_stays_nearer_to_what_it_was():
    def far(strength):
        model = tiny_model("bert")
        start = weights(model)
        list(tiny_run(model, loss=L2SP(model, strength=strength), epochs=4))
        return sum(float((model.get_parameter(n) - start[n]).square().sum()) for n in pretrained_names(model))

    assert far(3.0) < far(0.1) < far(0.0)


# mixout


@given(st.floats(0, 0.95), st.integers(0, 500))
def test_mixed_weights_are_one_of_two_numbers_in_each_place(p, seed):
    torch.manual_seed(seed)
    w, u = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    found, theirs, ours = mixed(w, u, p), u, u + (w - u) / (1 - p)  # by the formula with M = 1 and with M = 0
    near = [(found - each).abs() <= 1e-9 * (1 + each.abs()) for each in (theirs, ours)]
    assert (near[0] | near[1]).all()


def test_mixed_weights_are_the_own_ones_on_average_and_their_share_is_p():
    torch.manual_seed(0)
    w, u = torch.randn(50), torch.randn(50)
    draws = torch.stack([mixed(w, u, 0.3) for _ in range(20_000)])
    taken = ((draws - u).abs() < 1e-5).float().mean()
    assert abs(taken - 0.3) < 0.005
    assert (draws.mean(0) - w).abs().max() < 0.05 and torch.equal(mixed(w, u, 0.0), w)


def test_without_a_pretrained_weight_mixout_is_dropout():
    torch.manual_seed(0)
    found = mixed(torch.ones(1000), torch.zeros(1000), 0.5)
    assert set(found.unique().tolist()) == {0.0, 2.0}


@every
def test_mixout_computes_with_the_mixed_matrices_and_sends_its_gradient_through_them(arch):
    "Against a copy of the model whose matrices are mixed by hand with the same masks."
    model, batch, p = tiny_model(arch, dropout=False).train(), tiny_batch(), 0.4
    start, loss = weights(model), Mixout(model, p=p)
    moved(model)
    matrices = [f"{path}.weight" for path, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")]
    known = [name for name in pretrained_names(model) if name in matrices]
    torch.manual_seed(3)
    masks = {name: (torch.rand_like(model.get_parameter(name)) < p).float() for name in known}
    by_hand = tiny_model(arch, dropout=False).train()
    by_hand.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, M in masks.items():
            w = model.get_parameter(name)
            by_hand.get_parameter(name).copy_((M * start[name] + (1 - M) * w - p * start[name]) / (1 - p))
    expected = gradients(by_hand, classification_loss, batch)
    expected |= {name: expected[name] * (1 - masks[name]) / (1 - p) for name in known}
    torch.manual_seed(3)
    assert float(total(loss(model, batch))) == pytest.approx(float(classification_loss(by_hand, batch)), rel=1e-5)
    torch.manual_seed(3)
    found = gradients(model, loss, batch)
    assert known and set(map(str, found)) == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_mixout_leaves_the_model_as_it_is():
    model = tiny_model("bert").train()
    before = weights(model)
    total(Mixout(model)(model, tiny_batch())).backward()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(not hasattr(module, "parametrizations") for module in model.modules())


def test_mixout_refuses_gradient_checkpointing():
    model = tiny_model("bert")
    loss = Mixout(model)
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="does not go with gradient checkpointing"):
        loss(model.train(), tiny_batch())


# R-Drop


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 500))
def test_the_symmetric_kl_is_that_of_torch(rows, classes, seed):
    torch.manual_seed(seed)
    a, b = torch.randn(rows, classes, dtype=torch.float64), torch.randn(rows, classes, dtype=torch.float64)
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    both = sum(kl_div(x, y, reduction="none", log_target=True) for x, y in ((q, p), (p, q))).sum(-1) / 2
    torch.testing.assert_close(symmetric_kl(a, b), both, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(symmetric_kl(a, b), symmetric_kl(b, a))
    assert (symmetric_kl(a, b) >= 0).all() and (symmetric_kl(a, a + 3) < 1e-12).all()


@every
def test_r_drop_is_its_formula_on_two_passes(arch):
    model, batch = set_dropout(tiny_model(arch), 0.2).train(), tiny_batch()
    torch.manual_seed(1)
    found = r_drop_loss(model, batch, alpha=0.7)
    torch.manual_seed(1)
    inputs = {name: tensor for name, tensor in batch.items() if name in ("input_ids", "attention_mask")}
    a, b = (model(**inputs).logits for _ in range(2))
    ce = (cross_entropy(a, batch["labels"]) + cross_entropy(b, batch["labels"])) / 2
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    kl = sum(kl_div(x, y, reduction="batchmean", log_target=True) for x, y in ((p, q), (q, p))) / 2
    assert float(kl) > 0 and float(found["KL"]) == pytest.approx(float(kl), rel=1e-4, abs=1e-7)
    assert float(found["loss"]) == pytest.approx(float(ce + 0.7 * kl), rel=1e-5)
    assert float(found["cross-entropy"]) == pytest.approx(float(ce), rel=1e-5)


def test_rows_without_a_label_take_no_part_in_either_half():
    model, batch = tiny_model("bert").train(), tiny_batch()
    some = {**batch, "labels": batch["labels"].masked_fill(torch.arange(8) % 4 == 0, -100)}
    torch.manual_seed(1)
    found = r_drop_loss(model, some)
    torch.manual_seed(1)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    a, b = (model(**inputs).logits[some["labels"] != -100] for _ in range(2))
    assert float(found["KL"]) == pytest.approx(float(symmetric_kl(a, b).mean()), rel=1e-5)


@every
def test_r_drop_of_a_model_without_dropout_is_refused(arch):
    model, batch = set_dropout(tiny_model(arch), 0.0).train(), tiny_batch()
    with pytest.raises(ValueError, match=r"none is at work in \w+: set_dropout\(model, 0.1\)"):
        r_drop_loss(model, batch)
    assert float(r_drop_loss(set_dropout(model, 0.3), batch)["KL"]) > 0


def test_r_drop_in_evaluation_mode_says_that_it_is_the_plain_loss_where_something_is_to_learn():
    model, batch = tiny_model("bert").eval(), tiny_batch()
    with pytest.warns(UserWarning, match=r"R-Drop is the plain loss: call model.train\(\)"):
        found = r_drop_loss(model, batch)
    assert torch.equal(found, classification_loss(model, batch))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        r_drop_loss(model, batch)


@pytest.mark.filterwarnings("ignore:in evaluation mode R-Drop")
def test_a_run_with_these_losses_can_be_diagnosed():
    for make in (lambda model: r_drop_loss, lambda model: L2SP(model, Mixout(model))):
        model = set_dropout(tiny_model("bert"), 0.9)
        assert "Dropout leaves too little" in repr(diagnose(tiny_run(model, loss=make(model))))


def test_r_drop_sees_that_a_cache_keeps_the_dropout_below_the_cut_still():
    model = unfreeze(freeze(tiny_model("bert")), ["layer.1", "classifier", "pooler"])
    list(tiny_run(model, loss=r_drop_loss, cache=ActivationCache(), epochs=1))
    for part in (model.bert.encoder.layer[1], model.dropout):
        set_dropout(part, 0.0)
    with pytest.raises(ValueError, match="none is at work"):
        next(tiny_run(model, loss=r_drop_loss, cache=ActivationCache()))
    next(tiny_run(model, loss=r_drop_loss))  # without a cache the layers below still draw


# in runs


def composed(model: nn.Module, kind):
    return kind(model, partial(r_drop_loss, alpha=0.5))


@wrapped
def test_a_saved_run_goes_on_to_the_bit(kind, tmp_path):
    def fresh():
        model = tiny_model("bert")
        return model, composed(model, kind)

    model, loss = fresh()
    whole = [step.loss for step in tiny_run(model, loss=loss)]
    model, loss = fresh()
    begun = tiny_run(model, loss=loss)
    for _ in range(7):
        next(begun)
    begun.save(tmp_path / "run")
    model, loss = fresh()
    resumed = Run.resume(tmp_path / "run", model, tiny_tokenizer(), tiny_tokens(), loss=loss)
    assert [step.loss for step in resumed] == whole[7:]


@wrapped
def test_what_is_frozen_stays_and_what_was_never_pretrained_is_refused(kind):
    model = unfreeze(freeze(tiny_model("bert")), ["layer.1", "classifier"])
    before = weights(model)
    list(tiny_run(model, loss=kind(model), epochs=1))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    with pytest.raises(ValueError, match="nothing pretrained is trained in Bert"):
        kind(unfreeze(freeze(tiny_model("bert")), "classifier"))


def test_pieces_of_a_batch_add_up_to_the_whole():
    def curve(**settings):
        model = tiny_model("bert", dropout=False)
        return [step.loss for step in tiny_run(model, loss=L2SP(model, strength=1.0), **settings)]

    whole = curve()
    assert whole == pytest.approx(curve(batch_size=2, grad_accum=4), rel=1e-4)
    plain = [step.loss for step in tiny_run(tiny_model("bert", dropout=False), loss=classification_loss)]
    assert max(abs(a - b) for a, b in zip(whole, plain, strict=True)) > 1e-3


@pytest.mark.parametrize(("make", "says"), [
    (lambda model: L2SP(model, strength=-1), "strength must be a number of at least 0; given: -1"),
    (lambda model: Mixout(model, p=1), "p is a share, at least 0 and below 1; given: 1"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make(tiny_model("bert"))
