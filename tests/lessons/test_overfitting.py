"""Dropout is torch's, in distribution and gradient, wherever a model has it; layers begin anew; labels are flipped."""

import math

import pytest
import torch
from datasets import ClassLabel, Dataset, Value
from hypothesis import given
from hypothesis import strategies as st
from tiny import EVERY, tiny_data, tiny_model, tiny_rows, tiny_run, tiny_tokenizer, weights
from torch import nn
from torch.nn import functional as F

from finetune_lessons.lab import compare
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import layer_groups
from finetune_lessons.optimizers import AdamW
from finetune_lessons.overfitting import (
    BertAdam,
    dropout,
    dropout_places,
    early_stopping,
    flip_labels,
    learning_curve,
    plot_gap,
    reinitialize,
    set_dropout,
    stopped_early,
)

pytestmark = pytest.mark.usefixtures("one_thread")
every = pytest.mark.parametrize("arch", EVERY)


def logits(model, training: bool) -> torch.Tensor:
    inputs = tiny_tokenizer()(tiny_rows(6)["text"], padding=True, return_tensors="pt")
    known = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return model.train(training)(**known).logits


# dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_is_that_of_torch_in_distribution(p):
    torch.manual_seed(0)
    x = torch.full((200_000,), 3.0)
    ours, theirs = dropout(x, p), F.dropout(x, p)
    for found in (ours, theirs):
        assert {round(value, 4) for value in found.unique().tolist()} == {0.0, round(3 / (1 - p), 4)}
    spread = math.sqrt(p * (1 - p) / len(x))
    assert abs((ours == 0).float().mean() - p) < 5 * spread
    assert abs((ours == 0).float().mean() - (theirs == 0).float().mean()) < 7 * spread
    assert float(ours.mean()) == pytest.approx(3, rel=0.02)
    assert float(ours.var()) == pytest.approx(float(theirs.var()), rel=0.02)


def test_what_is_dropped_in_one_place_says_nothing_of_another():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(50_000, 4), 0.3) != 0).float()
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.02


@given(st.floats(0, 0.95), st.integers(0, 1000))
def test_a_gradient_goes_where_the_number_went_and_as_large(p, seed):
    torch.manual_seed(seed)
    x = (torch.rand(30) + 1).requires_grad_()
    dropped = dropout(x, p)
    dropped.sum().backward()
    torch.testing.assert_close(x.grad, (dropped / x).detach(), rtol=1e-5, atol=0)
    y = x.detach().clone().requires_grad_()
    theirs = F.dropout(y, p)
    theirs.sum().backward()
    torch.testing.assert_close(y.grad, (theirs / y).detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(x.grad[x.grad > 0], torch.full_like(x.grad[x.grad > 0], 1 / (1 - p)), rtol=1e-5, atol=0)


def test_without_training_or_at_zero_it_is_the_same_object():
    x = torch.randn(5)
    assert dropout(x, 0.0) is x and dropout(x, 0.9, training=False) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_a_share_that_is_none_is_refused(p):
    with pytest.raises(ValueError, match="at least 0 and below 1; given"):
        dropout(torch.ones(2), p)
    with pytest.raises(ValueError, match="at least 0 and below 1; given"):
        set_dropout(tiny_model("bert"), p)


@every
def test_set_dropout_reaches_every_place(arch):
    model = tiny_model(arch)
    assert len(dropout_places(set_dropout(model, 0.0))) >= 2
    assert torch.equal(logits(model, training=True), logits(model, training=False))
    still = logits(model, training=False)
    assert (dropout_places(set_dropout(model, 0.4))["p"] == 0.4).all()
    assert not torch.allclose(logits(model, training=True), still, atol=1e-4)
    assert torch.equal(logits(model, training=False), still)


@every
def test_dropout_set_is_the_dropout_that_the_configuration_makes_a_model_with(arch):
    model = set_dropout(tiny_model(arch), 0.3)
    again = type(model)(type(model.config).from_dict(model.config.to_dict()))
    again.load_state_dict(model.state_dict())
    assert (dropout_places(again)["p"] == 0.3).all()
    assert torch.equal(logits(model, training=True), logits(again, training=True))


def test_whole_layers_are_not_dropped_and_modules_that_only_sound_alike_are_left_alone():
    model = set_dropout(tiny_model("bart"), 0.5)
    assert model.config.encoder_layerdrop == 0 and model.model.encoder.layerdrop == 0

    class Odd(nn.Module):
        dropout_is_on, dropout = True, "much"

        def __init__(self):
            super().__init__()
            self.use_dropout, self.dropout_kind = True, "plain"

    with pytest.raises(ValueError, match="Odd has no place for dropout"):
        set_dropout(Odd(), 0.1)


def test_a_part_of_a_model_and_what_was_added_to_it_can_be_set():
    model = add_lora(tiny_model("bert"), r=2, lora_dropout=0.5)
    set_dropout(model.bert.encoder.layer[1], 0.0)
    places = dropout_places(model).set_index("module")["p"]
    assert model.config.hidden_dropout_prob == 0.1 and model.config.attention_probs_dropout_prob == 0.1  # of the whole
    upper = places.index.str.contains("layer.1.")
    assert (places[upper] == 0).all() and upper.any() and (places[~upper] > 0).all() and 0.5 in places.tolist()


# layers as before pretraining


@every
def test_the_top_layer_begins_anew_and_nothing_below_it(arch):
    model, before = tiny_model(arch), weights(tiny_model(arch))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)  # as if trained
    trained = weights(model)
    reinitialize(model, 1)
    top = [name for name in layer_groups(model) if name not in ("embeddings", "head")][-1]
    for name, now in weights(model).items():
        if name.startswith(f"{top}.") or ".pooler." in name:
            assert abs(now.float().mean() - before[name].float().mean()) < 0.2 < 1, name
            if now.ndim == 1:
                assert torch.equal(now, before[name]), name  # biases 0, norms 1
            else:
                assert float(now.std()) == pytest.approx(float(before[name].std()), rel=0.25), name
        else:
            assert torch.equal(now, trained[name]), name


