"""Lesson 35: few labels and many texts; the losses against their formulas, and what they learn from."""

import copy
import math
import warnings

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from datasets import DatasetDict
from tiny import EVERY, SPECIAL, VOCABULARY, same_bits, tiny_data, tiny_model, tiny_tokenizer, weights
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lora import add_lora
from finetune_lessons.overfitting import set_dropout
from finetune_lessons.semi_supervised import (
    EMA,
    UDA,
    FixMatch,
    MeanTeacher,
    MixText,
    PseudoLabels,
    WordNoise,
    _Guesses,
    annealed_threshold,
    confusion,
    few_labels,
    fixmatch_loss,
    guess,
    mean_teacher_loss,
    mixed_cross_entropy,
    mixed_states,
    pseudo_labels,
    self_training,
    sharpened,
    soft_divergence,
    uda_loss,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NOISE = WordNoise(tiny_tokenizer(), drop=0.2, swap=0.2)
LOSSES = {
    "pseudo-labels": lambda model: PseudoLabels(threshold=0.6),
    "fixmatch": lambda model: FixMatch(threshold=0.6, strong=NOISE),
    "uda": lambda model: UDA(threshold=0.6, strong=NOISE, tsa="linear", epochs=2),
    "mean teacher": lambda model: MeanTeacher(model, strong=NOISE),
    "mixtext": lambda model: MixText(),
}
each = pytest.mark.parametrize("name", LOSSES)


def few(labels=8, texts=40, seed=0, **sizes):
    return few_labels(
        tiny_data(**{"train": labels + texts, "validation": labels, "test": 30} | sizes), labels, seed=seed
    )


def logits_of(*rows):
    "Logits whose softmax these probabilities are."
    return torch.tensor(rows).log()


def a_run(loss, model=None, data=None, **settings):
    settings = {"lr": 3e-3, "epochs": 2, "batch_size": 8, "precision": "fp32", "eval_every": 0} | settings
    settings = {"sampling": "together"} | settings
    return Run(model or tiny_model("bert"), tiny_tokenizer(), data or few(), loss=loss, **settings)


def steps(run, n=None):
    for step in run:
        if step.index + 1 == n:
            break
    return run


def a_batch(run=None):
    "The first step's, of both."
    run = run or a_run(PseudoLabels())
    batch = run.splits["train"].load(run._plan[0], torch.device("cpu"))
    return {**batch, "epoch": 0.0}


# the data


def test_labels_are_kept_alike_by_class_and_all_others_are_held_back():
    data, parts = tiny_data(60, 20, 10), few_labels(tiny_data(60, 20, 10), 10, validation=6)
    kept, pool = parts["labelled"]["train"], parts["unlabelled"]["train"]
    assert kept["label"][:].count(0) == kept["label"][:].count(1) == 5
    assert len(parts["labelled"]["validation"]) == 6 and len(parts["labelled"]["test"]) == 10
    assert pool.column_names == ["text", "held_back"] and len(pool) == 50
    truth = dict(zip(data["train"]["text"], data["train"]["label"], strict=True))
    assert [truth[text] for text in pool["text"]] == pool["held_back"][:]
    assert {*kept["text"]} | {*pool["text"]} == {*data["train"]["text"]}
    assert not {*kept["text"]} & {*pool["text"]}


def test_an_odd_number_of_labels_and_a_smaller_pool():
    parts = few_labels(tiny_data(60, 20, 10), 7, unlabelled=12)
    labels = parts["labelled"]["train"]["label"][:]
    assert sorted(labels.count(c) for c in (0, 1)) == [3, 4]
    assert len(parts["labelled"]["validation"]) == 7 and len(parts["unlabelled"]["train"]) == 12


def test_other_seeds_keep_other_labels():
    texts = [few_labels(tiny_data(60), 8, seed=seed)["labelled"]["train"]["text"][:] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_a_text_whose_label_is_missing_is_never_among_those_with_labels():
    data = tiny_data(30)
    data["train"] = data["train"].map(lambda row, i: {"label": -100 if i < 20 else row["label"]}, with_indices=True)
    parts = few_labels(data, 8)
    assert sorted(set(parts["labelled"]["train"]["label"])) == [0, 1]
    assert parts["unlabelled"]["train"]["held_back"][:].count(-100) == 20


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"labels": 8, "validation": 9}, "Choose by at most 8"),
        ({"labels": 1}, "1 labels of 64, for 2 classes"),
        ({"labels": 65}, "65 labels of 64, for 2 classes"),
    ],
)
def test_a_split_that_would_deceive_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        few_labels(tiny_data(), **settings)


