"""Lesson 11's losses against torch and transformers."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import BartForCausalLM

from finetune_lessons import cross_entropy as lesson
from finetune_lessons.cross_entropy import (
    binary_cross_entropy,
    classification_loss,
    cross_entropy,
    language_model_loss,
    next_token_labels,
)
from finetune_lessons.lab.training.batches import model_inputs, train_batches

close = {"rtol": 1e-6, "atol": 1e-6}


@st.composite
def problems(draw):
    "Logits up to 1e4, targets with some ignored (never all), class weights, smoothing."
    n, k, seed = draw(st.integers(1, 20)), draw(st.integers(2, 12)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    size = draw(st.sampled_from([0.1, 1.0, 10.0, 1e4]))
    z = size * torch.randn(n, k, generator=generator, dtype=torch.double)
    y = torch.randint(k, (n,), generator=generator)
    y[1:][torch.rand(n - 1, generator=generator) < draw(st.sampled_from([0.0, 0.5]))] = -100
    w = torch.rand(k, generator=generator, dtype=torch.double) + 0.1
    return z, y, draw(st.sampled_from([None, w])), draw(st.sampled_from([0.0, 0.1, 0.9]))


@given(problems())
def test_equals_torch_in_value_and_gradient(problem):
    z, y, w, epsilon = problem
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    a = cross_entropy(ours, y, w, label_smoothing=epsilon)
    b = F.cross_entropy(theirs, y, w, label_smoothing=epsilon)
    assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert_close(*torch.autograd.grad(a, ours), *torch.autograd.grad(b, theirs), rtol=1e-9, atol=1e-9)


@given(problems())
def test_gradient_is_probability_minus_one_hot(problem):
    z, y, _, _ = problem
    z.requires_grad_()
    cross_entropy(z, y).backward()
    kept = y != -100
    expected = torch.zeros_like(z)
    expected[kept] = (z.detach().softmax(-1)[kept] - F.one_hot(y[kept], z.shape[1])) / kept.sum()
    assert_close(z.grad, expected, rtol=1e-9, atol=1e-9)


@given(problems(), st.floats(-1e4, 1e4))
def test_a_constant_added_to_all_logits_changes_nothing(problem, constant):
    z, y, _, _ = problem
    assert_close(cross_entropy(z, y), cross_entropy(z + constant, y), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 2**31), st.sampled_from([1.0, 100.0, 1e4]), st.floats(0.1, 10))
def test_binary_equals_torch(seed, size, pos_weight):
    generator = torch.Generator().manual_seed(seed)
    z, y = size * torch.randn(3, 5, generator=generator), torch.rand(3, 5, generator=generator)
    expected = F.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(pos_weight))
    assert_close(binary_cross_entropy(z, y, pos_weight), expected, rtol=1e-5, atol=1e-6)


def test_binary_is_cross_entropy_of_two_classes():
    z, y = torch.randn(20), torch.randint(2, (20,))
    assert_close(binary_cross_entropy(z, y), cross_entropy(torch.stack([torch.zeros(20), z], -1), y), **close)


def test_more_dimensions_are_more_examples():
    z, y = torch.randn(3, 4, 7), torch.randint(7, (3, 4))
    assert_close(cross_entropy(z, y), F.cross_entropy(z.flatten(0, 1), y.flatten()), **close)
    w = torch.rand(7)
    assert_close(cross_entropy(z, y, w), F.cross_entropy(z.flatten(0, 1), y.flatten(), w), **close)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_stable_at_ten_thousand(size):
    z = torch.tensor([[size, 0.0, -size]], requires_grad=True)
    loss = cross_entropy(z, torch.tensor([0]))
    loss.backward()
    assert_close(loss, F.cross_entropy(z, torch.tensor([0])))
    assert z.grad.isfinite().all()


def test_all_ignored_is_nan_as_in_torch():
    z, y = torch.randn(2, 3), torch.tensor([-100, -100])
    assert cross_entropy(z, y).isnan() and F.cross_entropy(z, y).isnan()


def batch_of(tokenizer, data):
    return next(train_batches(data["train"], tokenizer, batch_size=6))


@pytest.mark.parametrize("arch", [*tiny.ENCODERS, *tiny.DECODERS])
def test_classification_loss_is_the_model_s_own(arch, data, tokenizer):
    model, batch = tiny.tiny_model(arch, "classifier").eval(), batch_of(tokenizer, data)
    theirs = model(**model_inputs(batch), labels=batch["labels"]).loss
    assert_close(classification_loss(model, batch), theirs, **close)


@pytest.mark.parametrize("arch", tiny.DECODERS)
def test_language_model_loss_is_the_model_s_own(arch, data, tokenizer):
    model, inputs = tiny.tiny_model(arch, "causal_lm").eval(), model_inputs(batch_of(tokenizer, data))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    theirs = model(**inputs, labels=labels).loss
    assert_close(language_model_loss(model, inputs), theirs, **close)
    assert_close(language_model_loss(model, {**inputs, "labels": labels}), theirs, **close)


def test_terms_are_the_labels_that_are_predicted():
    batch = {"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    assert language_model_loss.terms(batch) == 5 + 3
    labels = batch["input_ids"].clone()
    labels[:, :3] = -100
    assert language_model_loss.terms({**batch, "labels": labels}) == 3 + 3
    assert next_token_labels(batch).shape == (2, 5)


def test_labels_of_texts_are_no_labels_of_tokens():
    batch = next(train_batches(tiny.tiny_data(8)["train"], tiny.tiny_tokenizer(), batch_size=8))
    with pytest.raises(ValueError, match=r"of shape \(8,\), are one a text.*remove_columns\('label'\)"):
        language_model_loss(tiny.tiny_model("gpt2", "causal_lm"), batch)


@pytest.mark.parametrize(("arch", "kind", "why"), [
    ("bart", "seq2seq", "BartForConditionalGeneration shifts its labels itself"),
    ("t5", "seq2seq", "T5ForConditionalGeneration shifts its labels itself"),
    ("bert", "masked_lm", "BertForMaskedLM sees the tokens that it is to name"),
])  # fmt: skip
@pytest.mark.parametrize("wrapped", [lambda model: model, lambda model: torch.compile(model, backend="eager")])
def test_a_model_whose_labels_are_not_those_of_a_decoder_is_refused(arch, kind, why, wrapped):
    model, data = wrapped(tiny.tiny_model(arch, kind)), tiny.tiny_language_data()
    with pytest.raises(ValueError, match=f"language_model_loss is for decoders, .*{why}: .*labels=batch"):
        next(tiny.tiny_run(model, data, loss=language_model_loss))


def test_the_decoder_of_an_encoder_decoder_is_one():
    config = tiny.tiny_model("bart", "seq2seq").config
    run = tiny.tiny_run(BartForCausalLM(config), tiny.tiny_language_data(), loss=language_model_loss)
    assert math.isfinite(next(run).loss)


def test_a_label_that_is_no_class_is_named_with_its_row():
    logits = torch.zeros(2, 3, requires_grad=True)
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"label {wrong} in row 1, but there are 3 classes"):
            cross_entropy(logits, torch.tensor([0, wrong]))
    assert cross_entropy(logits, torch.tensor([0, -100])).isfinite()
    assert cross_entropy(torch.zeros(3), torch.tensor(1)).item() == pytest.approx(math.log(3))


def test_a_gpu_says_nan_for_a_label_that_is_no_class_and_what_a_cpu_says_for_others(monkeypatch):
    def as_on_a_gpu(y, kept, classes, weight):
        return lesson._nan_for_unknown(y, kept, (y < 0) | (y >= classes))

    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, -100, 1])
    options = {"weight": [1.0, 2.0, 0.5], "label_smoothing": 0.1}
    expected = cross_entropy(logits, labels, **options)
    (gradient,) = torch.autograd.grad(expected, logits)
    monkeypatch.setattr(lesson, "_known_classes", as_on_a_gpu)
    found = cross_entropy(logits, labels, **options)
    assert_close([found, *torch.autograd.grad(found, logits)], [expected, gradient], **close)
    for wrong in (3, -1):
        assert cross_entropy(logits, torch.tensor([0, wrong, 1, 1])).isnan()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_label_that_is_no_class_is_nan_on_a_gpu_indeed():
    assert cross_entropy(torch.zeros(2, 3, device="cuda"), torch.tensor([0, 3], device="cuda")).isnan()


def test_weights_may_be_a_list_and_are_one_a_class():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, -100])
    expected = F.cross_entropy(logits, labels, torch.tensor([1.0, 2.0, 0.5]))
    torch.testing.assert_close(cross_entropy(logits, labels, [1.0, 2.0, 0.5]), expected)
    with pytest.raises(ValueError, match="2 weights for 3 classes: expected one for each"):
        cross_entropy(logits, labels, [1.0, 2.0])