def test_the_seed_says_what_the_layer_begins_with_and_the_random_state_stays():
    state = torch.get_rng_state()
    a, b, c = (weights(reinitialize(tiny_model("bert"), 1, seed)) for seed in (3, 3, 4))
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(a[name], b[name]) and not torch.equal(a[name], c[name])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_only_layers_that_are_there_begin_anew(layers):
    with pytest.raises(ValueError, match="layers must be 1 to 2, as many as the model has"):
        reinitialize(tiny_model("bert"), layers)


# what a run shows of it


def test_a_learning_curve_has_both_losses_as_evaluated():
    run, other = tiny_run(eval_every=3), tiny_run(eval_every=3)
    curve = learning_curve(run)
    validated = (step for step in other if step.metrics)
    expected = [(step.index + 1, other.evaluate("train")["loss"], step.metrics["loss"]) for step in validated]
    assert [tuple(row) for row in curve.itertuples(index=False)] == expected and len(expected) > 3
    with pytest.raises(ValueError, match="validated nothing"):
        learning_curve(tiny_run(eval_every=0))


def test_the_gap_is_drawn_between_the_curves_and_told_in_words():
    curve = learning_curve(tiny_run(eval_every=4))
    figure = plot_gap({"few": curve, "many": curve})
    assert len(figure.axes) == 2 and all(ax.collections for ax in figure.axes)
    vertices = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert vertices.max() == pytest.approx(curve[["train", "validation"]].max().max())
    assert f"{curve['validation'].iloc[-1]:.2f} at the end" in figure.alt and "many: loss of training" in figure.alt


def test_a_run_that_stops_early_ends_with_its_best_weights_in_a_comparison():
    def too_fast(seed):
        return tiny_run(tiny_model("bert"), lr=0.3, schedule="constant", warmup=0, epochs=6, eval_every=2, seed=seed)

    straight = too_fast(0)
    list(early_stopping(straight, 2))
    last = straight.evaluate()["loss"]
    stopped = stopped_early(too_fast(0), patience=2)
    assert len(stopped) == len(straight)
    (row,) = compare({"stopped": lambda seed: stopped}, seeds=(0,)).to_dict("records")
    assert stopped.index == straight.index < len(straight)
    assert row["loss"] == pytest.approx(straight.best.value, abs=1e-6) and row["loss"] < last - 0.01


def test_only_a_run_that_keeps_its_best_from_the_start_stops_early_with_it():
    run = tiny_run()
    next(run)
    with pytest.raises(ValueError, match="kept no best weights so far"):
        stopped_early(run)


# small data


def test_uncorrected_steps_are_as_much_longer_as_the_formula_says():
    found = {}
    for kind in (AdamW, BertAdam):
        w, places = torch.zeros(3, dtype=torch.float64, requires_grad=True), [0.0]
        optimizer = kind([w], lr=0.01, weight_decay=0.0)
        for _ in range(1000):
            w.grad = torch.full_like(w, -0.7)
            optimizer.step()
            places.append(w[0].item())
        found[kind] = torch.tensor(places, dtype=torch.float64).diff()
    t = torch.arange(1, 1001).double()
    longer = (1 - 0.9**t) / (1 - 0.999**t).sqrt()
    torch.testing.assert_close(found[BertAdam] / found[AdamW], longer, rtol=1e-4, atol=0)


def test_what_the_correction_does_not_touch_is_adamw():
    w, u = (torch.ones(3, requires_grad=True) for _ in range(2))
    for kind, p in ((AdamW, w), (BertAdam, u)):
        p.grad = torch.zeros(3)
        kind([p], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(w, u) and w[0].item() == pytest.approx(0.95)


@given(st.integers(1, 40), st.integers(2, 5), st.floats(0, 1), st.integers(0, 99))
def test_flipped_labels_are_other_classes_in_as_many_rows(rows, classes, share, seed):
    names = [f"c{i}" for i in range(classes)]
    split = Dataset.from_dict({"text": [str(i) for i in range(rows)], "label": [i % classes for i in range(rows)]})
    split = split.cast_column("label", ClassLabel(names=names))
    noisy, flipped = flip_labels(split, share, seed)
    changed = [i for i, (a, b) in enumerate(zip(split["label"], noisy["label"], strict=True)) if a != b]
    assert changed == flipped and len(flipped) == round(share * rows)
    assert noisy["text"][:] == split["text"][:] and noisy.features == split.features
    assert all(0 <= label < classes for label in noisy["label"])
    assert flip_labels(split, share, seed)[1] == flipped


def test_flipped_classes_are_drawn_evenly_from_the_others():
    split = Dataset.from_dict({"label": [1] * 3000}).cast_column("label", ClassLabel(num_classes=4))
    counts = torch.bincount(torch.tensor(flip_labels(split, 1.0)[0]["label"][:]), minlength=4)
    assert counts[1] == 0 and all(abs(counts[c] - 1000) < 150 for c in (0, 2, 3))


def test_only_classes_can_be_flipped():
    numbers = Dataset.from_dict({"label": [0.5]}).cast_column("label", Value("float32"))
    with pytest.raises(ValueError, match="label must be one of several classes"):
        flip_labels(numbers, 0.1)
    with pytest.raises(ValueError, match="share must be 0 to 1; given: 1.5"):
        flip_labels(tiny_data()["train"], 1.5)