def test_labels_that_are_no_classes_are_refused():
    data = tiny_data()
    with pytest.raises(ValueError, match="ClassLabel"):
        few_labels(DatasetDict(train=data["train"].remove_columns("label")), 8)


# the losses, by hand


def test_fixmatch_by_hand():
    weak = logits_of([0.97, 0.03], [0.60, 0.40], [0.02, 0.98], [0.50, 0.50])
    strong = logits_of([0.50, 0.50], [0.10, 0.90], [0.80, 0.20], [0.50, 0.50])
    found = fixmatch_loss(strong, weak, 0.95)
    assert_close(found, torch.tensor([math.log(2), 0.0, math.log(5), 0.0]))
    assert_close(found.mean(), torch.tensor((math.log(2) + math.log(5)) / 4))  # over all four, not over two


def test_fixmatch_is_cross_entropy_with_labels_left_out():
    draw = torch.Generator().manual_seed(0)
    strong, weak = torch.randn(50, 4, generator=draw), 2 * torch.randn(50, 4, generator=draw)
    p, labels = weak.softmax(-1).max(-1)
    labels = torch.where(p >= 0.7, labels, -100)
    expected = F.cross_entropy(strong, labels, ignore_index=-100, reduction="sum") / 50
    assert 0 < (labels != -100).sum() < 50
    assert_close(fixmatch_loss(strong, weak, 0.7).mean(), expected)


def test_a_guess_exactly_at_the_threshold_is_used():
    even = torch.zeros(1, 2)
    assert fixmatch_loss(even, even, 0.5).item() > 0
    assert uda_loss(torch.ones(1, 2) * torch.tensor([0.0, 1.0]), even, 0.5).item() > 0


def test_uda_by_hand():
    weak = logits_of([0.9, 0.1], [0.7, 0.3])
    strong = logits_of([0.5, 0.5], [0.1, 0.9])
    sharp = torch.tensor([0.9**2.5, 0.1**2.5]) / (0.9**2.5 + 0.1**2.5)
    expected = (sharp * (sharp / 0.5).log()).sum()
    assert_close(uda_loss(strong, weak, threshold=0.8, temperature=0.4), torch.stack([expected, torch.tensor(0.0)]))
    assert 0.9**2.5 / (0.9**2.5 + 0.1**2.5) > 0.99  # the second would pass if the sharpened one were asked
    assert sharpened(weak[1:], 0.4).max() > 0.8


def test_uda_is_torchs_kl():
    draw = torch.Generator().manual_seed(0)
    strong, weak = torch.randn(50, 4, generator=draw), 2 * torch.randn(50, 4, generator=draw)
    target = (weak / 0.4).softmax(-1)
    rows = F.kl_div(strong.log_softmax(-1), target, reduction="none").sum(-1)
    expected = rows * (weak.softmax(-1).amax(-1) >= 0.6)
    assert_close(uda_loss(strong, weak, 0.6, 0.4), expected)


def test_sharpened_is_the_power_made_to_sum_to_one():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]])
    expected = p**2 / (p**2).sum(-1, keepdim=True)
    assert_close(sharpened(p.log(), 0.5), expected)


