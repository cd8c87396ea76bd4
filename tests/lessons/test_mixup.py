"""Lesson 41: mixup where it is said to mix, and views of a batch; against their formulas, beside a cache."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import DECODERS, EVERY, same_bits, tiny_data, tiny_model, tiny_tokenizer, weights
from torch.testing import assert_close

from finetune_lessons.augmentation import Consistency, Cutoff, Mixup
from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lab.training.run import Run
from finetune_lessons.overfitting import r_drop_loss
from finetune_lessons.semi_supervised import mixed_states

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["good film word1 word2 fine", "bad word3", "dull word4 word5 word6 word7 word8", "great", "cold poor word9"]
LABELS = torch.tensor([1, 0, 0, 1, 0])
PLACES = ["outputs", "embeddings", 1, 2]


def a_batch(side="right"):
    return {**tiny_tokenizer(side)(TEXTS, padding=True, return_tensors="pt"), "labels": LABELS}


def steady(arch="bert", **config):
    "A model in training mode without dropout."
    return tiny_model(arch, dropout=False, **config).train()


def drawn(loss, seed=0):
    "The order and the share that the loss draws next, in its own order of drawing."
    torch.manual_seed(seed)
    torch.randint(len(loss.where), ())
    order = torch.randperm(len(LABELS))
    share = float(torch.distributions.Beta(loss.alpha, loss.alpha).sample())
    torch.manual_seed(seed)
    return order, max(share, 1 - share)


def mixed_by_hand(logits, order, share):
    own, others = (F.cross_entropy(logits, labels) for labels in (LABELS, LABELS[order]))
    return share * own + (1 - share) * others


# the loss


def test_mixed_outputs_are_the_formula():
    model, batch, loss = steady(), a_batch(), Mixup(1.0)
    logits = model(**model_inputs(batch)).logits
    order, share = drawn(loss)
    assert not torch.equal(order, torch.arange(5)) and 0.5 < share < 1
    expected = mixed_by_hand(share * logits + (1 - share) * logits[order], order, share)
    assert_close(loss(model, batch), expected)


@pytest.mark.parametrize("place", PLACES[1:])
def test_mixed_states_are_the_formula(place):
    model, batch, loss = steady(), a_batch(), Mixup(1.0, where=place)
    order, share = drawn(loss)
    with mixed_states(model, 0 if place == "embeddings" else place, order, share, batch["attention_mask"] > 0):
        logits = model(**model_inputs(batch)).logits
    assert_close(loss(model, batch), mixed_by_hand(logits, order, share))


def test_before_the_first_layer_it_is_the_embeddings_that_are_mixed():
    model, batch = steady(), a_batch()
    inputs, order, share = model_inputs(batch), torch.tensor([2, 0, 4, 1, 3]), 0.7
    real = inputs["attention_mask"] > 0
    embedded = model.bert.embeddings(inputs["input_ids"])
    both = (real & real[order]).unsqueeze(-1)
    mixed = torch.where(both, 0.7 * embedded + 0.3 * embedded[order], embedded)
    with mixed_states(model, 0, order, share, real):
        found = model(**inputs, output_hidden_states=True)
    hidden = mixed
    unseen = torch.zeros(real.shape).masked_fill(~real, torch.finfo().min)[:, None, None]
    for layer in model.bert.encoder.layer:
        hidden = layer(hidden, unseen)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    assert_close(found.logits, model.classifier(model.bert.pooler(hidden)))


@pytest.mark.parametrize("arch", EVERY)
def test_mixing_embeddings_reaches_every_architecture_and_a_share_of_one_none(arch):
    model = steady(arch).eval()
    inputs = model_inputs(a_batch("left" if arch in DECODERS else "right"))
    order, real = torch.arange(5).roll(1), inputs["attention_mask"] > 0
    plain = model(**inputs).logits
    with mixed_states(model, 0, order, 0.6, real):
        mixed = model(**inputs).logits
    with mixed_states(model, 0, order, 1.0, real):
        same = model(**inputs).logits
    assert ((mixed - plain).abs().amax(1) > 1e-6).all()
    assert_close(same, plain)
    assert_close(model(**inputs).logits, plain)  # nothing is left behind


@pytest.mark.parametrize("place", PLACES)
def test_no_mixing_and_evaluation_are_the_plain_loss_to_the_bit(place):
    model, batch = steady(), a_batch()
    plain = classification_loss(model, batch)
    assert torch.equal(Mixup(0, place)(model, batch), plain)
    assert torch.equal(Mixup(1.0, place)(model.eval(), batch), classification_loss(model, batch))


def test_the_share_is_beta_folded_at_a_half():
    torch.manual_seed(0)
    flat = torch.tensor([Mixup(1.0)._share() for _ in range(4000)])
    assert flat.min() >= 0.5 and flat.max() <= 1
    quarters = torch.histc(flat, 4, 0.5, 1.0) / 4000
    assert_close(quarters, torch.full((4,), 0.25), atol=0.03, rtol=0)  # Beta(1, 1) is even
    small, large = (torch.tensor([Mixup(a)._share() for _ in range(500)]).mean() for a in (0.1, 50.0))
    assert small > 0.9 and large < 0.56


def test_texts_without_a_label_are_in_no_mixture():
    model, batch = steady(), a_batch()
    batch["labels"] = torch.tensor([1, -100, 0, 1, -100])
    there = batch["labels"] >= 0
    short = {name: x[there] for name, x in batch.items()}
    for place in PLACES:
        found = []
        for given in (batch, short):
            torch.manual_seed(0)
            found.append(Mixup(1.0, place)(model, given))
        assert_close(*found)
    assert Mixup.terms(batch) == 3


def test_of_several_places_each_is_drawn():
    loss, model = Mixup(where=["outputs", "embeddings", 2]), steady()
    torch.manual_seed(0)
    places = [loss._drawn(model) for _ in range(300)]
    assert {*places} == {None, 0, 2} and all(70 < places.count(place) < 130 for place in (None, 0, 2))


@pytest.mark.parametrize("where", ["middle", 0, 3, -1, True, [1, "inputs"]])
def test_a_place_that_is_none_is_refused(where):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="from 1 to 2; given"):
        Mixup(where=where)(steady(), a_batch())


@pytest.mark.parametrize("labels", [torch.rand(5), torch.rand(5, 2), torch.ones(5, 7, dtype=torch.long)])
def test_labels_that_are_no_classes_are_refused(labels):
    for loss in (Mixup(), Consistency(Cutoff(tiny_tokenizer()))):
        with pytest.raises(ValueError, match="classification_loss is for one class a text"):
            loss(steady(), {**a_batch(), "labels": labels})


@pytest.mark.parametrize("alpha", [-1, float("inf"), "a", True, None])
def test_an_alpha_that_is_none_is_refused(alpha):
    for make in (Mixup, lambda alpha: Consistency(None, alpha)):
        with pytest.raises(ValueError, match="alpha must be a number of at least 0"):
            make(alpha)
    with pytest.raises(ValueError, match="given: none"):
        Mixup(where=[])


def test_under_gradient_checkpointing_states_are_not_mixed_in_silence():
    model, batch = steady(), a_batch()
    model.gradient_checkpointing_enable()
    for place in (1, "embeddings"):
        with pytest.raises(ValueError, match="gradient_checkpointing_disable"):
            Mixup(where=place)(model, batch)
    Mixup(where="outputs")(model, batch).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.gradient_checkpointing_disable()
    Mixup(where=1)(model, batch)
    assert found


# beside frozen layers whose outputs are kept


def trained(loss, cache=None, place=None, frozen=1, epochs=2, **settings):
    model = tiny_model("bert", dropout=False)
    for part in (model.bert.embeddings, *model.bert.encoder.layer[:frozen]):
        part.requires_grad_(False)
    settings = {"lr": 3e-3, "batch_size": 8, "precision": "fp32", "eval_every": 0, "seed": 0} | settings
    run = Run(model, tiny_tokenizer(), tiny_data(24), loss=loss, epochs=epochs, cache=cache, **settings)
    for _ in run:
        pass
    return run


@pytest.mark.parametrize("place", PLACES)
def test_a_cache_of_frozen_layers_does_not_hide_the_mixing(place):
    plain, kept = trained(Mixup(1.0, place)), trained(Mixup(1.0, place), ActivationCache())
    assert_close(plain.history["loss"].tolist(), kept.history["loss"].tolist(), atol=1e-5, rtol=1e-5)
    unmixed = trained(classification_loss, ActivationCache())
    assert (unmixed.history["loss"] - kept.history["loss"]).abs().min() > 1e-4


def test_a_cache_does_not_hide_what_is_cut_off():
    losses = [trained(Consistency(Cutoff(tiny_tokenizer(), 0.3)), cache) for cache in (None, ActivationCache())]
    assert_close(losses[0].history["loss"].tolist(), losses[1].history["loss"].tolist(), atol=1e-5, rtol=1e-5)
    assert (losses[1].history["KL"] > 0).all()


@pytest.mark.parametrize("loss", [Mixup(0.5, ["embeddings", 1]), Consistency(Cutoff(tiny_tokenizer()), 2.0)])
def test_the_same_seed_gives_the_same_weights(loss):
    one, two = (weights(trained(loss).model) for _ in range(2))
    assert same_bits(one, two)
    assert not same_bits(one, weights(trained(loss, seed=1).model))


def test_an_evaluation_draws_nothing():
    run = trained(Mixup(1.0, 1))
    assert run.evaluate("test")["loss"] == run.evaluate("test")["loss"]
    assert Run(run.model, tiny_tokenizer(), tiny_data(24), loss=classification_loss).evaluate("test")[
        "loss"
    ] == pytest.approx(run.evaluate("test")["loss"], abs=1e-5)


# views


def counts(share, n=400, span=False, side="right"):
    batch, view = a_batch(side), Cutoff(tiny_tokenizer(side), share, span)
    torch.manual_seed(0)
    masks = torch.stack([view(batch)["attention_mask"] for _ in range(n)])
    return batch, masks


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("span", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_so_many_tokens_of_each_text_are_not_seen(share, span, side):
    batch, masks = counts(share, 60, span, side)
    ordinary = (batch["attention_mask"] > 0) & (batch["input_ids"] > 3)  # behind [PAD], [UNK], [CLS], [SEP]
    ordinary |= batch["input_ids"] == 1
    n = [min(max(1, int(share * words)), words - 1) for words in ordinary.sum(1).tolist()]
    gone = (batch["attention_mask"] - masks).bool()
    assert not (gone & ~ordinary).any()
    assert (gone.sum(2) == torch.tensor(n)).all()
    if span:  # in one piece
        begins = gone & ~F.pad(gone[:, :, :-1], (1, 0))
        assert (begins.sum(2) == (torch.tensor(n) > 0)).all()


@pytest.mark.parametrize("span", [False, True])
def test_no_token_is_cut_off_more_often_than_another(span):
    batch, masks = counts(0.2, 3000, span)
    gone = (batch["attention_mask"] - masks).float().mean(0)[2, 1:7]  # one of six words
    assert_close(gone, torch.full((6,), 1 / 6), atol=0.03, rtol=0)


def test_a_share_of_nothing_cuts_nothing_and_the_batch_is_not_changed():
    batch = a_batch()
    before = copy.deepcopy(batch)
    assert torch.equal(Cutoff(tiny_tokenizer(), 0)(batch)["attention_mask"], batch["attention_mask"])
    Cutoff(tiny_tokenizer(), 0.9)(batch)
    assert all(torch.equal(batch[name], before[name]) for name in before)
    with pytest.raises(ValueError, match="share must be"):
        Cutoff(tiny_tokenizer(), 2)


def test_what_is_cut_off_makes_no_difference_any_more():
    model, batch = steady().eval(), a_batch()
    cut = {**batch, "attention_mask": batch["attention_mask"].clone()}
    cut["attention_mask"][2, 3] = 0
    other = {**cut, "input_ids": cut["input_ids"].clone()}
    other["input_ids"][2, 3] = 9
    assert_close(model(**model_inputs(cut)).logits, model(**model_inputs(other)).logits)


def test_two_views_are_the_formula():
    model, batch, view = steady(), a_batch(), Cutoff(tiny_tokenizer(), 0.4)
    torch.manual_seed(0)
    found = Consistency(view, 2.0)(model, batch)
    torch.manual_seed(0)
    a, b = (model(**model_inputs(x)).logits for x in (batch, view(batch)))
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    kl = sum(F.kl_div(x, y, log_target=True, reduction="batchmean") for x, y in ((p, q), (q, p)))
    both = (F.cross_entropy(a, LABELS) + F.cross_entropy(b, LABELS)) / 2
    assert kl > 1e-3
    assert_close(found["KL"], kl / 2)
    assert_close(found["cross-entropy"], both)
    assert_close(found["loss"], both + 2.0 * kl / 2)


def test_a_missing_label_is_in_no_mean():
    model, batch = steady(), {**a_batch(), "labels": torch.tensor([1, -100, 0, 1, -100])}
    there = batch["labels"] >= 0
    short = {name: x[there] for name, x in batch.items()}
    whole, part = (Consistency(lambda b: {**b, "input_ids": b["input_ids"].flip(1)})(model, x) for x in (batch, short))
    assert_close(whole["cross-entropy"], part["cross-entropy"])
    assert_close(whole["KL"], part["KL"])


def test_without_a_view_it_is_r_drop():
    model, batch = tiny_model("bert").train(), a_batch()
    found = []
    for loss in (Consistency(None, 1.5), lambda m, b: r_drop_loss(m, b, 1.5)):
        torch.manual_seed(0)
        found.append(loss(model, batch)["loss"])
    assert torch.equal(*found)
    with pytest.raises(ValueError, match="no|none"):
        Consistency()(steady(), batch)
    assert torch.equal(Consistency()(model.eval(), batch), classification_loss(model, batch))
    assert Consistency.terms(batch) == 5