def test_a_target_with_a_zero_has_a_finite_divergence():
    logits = torch.randn(1, 3, requires_grad=True)
    found = soft_divergence(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    found.sum().backward()
    assert_close(found, F.cross_entropy(logits, torch.tensor([0]), reduction="none"))
    assert logits.grad.isfinite().all()


def test_mean_teacher_is_the_mean_square_of_probabilities():
    student, teacher = torch.randn(6, 3), torch.randn(6, 3)
    expected = F.mse_loss(student.softmax(-1), teacher.softmax(-1))
    assert_close(mean_teacher_loss(student, teacher).mean(), expected)


def test_mixed_cross_entropy_is_torchs_with_soft_labels():
    logits, targets = torch.randn(5, 3), torch.randn(5, 3).softmax(-1)
    order = torch.tensor([4, 0, 1, 2, 3])
    mixed = 0.7 * targets + 0.3 * targets[order]
    assert_close(mixed_cross_entropy(logits, targets, order, 0.7), F.cross_entropy(logits, mixed, reduction="none"))


@pytest.mark.parametrize("loss", [fixmatch_loss, uda_loss, mean_teacher_loss])
def test_a_target_that_carries_a_gradient_is_refused(loss):
    with pytest.raises(ValueError, match="carries a gradient"):
        loss(torch.randn(2, 2), torch.randn(2, 2, requires_grad=True))


@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_logits_of_other_texts_or_classes_are_refused(shape):
    with pytest.raises(ValueError, match="same texts and classes"):
        fixmatch_loss(torch.randn(2, 2), torch.randn(*shape))


def test_the_annealed_threshold():
    assert annealed_threshold(0, 4) == 0.25 and annealed_threshold(1, 4) == 1
    assert annealed_threshold(0.5, 2) == 0.75
    middle = [annealed_threshold(0.5, 2, name) for name in ("exp", "linear", "log")]
    assert middle == sorted(middle)
    assert_close(annealed_threshold(1, 2, "exp"), 1.0)
    with pytest.raises(ValueError, match="linear, log, exp"):
        annealed_threshold(0.5, 2, "cosine")


# the strong view


def noisy(texts=200, words=10, side="right", **settings):
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(len(SPECIAL), len(VOCABULARY), (texts, words + 2), generator=draw)
    ids[:, 0], ids[:, -1] = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
    padding = torch.zeros(texts, 3, dtype=torch.long)
    mask = torch.ones_like(ids)
    parts = ([ids, padding], [mask, padding]) if side == "right" else ([padding, ids], [padding, mask])
    batch = {"input_ids": torch.cat(parts[0], 1), "attention_mask": torch.cat(parts[1], 1)}
    torch.manual_seed(0)
    return batch, WordNoise(tiny_tokenizer(), **settings)(batch)


@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_are_left_out_as_often_as_said_and_the_rest_moves_up(side):
    before, after = noisy(side=side, drop=0.3, swap=0)
    assert after["input_ids"].shape == before["input_ids"].shape
    gone = 1 - (after["attention_mask"].sum(1) - 2).float().mean() / 10
    assert_close(gone, torch.tensor(0.3), atol=0.03, rtol=0)
    for ids, mask, old, real in zip(after["input_ids"], after["attention_mask"], before["input_ids"],
                                    before["attention_mask"], strict=True):  # fmt: skip
        kept, whole = ids[mask > 0].tolist(), iter(old[real > 0].tolist())
        assert all(token in whole for token in kept)  # in their order
        assert (ids[mask == 0] == 0).all()
        assert kept[0] == VOCABULARY["[CLS]"] and kept[-1] == VOCABULARY["[SEP]"]
        assert mask.tolist() == sorted(mask.tolist(), reverse=side == "right")  # padding on one side


def test_neighbours_change_places_and_nothing_is_lost():
    before, after = noisy(drop=0, swap=0.3)
    assert torch.equal(before["attention_mask"], after["attention_mask"])
    assert torch.equal(before["input_ids"].sort(1).values, after["input_ids"].sort(1).values)
    moved = before["input_ids"] != after["input_ids"]
    assert 0.2 < moved[:, 1:11].float().mean() < 0.6
    assert not moved[:, 0].any() and not moved[:, 11:].any()
    places = (before["input_ids"].unsqueeze(2) == after["input_ids"].unsqueeze(1))[:, 1:11, 1:11]
    assert places.diagonal(0, 1, 2).sum() + places.diagonal(1, 1, 2).sum() + places.diagonal(-1, 1, 2).sum() >= 2000


def test_a_word_is_left_of_every_text_and_an_empty_one_stays_empty():
    _, after = noisy(drop=1.0)
    assert (after["attention_mask"].sum(1) == 3).all()
    _, after = noisy(words=0, drop=1.0)
    assert (after["attention_mask"].sum(1) == 2).all()


def test_without_noise_the_batch_is_as_it_was():
    before, after = noisy(drop=0, swap=0)
    assert torch.equal(before["input_ids"], after["input_ids"]) and set(before) == set(after)


def test_an_unknown_word_is_a_word():
    batch = {"input_ids": torch.tensor([[2, 1, 1, 1, 3]]), "attention_mask": torch.ones(1, 5)}
    assert WordNoise(tiny_tokenizer(), drop=1.0)(batch)["attention_mask"].sum() == 3


@pytest.mark.parametrize("setting", [{"drop": 1.5}, {"swap": -0.1}, {"drop": "a tenth"}])
def test_a_share_that_is_none_is_refused(setting):
    with pytest.raises(ValueError, match="must be a number from 0 to 1"):
        WordNoise(tiny_tokenizer(), **setting)


# what the losses do with a batch


def both(loss, model, batch):
    torch.manual_seed(0)
    return loss.train()(model.train(), batch)


def test_the_loss_is_the_cross_entropy_and_the_mean_over_all_texts():
    model, batch = tiny_model("bert", dropout=False), a_batch()
    found = both(FixMatch(0.55, strong=lambda b: b, strength=0.5), model, batch)
    labels, texts = batch["tasks"]["labelled"], batch["tasks"]["unlabelled"]
    logits = guess(model, texts)
    p, y = logits.softmax(-1).max(-1)
    each_text = F.cross_entropy(logits, y, reduction="none") * (p >= 0.55)
    assert 0 < (p >= 0.55).sum() < len(p)
    assert_close(found["unlabelled"], each_text.sum() / len(y))
    assert_close(found["labelled"], classification_loss(model, labels))
    assert_close(found["loss"], found["labelled"] + 0.5 * found["unlabelled"])
    right = (y == texts["held_back"])[p >= 0.55].float().mean()
    assert_close(found["share of texts used"], (p >= 0.55).float().mean())
    assert_close(found["share of these right"], right)


def test_texts_whose_label_nobody_knows_count_for_nothing_in_what_is_right():
    model, batch = tiny_model("bert"), a_batch()
    texts = batch["tasks"]["unlabelled"]
    texts["held_back"] = guess(model, texts).argmax(-1)
    texts["held_back"][::2] = -100
    assert both(PseudoLabels(0.5), model, batch)["share of these right"] == 1
    texts["held_back"].fill_(-100)
    assert both(PseudoLabels(0.5), model, batch)["share of these right"].isnan()


@each
def test_no_gradient_flows_through_a_target_and_dropout_is_off_in_it(name, monkeypatch):
    seen = []

    def spying(function):
        def spy(first, target, *others):
            seen.append(target)
            return function(first, target, *others)

        return spy

    for function in ("fixmatch_loss", "uda_loss", "mean_teacher_loss", "mixed_cross_entropy"):
        original = globals()[function]
        monkeypatch.setattr(f"finetune_lessons.semi_supervised.{function}", spying(original))
    model, batch = set_dropout(tiny_model("bert"), 0.5), a_batch()
    loss = LOSSES[name](model)
    for _ in range(2):
        loss.train()(model.train(), batch)
    targets = seen[:]
    assert len(targets) == 2 and all(target.grad_fn is None and not target.requires_grad for target in targets)
    assert torch.equal(*(target.sort(0).values for target in targets))
    assert model.training


@each
def test_held_back_labels_touch_neither_loss_nor_gradient(name):
    gradients = []
    for change in (lambda x: x, lambda x: 1 - x, None):
        model, batch = tiny_model("bert"), a_batch()
        texts = batch["tasks"]["unlabelled"]
        if change is None:
            del texts["held_back"]
        else:
            texts["held_back"] = change(texts["held_back"])
        both(LOSSES[name](model), model, batch)["loss"].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert same_bits(gradients[0], gradients[1]) and same_bits(gradients[0], gradients[2])


@each
def test_in_evaluation_it_is_the_cross_entropy(name):
    data = few()
    run = steps(a_run(LOSSES[name](model := tiny_model("bert")), model, data), 2)
    plain = Run(model, tiny_tokenizer(), data["labelled"], loss=classification_loss, precision="fp32", eval_every=0)
    expected = plain.evaluate("test")
    found = run.evaluate("test")
    assert found.keys() == {f"labelled/{metric}" for metric in expected}
    for metric, value in expected.items():
        assert_close(found[f"labelled/{metric}"], value, atol=1e-5, rtol=1e-5)
    assert list(run.predict("test")["prediction"]) == list(plain.predict("test")["prediction"])


@each
def test_pieces_of_a_step_add_up(name):
    def gradient(accum):
        model = tiny_model("bert", dropout=False)
        loss = {"mixtext": None, "mean teacher": MeanTeacher(model, strong=lambda b: b)}.get(
            name, {"uda": UDA(0.55, strong=lambda b: b), "fixmatch": FixMatch(0.55, strong=lambda b: b)}.get(
                name, PseudoLabels(0.55)))  # fmt: skip
        run = a_run(loss, model, few(labels=6), batch_size=8 // accum, grad_accum=accum, lr=1e-2, epochs=1,
                    optimizer=lambda groups, lr: torch.optim.SGD(groups, lr), max_grad_norm=1e6)  # fmt: skip
        return steps(run, 3).history, weights(model)

    if name == "mixtext":
        pytest.skip("a piece is mixed within itself")
    (whole, w), (pieces, v) = gradient(1), gradient(4)
    for part in ("loss", "labelled", "unlabelled"):
        assert_close(whole[part].to_numpy(), pieces[part].to_numpy(), atol=1e-5, rtol=1e-4)
    for tensor in w:
        assert_close(w[tensor], v[tensor], atol=1e-6, rtol=1e-4)


def test_a_step_without_a_label_learns_from_the_texts_alone():
    batch, model = a_batch(), tiny_model("bert")
    batch["tasks"]["labelled"]["labels"].fill_(-100)
    batch["tasks"]["labelled"].pop("labelled")
    found = both(PseudoLabels(0.5), model, batch)
    assert "labelled" not in found and found["loss"].isfinite()


def test_the_strength_ramps_up():
    loss = FixMatch(strength=2.0, ramp_up=4)
    assert_close([loss.strength_at(e) for e in (0, 2, 4, 9)], [2 * math.exp(-5), 2 * math.exp(-1.25), 2.0, 2.0])
    assert FixMatch(strength=2.0).strength_at(0) == 2.0


def test_labels_that_are_learnt_already_wait():
    model, batch = tiny_model("bert", dropout=False), a_batch()
    rows = batch["tasks"]["labelled"]
    p = guess(model, rows).softmax(-1).gather(1, rows["labels"].unsqueeze(1)).squeeze(1)
    loss = UDA(tsa="linear", epochs=10, strong=NOISE)
    middle = float(p.sort().values[len(p) // 2 - 1 : len(p) // 2 + 1].mean())
    epoch = 20 * (middle - 0.5)
    found = both(loss, model, {**batch, "epoch": max(0.0, epoch)})
    limit = annealed_threshold(max(0.0, epoch) / 10, 2)
    assert_close(found["labelled"], -(p.log() * (p <= limit)).mean(), atol=1e-5, rtol=1e-5)
    assert_close(found["share of labels used"], (p <= limit).float().mean())
    assert both(loss, model, {**batch, "epoch": 10.0})["share of labels used"] == 1


@pytest.mark.parametrize("loss", [PseudoLabels(), MixText()])
def test_other_data_are_refused_with_what_is_expected(loss):
    with pytest.raises(ValueError, match="few_labels"):
        a_run(loss, data=few()["labelled"], sampling="proportional")
    with pytest.raises(ValueError, match="called 'texts'"):
        steps(a_run(loss, data={"labelled": few()["labelled"], "texts": few()["unlabelled"]}), 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixMatch(threshold=1.5),
        lambda: FixMatch(threshold=-0.1),
        lambda: FixMatch(strength=-1),
        lambda: UDA(temperature=0),
        lambda: UDA(tsa="sometimes"),
        lambda: MixText(alpha=0),
        lambda: FixMatch(ramp_up=math.inf),
        lambda: EMA(tiny_model("bert"), decay=1.5),
        lambda: FixMatch(threshold=True),
    ],
)
def test_settings_that_cannot_work_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


# signals


def test_two_views_that_do_not_differ_are_refused():
    model = tiny_model("bert", dropout=False)
    for loss in (FixMatch(), UDA(), MeanTeacher(model)):
        with pytest.raises(ValueError, match="WordNoise"):
            steps(a_run(loss, model), 1)
    steps(a_run(PseudoLabels(), model), 1)
    steps(a_run(FixMatch(strong=NOISE), model), 1)


@pytest.mark.parametrize(("epochs", "evaluates"), [(1, True), (2, True), (3, False)])
def test_a_mask_that_stays_empty_is_said_once_when_an_epoch_is_over(epochs, evaluates):
    run = a_run(FixMatch(0.999999, strong=NOISE), epochs=epochs, lr=1e-6)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in run:
            if step.index == 2:  # the middle of the first of them
                run.evaluate("test")
                assert not said
        if evaluates:
            run.evaluate("test")
    (warning,) = said
    assert "none of the last 40 texts was used: the surest guess has 0" in str(warning.message)
    assert (run.history["share of texts used"] == 0).all()


def test_a_threshold_that_sorts_nothing_out_is_said_once():
    run = a_run(FixMatch(0.5, strong=NOISE), epochs=3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        steps(run)
    assert sum("sorts nothing out" in str(warning.message) for warning in said) == 1


def test_guesses_of_one_class_are_said():
    model = tiny_model("bert")
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0, 20.0]))
    with pytest.warns(
        UserWarning, match="one class has 100% of the guesses that a batch uses, on average of the last 40 texts"
    ):
        steps(a_run(PseudoLabels(0.9), model, epochs=2, lr=1e-6))


def test_guesses_of_one_class_are_said_though_the_class_changes_from_batch_to_batch():
    guesses = _Guesses()
    for c in (0, 1, 0, 1):
        guesses.parts(5.0 * F.one_hot(torch.full((8,), c), 2), torch.ones(8, dtype=torch.bool), None)
    with pytest.warns(UserWarning, match="one class has 100%"):
        guesses.look(0.99999)


def test_a_few_guesses_in_each_batch_may_well_be_of_one_class():
    guesses = _Guesses()
    for _ in range(20):
        guesses.parts(5.0 * F.one_hot(torch.full((8,), 1), 2), torch.arange(8) < 3, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guesses.look(0.9)


def test_a_signal_that_is_there_is_not_warned_of():
    model, data = tiny_model("bert"), few(labels=64, texts=64)
    steps(a_run(classification_loss, model, data["labelled"], epochs=5, sampling="proportional"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = steps(a_run(FixMatch(0.9, strong=NOISE), model, data, epochs=2, lr=1e-4))
    assert (run.history["share of texts used"] > 0).any() and (run.history["unlabelled"] > 0).any()


@each
def test_every_signal_is_there(name):
    history = steps(a_run(LOSSES[name](model := tiny_model("bert")), model)).history
    assert (history["unlabelled"] > 0).any() and (history["share of texts used"] > 0).any()
    assert (history["share of these right"].dropna() <= 1).all()


# learning


@each
def test_every_loss_trains_and_labels_that_are_shuffled_teach_nothing(name):
    "With true labels the telling words are learnt; with shuffled ones the held-back labels are never found out."

    def accuracy(shuffled):
        data = few(labels=64, texts=64, validation=64, test=200)
        if shuffled:
            rows = sorted(range(64), key=data["labelled"]["train"]["label"][:].__getitem__)
            mixed = {row: i % 2 for i, row in enumerate(rows)}  # half of each class has the label of the other
            train = data["labelled"]["train"].map(lambda _, i: {"label": mixed[i]}, with_indices=True)
            data["labelled"]["train"] = train
        run = a_run(LOSSES[name](model := tiny_model("bert")), model, data, epochs=12, batch_size=16)
        return steps(run).evaluate("test")["labelled/accuracy"]

    assert accuracy(shuffled=False) > 0.8
    assert abs(accuracy(shuffled=True) - 0.5) < 0.15


@pytest.mark.parametrize("arch", EVERY)
@each
def test_every_loss_works_on_every_architecture(arch, name):
    model = tiny_model(arch)
    before = weights(model)
    history = steps(a_run(LOSSES[name](model), model, epochs=1), 2).history
    assert history["loss"].notna().all() and not same_bits(before, weights(model))


@each
def test_every_loss_works_with_lora(name):
    model = add_lora(tiny_model("bert"), r=2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    steps(a_run(LOSSES[name](model), model), 3)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all(p.requires_grad for n, p in model.named_parameters() if n in changed)


@each
def test_a_run_resumes_to_the_bit(name, tmp_path):
    def fresh():
        model = tiny_model("bert")
        return a_run(LOSSES[name](model), model, epochs=2)

    whole = steps(fresh())
    steps(half := fresh(), 4).save(tmp_path / "run.safetensors")
    model = tiny_model("bert")
    resumed = Run.resume(tmp_path / "run.safetensors", model, tiny_tokenizer(), few(), loss=LOSSES[name](model))
    steps(resumed)
    assert half.index == 4 and resumed.history["loss"].tolist() == whole.history["loss"].tolist()
    assert same_bits(weights(whole.model), weights(resumed.model))


@each
def test_gradients_are_the_same_under_autocast(name):
    "autocast keeps weights it has cast, and those of a pass without gradient would have none."
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        model, batch = tiny_model("bert", dropout=False), a_batch()
        loss = LOSSES[name](model)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            both(loss, model, batch)["loss"].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for n in gradients[0]:
        assert_close(gradients[0][n], gradients[1][n], atol=0.05, rtol=0.2)


@each
def test_it_works_behind_a_cache(name):
    model = tiny_model("bert")
    for p in model.base_model.embeddings.parameters():
        p.requires_grad_(False)
    for p in model.base_model.encoder.layer[0].parameters():
        p.requires_grad_(False)
    plain = copy.deepcopy(set_dropout(model, 0.0))
    loss = {"mixtext": lambda model: MixText(layers=[2]), "mean teacher": MeanTeacher}.get(name, LOSSES[name])
    histories = []
    for one, cache in ((model, ActivationCache()), (plain, None)):
        settings = {"strong": lambda b: b} if name == "mean teacher" else {}
        histories.append(steps(a_run(loss(one, **settings), one, cache=cache), 4).history["loss"].to_numpy())
    assert_close(*histories, atol=1e-5, rtol=1e-4)


# the mean teacher


def test_the_average_is_torchs():
    model = tiny_model("bert")
    model.base_model.embeddings.requires_grad_(False)
    ours = EMA(model, decay=0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # the first one copies
    for seed in range(4):
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p += torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        ours.update(model)
        theirs.update_parameters(model)
    expected = dict(theirs.module.named_parameters())
    assert ours.weights().keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, average in ours.weights().items():
        assert_close(average, expected[name], atol=0, rtol=0)


def test_the_teacher_is_the_mean_of_the_weights_before_each_step():
    model = tiny_model("bert", dropout=False)
    loss, before = MeanTeacher(model, strong=NOISE), []
    run = a_run(loss, model)
    for _ in range(4):
        before.append(weights(model))
        next(run)
    for name, average in loss.ema.weights().items():
        assert_close(average, torch.stack([w[name] for w in before]).mean(0), atol=1e-6, rtol=1e-5)
    assert int(loss.ema.updates) == 4


def test_the_teacher_moves_once_a_step_whatever_its_pieces():
    run = a_run(loss := MeanTeacher(model := tiny_model("bert"), strong=NOISE), model, batch_size=2, grad_accum=4)
    steps(run, 5)
    assert int(loss.ema.updates) == 5


def test_the_model_has_the_averages_for_a_while_only():
    run = a_run(loss := MeanTeacher(model := tiny_model("bert"), strong=NOISE), model, data=few(test=60), lr=1e-2)
    steps(run)
    student = weights(model)
    plain = run.evaluate("test")["labelled/loss"]
    with pytest.raises(RuntimeError, match="stop"), loss.ema.in_place(model):
        averaged = run.evaluate("test")["labelled/loss"]
        raise RuntimeError("stop")
    assert averaged != plain and same_bits(student, weights(model))
    assert_close(run.evaluate("test")["labelled/loss"], plain)


def test_the_target_is_the_averages_answer_without_dropout():
    run = a_run(loss := MeanTeacher(model := tiny_model("bert"), strong=NOISE), model, lr=1e-2)
    steps(run, 6)
    texts = a_batch(run)["tasks"]["unlabelled"]
    with loss.ema.in_place(model):
        expected = guess(model, texts)
    assert_close(loss.target(model.train(), texts), expected)
    assert not torch.allclose(guess(model, texts), expected, atol=1e-3)


def test_averages_of_another_model_and_of_nothing_are_refused():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="of another model"):
        EMA(model).update(tiny_model("gpt2"))
    with pytest.raises(ValueError, match="nothing to average"):
        EMA(model.requires_grad_(False))


# mixing


def given_to(model, inputs):
    "What each of the two layers is given, and the logits."
    seen = []
    layers = model.base_model.encoder.layer
    hooks = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in layers]
    logits = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    return [*seen, logits]


def test_hidden_states_are_mixed_behind_the_layer_and_nowhere_else():
    model, batch = tiny_model("bert", dropout=False).eval(), a_batch()["tasks"]["unlabelled"]
    inputs = model_inputs(batch)
    real, order = inputs["attention_mask"] > 0, torch.randperm(len(inputs["input_ids"]))
    plain = given_to(model, inputs)
    with mixed_states(model, 1, order, 0.7, real):
        mixed = given_to(model, inputs)
    both_there = (real & real[order]).unsqueeze(-1)
    assert_close(mixed[0], plain[0])
    assert_close(mixed[1], torch.where(both_there, 0.7 * plain[1] + 0.3 * plain[1][order], plain[1]))
    assert not both_there.all() and not torch.allclose(mixed[2], plain[2], atol=1e-3)
    assert_close(given_to(model, inputs)[2], plain[2])


def test_a_share_of_one_mixes_nothing():
    model, inputs = tiny_model("bert", dropout=False).eval(), model_inputs(a_batch()["tasks"]["unlabelled"])
    with mixed_states(model, 1, torch.randperm(len(inputs["input_ids"])), 1.0, inputs["attention_mask"] > 0):
        mixed = model(**inputs).logits
    assert_close(mixed, model(**inputs).logits)


@pytest.mark.parametrize("arch", EVERY)
def test_mixing_reaches_the_logits_of_every_architecture(arch):
    model, inputs = tiny_model(arch, dropout=False).eval(), model_inputs(a_batch()["tasks"]["unlabelled"])
    n = len(inputs["input_ids"])
    with mixed_states(model, 1, torch.arange(n).roll(1), 0.6, inputs["attention_mask"] > 0):
        mixed = model(**inputs).logits
    assert ((mixed - model(**inputs).logits).abs().amax(1) > 1e-6).all()


def test_a_mixed_text_is_more_of_the_first():
    loss = MixText(alpha=0.75)
    shares = torch.tensor([loss.draw_share() for _ in range(500)])
    assert (shares >= 0.5).all() and (shares <= 1).all() and 0.7 < shares.mean() < 0.85
    assert MixText(alpha=100.0).draw_share() < 0.7


def test_layers_are_drawn_from_those_given_or_from_the_upper_half_but_the_last():
    deep = tiny_model("bert", num_hidden_layers=6)
    assert {MixText().draw_layer(deep) for _ in range(50)} == {3, 4, 5}
    assert {MixText(layers=[2, 6]).draw_layer(deep) for _ in range(50)} == {2, 6}
    for layers in ([7], [0], []):
        with pytest.raises(ValueError, match="from 1 to 6"):
            MixText(layers=layers).draw_layer(deep)


def test_the_loss_of_mixed_texts_is_the_mixed_loss(monkeypatch):
    model, batch = tiny_model("bert", dropout=False), a_batch()
    labels, texts = batch["tasks"]["labelled"], batch["tasks"]["unlabelled"]
    loss = MixText(temperature=0.5, strength=2.0)
    monkeypatch.setattr(loss, "draw_share", lambda: 1.0)  # each text is itself
    found = both(loss, model, batch)
    assert_close(found["labelled"], classification_loss(model, labels), atol=1e-5, rtol=1e-5)
    target, logits = sharpened(guess(model, texts), 0.5), guess(model, texts)
    assert_close(found["unlabelled"], F.cross_entropy(logits, target), atol=1e-5, rtol=1e-5)
    assert_close(found["loss"], found["labelled"] + 2 * found["unlabelled"])


def test_texts_with_and_without_labels_are_mixed_with_each_other(monkeypatch):
    model, batch, seen = tiny_model("bert", dropout=False), a_batch(), []
    loss = MixText()
    monkeypatch.setattr(
        "finetune_lessons.semi_supervised.mixed_cross_entropy",
        lambda logits, targets, order, share: seen.append((targets, order)) or mixed_cross_entropy(
            logits, targets, order, share),
    )  # fmt: skip
    both(loss, model, batch)
    ((targets, order),) = seen
    n = len(batch["tasks"]["labelled"]["labels"])
    assert len(targets) == n + len(batch["tasks"]["unlabelled"]["index"])
    assert (order[:n] >= n).any() and (order[n:] < n).any()
    assert torch.equal(targets[:n].argmax(1), batch["tasks"]["labelled"]["labels"])


# rounds


def a_maker(seen=None, **settings):
    def make_run(labelled):
        if seen is not None:
            seen.append(labelled["train"])
        return a_run(classification_loss, data=labelled, sampling="proportional", **settings)

    return make_run


def test_rounds_train_on_what_the_last_one_was_sure_of():
    data, seen = few(labels=32, texts=60), []
    found = list(self_training(a_maker(seen, epochs=6), data, rounds=2, threshold=0.8))
    assert len(found) == len(seen) == 3
    assert len(seen[0]) == 32
    truth = data["unlabelled"]["train"]["held_back"][:]
    for (run, guesses), train in zip(found, seen[1:], strict=False):
        used = guesses[guesses["used"]]
        assert (guesses["used"] == (guesses["confidence"] >= 0.8)).all() and guesses["held_back"].tolist() == truth
        assert train["text"][:] == data["labelled"]["train"]["text"][:] + used["text"].tolist()
        assert train["label"][32:] == used["guess"].tolist()
        assert train.features["label"].names == ["negative", "positive"]
        expected = run.predict(data["unlabelled"]["train"]["text"][:])
        assert [("negative", "positive")[i] for i in guesses["guess"]] == expected["prediction"].tolist()
    assert len({id(run.model) for run, _ in found}) == 3


def test_rounds_without_a_sure_guess_are_refused():
    rounds = self_training(a_maker(epochs=0.1), few(), rounds=1, threshold=0.999999)
    with pytest.raises(ValueError, match="no text is used in round 1: the surest guess has 0"):
        list(rounds)


def test_the_confusion_of_guesses_by_class():
    guesses = pd.DataFrame(
        {"guess": [0, 1, 1, 1, 0], "held_back": [0, 0, 1, -100, 1], "used": [True, True, True, True, False]}
    )
    table = confusion(guesses, ["negative", "positive", "neither"])
    assert table.to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert table.index.tolist() == table.columns.tolist() == ["negative", "positive", "neither"]


def test_guesses_of_texts_without_held_back_labels():
    model = tiny_model("bert")
    found = pseudo_labels(model, tiny_tokenizer(), few()["unlabelled"]["train"].remove_columns("held_back"), 0.5)
    assert list(found) == ["text", "confidence", "guess", "used"] and found["used"].all()
