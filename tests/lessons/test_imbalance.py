"""Lesson 42: rare classes; samplers and SMOTE against imbalanced-learn, losses and scores against their formulas."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.utils.class_weight import compute_class_weight
from tiny import EVERY, tiny_data, tiny_model, tiny_tokenizer
from torch.testing import assert_close

from finetune_lessons.cross_entropy import classification_loss, cross_entropy
from finetune_lessons.imbalance import (
    adjusted,
    best_threshold,
    check_apart,
    class_counts,
    class_weights,
    cost_threshold,
    focal,
    focal_loss,
    labels_and_logits,
    logit_adjusted_loss,
    oversample,
    per_class,
    scores,
    smote,
    thin,
    undersample,
    undo_prior,
)
from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lab.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


def of_labels(names=("no", "yes"), **splits):
    "Splits of such labels; each text is another one."
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {"text": [f"{split} {i}" for i in range(len(labels))], "label": labels}, features=features
            )
            for split, labels in splits.items()
        }
    )


def mixed_up(seed=0, **counts):
    "Labels of so many rows of each class, in random order, by split."
    draw = np.random.default_rng(seed)
    return {split: draw.permutation(np.repeat(range(len(n)), n)).tolist() for split, n in counts.items()}


def rows_of(data, before):
    "Which rows of the train split before those after are."
    number = {text: i for i, text in enumerate(before["train"]["text"][:])}
    return [number[text] for text in data["train"]["text"][:]]


# a rare class


def test_a_thinned_class_has_its_share_of_every_split_and_all_others_stay():
    data = of_labels(("a", "b", "c"), **mixed_up(train=[190, 300, 190], validation=[95, 90, 95], test=[19, 40, 57]))
    rare = thin(data, "b", 0.05)
    assert class_counts(rare).to_numpy().tolist() == [[190, 20, 190], [95, 10, 95], [19, 4, 57]]
    assert class_counts(rare).columns.tolist() == ["a", "b", "c"] and class_counts(rare).index.tolist() == list(data)
    for split, rows in data.items():
        others = [text for text, label in zip(rows["text"][:], rows["label"][:], strict=True) if label != 1]
        kept = rare[split]
        assert [t for t, label in zip(kept["text"][:], kept["label"][:], strict=True) if label != 1] == others
        assert set(kept["text"][:]) <= set(rows["text"][:]) and len(set(kept["text"][:])) == len(kept)


def test_other_seeds_keep_other_rows_and_a_class_has_a_name_or_a_number():
    data = of_labels(**mixed_up(train=[95, 95]))
    texts = [thin(data, label, 0.1, seed)["train"]["text"][:] for label, seed in ((1, 0), ("yes", 0), (1, 1))]
    assert texts[0] == texts[1] != texts[2]


def test_each_split_draws_for_itself():
    data = of_labels(**mixed_up(train=[95, 95], test=[95, 95]))
    data["test"] = data["train"].map(lambda row: {"text": row["text"].replace("train", "test")})
    rare = thin(data, 1, 0.1)
    drawn = [[text.split()[1] for text in rare[split]["text"][:]] for split in ("train", "test")]
    assert drawn[0] != drawn[1]


def test_rows_without_a_label_stay_and_count_for_nothing():
    data = of_labels(train=[0] * 19 + [1] * 30 + [-1] * 27)
    assert class_counts(thin(data, 1, 0.05)).to_numpy().tolist() == [[19, 1]]
    assert len(thin(data, 1, 0.05)["train"]) == 19 + 1 + 27
    assert class_counts(oversample(thin(data, 1, 0.05))).to_numpy().tolist() == [[19, 19]]
    assert class_counts(undersample(data)).to_numpy().tolist() == [[19, 19]]
    assert len(undersample(data)["train"]) == 19 + 19 + 27


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("yes", 0.0), "above 0 and below 1"),
        (("yes", 1.0), "above 0 and below 1"),
        (("yes", 0.01), "train: a share of 0.01 beside 30 other rows is 0 rows of class 'yes', and there are 30"),
        (("yes", 0.6), "is 45 rows of class 'yes', and there are 30"),
        (("maybe", 0.1), "there is no class 'maybe'; there are: no, yes"),
        ((2, 0.1), "there is no class 2"),
        ((True, 0.1), "there is no class True"),
    ],
)
def test_what_cannot_be_thinned_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        thin(of_labels(**mixed_up(train=[30, 30])), *arguments)


# more of the one, fewer of the other

COUNTS = {"two classes": [60, 7], "three": [40, 9, 23], "the rare one first": [5, 50], "alike": [8, 8]}


SAMPLED = [(oversample, "over", name) for name in COUNTS] + [
    (undersample, "under", name) for name in COUNTS if name != "alike"
]


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize(("ours", "theirs", "name"), SAMPLED)
def test_the_rows_drawn_are_those_of_imbalanced_learn(ours, theirs, name, seed):
    samplers = pytest.importorskip(f"imblearn.{theirs}_sampling")
    sampler = getattr(samplers, f"Random{theirs.title()}Sampler")(random_state=seed)
    data = of_labels("abc"[: len(COUNTS[name])], **mixed_up(train=COUNTS[name]))
    labels = np.array(data["train"]["label"][:])
    sampler.fit_resample(np.arange(len(labels)).reshape(-1, 1), labels)
    assert rows_of(ours(data, seed=seed), data) == sampler.sample_indices_.tolist()


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_a_ratio_below_one_is_that_of_imbalanced_learn(ratio):
    over = pytest.importorskip("imblearn.over_sampling").RandomOverSampler(sampling_strategy=ratio, random_state=3)
    under = pytest.importorskip("imblearn.under_sampling").RandomUnderSampler(sampling_strategy=ratio, random_state=3)
    data = of_labels(**mixed_up(train=[61, 7]))
    labels = np.array(data["train"]["label"][:])
    for ours, theirs in ((oversample, over), (undersample, under)):
        theirs.fit_resample(np.arange(len(labels)).reshape(-1, 1), labels)
        assert rows_of(ours(data, ratio, seed=3), data) == theirs.sample_indices_.tolist()


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(0, 50), st.sampled_from([0.25, 0.5, 1.0]))
def test_resampling_leaves_no_class_out_and_touches_train_alone(counts, seed, ratio):
    data = of_labels("abcd"[: len(counts)], **mixed_up(seed, train=counts, test=counts))
    more, fewer = oversample(data, ratio, seed), undersample(data, ratio, seed)
    for changed in (more, fewer):
        assert changed["test"]["text"][:] == data["test"]["text"][:] and list(changed) == list(data)
    assert rows_of(more, data)[: sum(counts)] == list(range(sum(counts)))
    assert class_counts(more).loc["train"].tolist() == [max(n, int(ratio * max(counts))) for n in counts]
    assert class_counts(fewer).loc["train"].tolist() == [min(n, int(min(counts) / ratio)) for n in counts]
    kept = rows_of(fewer, data)
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("resample", [oversample, undersample])
def test_data_that_are_not_split_yet_are_refused(resample):
    data = of_labels(**mixed_up(train=[9, 3]))
    with pytest.raises(ValueError, match="DatasetDict with a train split; given: Dataset. Split first"):
        resample(data["train"])
    with pytest.raises(ValueError, match="DatasetDict with a train split; given: DatasetDict"):
        resample(DatasetDict(test=data["train"]))
    with pytest.raises(ValueError, match="'yes' has no row in train"):
        resample(of_labels(train=[0, 0, 0]))
    with pytest.raises(ValueError, match="ClassLabel"):
        resample(DatasetDict(train=data["train"].remove_columns("label")))
    for ratio in (0, -1, 1.5):
        with pytest.raises(ValueError, match="ratio must be above 0 and at most 1"):
            resample(data, ratio)


def test_a_text_on_both_sides_is_found():
    data = of_labels(**mixed_up(train=[9, 3], validation=[4, 1], test=[5, 2]))
    check_apart(data)
    leaky = DatasetDict({**data, "test": data["test"].map(lambda row, i: {"text": "TRAIN  3"} if i < 2 else row, True)})
    for use in (check_apart, oversample, undersample):
        with pytest.raises(ValueError, match="2 of 7 texts of test stand in train too"):
            use(leaky)
    louder = DatasetDict({**leaky, "train": leaky["train"].map(lambda row: {"text": row["text"].upper()})})
    with pytest.raises(ValueError, match="2 of 7 texts of test stand in train too"):
        check_apart(louder)


# weights


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.randoms())
def test_balanced_weights_are_those_of_scikit_learn(counts, random):
    labels = np.repeat(range(len(counts)), counts).tolist()
    random.shuffle(labels)
    theirs = compute_class_weight("balanced", classes=np.arange(len(counts)), y=np.array(labels))
    assert_close(class_weights(labels), torch.tensor(theirs).float())


def test_weights_by_the_effective_number_lie_between_none_and_balanced():
    labels = [0] * 90 + [1] * 10
    expected = torch.tensor([(1 - 0.9) / (1 - 0.9**90), (1 - 0.9) / (1 - 0.9**10)])
    assert_close(class_weights(labels, "effective", beta=0.9), expected * 2 / expected.sum())
    assert_close(class_weights(labels, "effective", beta=0.0), torch.ones(2))
    near = class_weights(labels, "effective", beta=1 - 1e-9)
    balanced = class_weights(labels)
    assert_close(near, balanced * 2 / balanced.sum(), atol=1e-5, rtol=1e-5)


def test_weights_take_a_column_and_leave_out_labels_that_are_missing():
    data = of_labels(train=[0, 0, 0, 1, -1])
    assert_close(class_weights(data["train"]["label"]), torch.tensor([4 / 6, 4 / 2]))
    assert_close(class_weights([0, None, 1, 1]), torch.tensor([3 / 2, 3 / 4]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([0, 0],), "each above 0; given: \\[2\\]"),
        (([0, 2],), "given: \\[1, 0, 1\\]. A class without a row"),
        (([0, 1], "balanced", 0.9, 3), "given: \\[1, 1, 0\\]"),
        (([0, 1], "log"), "how is 'balanced' or 'effective'"),
        (([0, 1], "effective", 1.0), "beta from 0 to below 1"),
    ],
)
def test_weights_that_would_be_none_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        class_weights(*arguments)


def test_the_weights_of_a_batch_of_one_class_vanish():
    logits, labels = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.long)
    weighted = cross_entropy(logits, labels, weight=torch.tensor([0.5, 9.0]))
    assert_close(weighted, cross_entropy(logits, labels))


# losses


def random_logits(classes=3, texts=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(texts, classes, generator=draw), torch.randint(classes, (texts,), generator=draw)


def sigmoid_focal(z, targets, alpha, gamma):
    "As torchvision.ops.sigmoid_focal_loss defines it, of one logit and a target 0 or 1."
    p = torch.sigmoid(z)
    ce = F.binary_cross_entropy_with_logits(z, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    return (alpha * targets + (1 - alpha) * (1 - targets)) * (1 - p_t) ** gamma * ce


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_is_that_of_torchvision(gamma):
    logits, labels = random_logits(2)
    z = logits[:, 1] - logits[:, 0]
    theirs = sigmoid_focal(z, labels.float(), 0.25, gamma)
    assert_close(focal(logits, labels, gamma, alpha=[0.75, 0.25]), theirs, atol=1e-5, rtol=1e-4)


def test_focal_loss_without_focus_is_the_cross_entropy_to_the_bit():
    logits, labels = random_logits()
    assert_close(focal(logits, labels, 0), F.cross_entropy(logits, labels, reduction="none"), atol=0, rtol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_finite_gradients_where_a_text_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [1.0, 1.0]], requires_grad=True)
    focal(logits, torch.tensor([0, 0, 0]), gamma).sum().backward()
    assert logits.grad.isfinite().all()


def test_focal_gradients_are_right():
    logits, labels = random_logits(texts=5)
    logits = logits.double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: focal(z, labels, 2.0, [0.2, 0.5, 0.9]), logits)


def test_what_focal_loss_cannot_use_is_refused():
    logits, labels = random_logits()
    with pytest.raises(ValueError, match="a number for each of the 3 classes, in their order; given: 0.25"):
        focal(logits, labels, alpha=0.25)
    with pytest.raises(ValueError, match="a number for each of the 3 classes"):
        focal(logits, labels, alpha=[0.25, 0.75])
    for gamma in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="gamma must be a number of at least 0"):
            focal(logits, labels, gamma)


def balanced_softmax(logits, labels, counts):
    "-log n_y e^f_y / sum_c n_c e^f_c, as arXiv:2007.10740 writes it."
    weighted = torch.tensor(counts).double() * logits.double().exp()
    return -(weighted.gather(1, labels.unsqueeze(1)).squeeze(1) / weighted.sum(1)).log()


class Says(torch.nn.Module):
    "A model that puts out the logits that it is given."

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **_):
        return type("Output", (), {"logits": self.logits})()


def batch_of(labels):
    return {"input_ids": torch.zeros(len(labels), 1, dtype=torch.long), "labels": labels}


def test_logit_adjustment_with_tau_one_is_the_balanced_softmax():
    logits, labels = random_logits()
    counts = [70, 25, 5]
    ours = logit_adjusted_loss(Says(logits), batch_of(labels), counts)
    assert_close(ours.double(), balanced_softmax(logits, labels, counts).mean(), atol=1e-5, rtol=1e-5)
    shares = [n / 100 for n in counts]
    assert_close(ours, logit_adjusted_loss(Says(logits), batch_of(labels), shares))


def test_logit_adjustment_without_tau_or_imbalance_is_the_cross_entropy():
    logits, labels = random_logits()
    plain = classification_loss(Says(logits), batch_of(labels))
    assert_close(logit_adjusted_loss(Says(logits), batch_of(labels), [70, 25, 5], tau=0), plain, atol=0, rtol=0)
    assert_close(logit_adjusted_loss(Says(logits), batch_of(labels), [7, 7, 7]), plain)


def test_adjusting_afterwards_divides_by_the_prior():
    logits, _ = random_logits()
    prior = torch.tensor([0.7, 0.25, 0.05])
    divided = logits.softmax(-1) / prior
    assert_close(adjusted(logits, [70, 25, 5]).softmax(-1), divided / divided.sum(-1, keepdim=True))
    divided = logits.softmax(-1) / prior.sqrt()
    assert_close(adjusted(logits, [70, 25, 5], 0.5).softmax(-1), divided / divided.sum(-1, keepdim=True))
    assert_close(adjusted(logits, [70, 25, 5], 0), logits, atol=0, rtol=0)


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 3, 4]])
def test_a_prior_of_other_classes_is_refused(counts):
    logits, labels = random_logits()
    for call in (
        lambda: adjusted(logits, counts),
        lambda: undo_prior(logits, counts, [1, 1, 1]),
        lambda: undo_prior(logits, [1, 1, 1], counts),
        lambda: logit_adjusted_loss(Says(logits), batch_of(labels), counts),
    ):
        with pytest.raises(ValueError, match=f"{len(counts)} counts for 3 classes"):
            call()
    with pytest.raises(ValueError, match="each above 0"):
        adjusted(logits, [1, 0, 2])


LOSSES = {
    "weights": partial(classification_loss, weight=torch.tensor([0.6, 3.0])),
    "focal": partial(focal_loss, gamma=2.0, alpha=[0.3, 0.7]),
    "logit adjustment": partial(logit_adjusted_loss, counts=[19, 1]),
}


def rare_data(train=38, test=24):
    data = tiny_data(train * 2, 20, test * 2)
    return thin(data, 1, 0.25)


def a_run(loss, model=None, data=None, **settings):
    settings = {"lr": 3e-3, "epochs": 1, "batch_size": 8, "precision": "fp32", "eval_every": 0} | settings
    return Run(model or tiny_model("bert", dropout=False), tiny_tokenizer(), data or rare_data(), loss=loss, **settings)


@pytest.mark.parametrize("name", LOSSES)
def test_accumulated_pieces_of_a_step_are_the_whole_step(name):
    sizes = ((16, 1), (4, 4))
    whole, pieces = (a_run(LOSSES[name], batch_size=size, grad_accum=n, optimizer=torch.optim.SGD) for size, n in sizes)
    for run in (whole, pieces):
        for _ in run:
            pass
    for a, b in zip(whole.steps, pieces.steps, strict=True):
        assert (a.loss, a.grad_norm) == pytest.approx((b.loss, b.grad_norm), rel=1e-4)
    for a, b in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_an_evaluation_does_not_depend_on_the_batch_size(name):
    losses = [a_run(LOSSES[name], batch_size=size).evaluate("test")["loss"] for size in (3, 8, 30)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("arch", EVERY)
@pytest.mark.parametrize("name", LOSSES)
def test_every_architecture_learns_with_them(name, arch):
    run = a_run(LOSSES[name], tiny_model(arch, dropout=False), epochs=4)
    before = run.evaluate("train")["loss"]
    for _ in run:
        pass
    assert run.evaluate("train")["loss"] < before


def test_a_text_without_a_label_takes_no_part_in_the_focal_loss():
    logits, labels = random_logits(2)
    labels[:7] = -100
    ours = focal_loss(Says(logits), batch_of(labels))
    assert_close(ours, focal(logits[7:], labels[7:]).mean())


def test_labels_and_logits_are_those_of_the_rows_with_a_label():
    data = rare_data()
    data["test"] = data["test"].map(lambda row, i: {"label": -100 if i % 3 == 0 else row["label"]}, True)
    run = a_run(classification_loss, data=data)
    labels, logits = labels_and_logits(run)
    there = [label for label in data["test"]["label"][:] if label >= 0]
    assert labels.tolist() == there and logits.shape == (len(there), 2)
    batch = tiny_tokenizer()(
        [t for t, label in zip(data["test"]["text"][:], data["test"]["label"][:], strict=True) if label >= 0],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        expected = run.model.eval()(**model_inputs(batch)).logits
    assert_close(logits, expected, atol=1e-5, rtol=1e-5)


# SMOTE


def points(counts=(40, 9, 15), width=6, seed=0, dtype=np.float32):
    draw = np.random.default_rng(seed)
    y = draw.permutation(np.repeat(range(len(counts)), counts))
    return (draw.normal(size=(len(y), width)) + 2 * y[:, None]).astype(dtype), y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("counts", "k", "seed"), [((40, 9), 5, 0), ((40, 9, 15), 3, 5), ((8, 60), 1, 2), ((9, 9), 5, 0)]
)
def test_smote_is_that_of_imbalanced_learn(counts, k, seed, dtype):
    SMOTE = pytest.importorskip("imblearn.over_sampling").SMOTE
    x, y = points(counts, dtype=dtype)
    ours, theirs = smote(x, y, k, seed), SMOTE(k_neighbors=k, random_state=seed).fit_resample(x, y)
    assert ours[0].dtype == theirs[0].dtype == dtype
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6, rtol=1e-6)


@given(st.integers(0, 1000), st.integers(1, 6))
def test_a_new_row_lies_between_two_of_its_class(seed, k):
    x, y = points((20, 7), width=3, seed=seed, dtype=np.float64)
    more, labels = smote(x, y, k, seed)
    np.testing.assert_array_equal(more[: len(x)], x)
    assert np.bincount(labels).tolist() == [20, 20]
    own = x[y == 1]
    for row in more[len(x) :]:
        detour = np.linalg.norm(own - row, axis=1)
        pairs = detour[:, None] + detour[None] - np.linalg.norm(own[:, None] - own[None], axis=2)
        np.fill_diagonal(pairs, np.inf)
        assert pairs.min() < 1e-9


def test_a_row_is_no_neighbour_of_its_own_even_where_it_stands_twice():
    x = np.array([[0.0], [0.0], [1.0], [5.0], [5.0], [5.0], [5.0], [5.0]])
    y = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    more, _ = smote(x, y, k=2, seed=0)
    assert ((more[8:] >= 0) & (more[8:] <= 1)).all()


def test_smote_takes_tensors():
    x, y = points((9, 7))
    ours = smote(torch.tensor(x), torch.tensor(y))
    np.testing.assert_array_equal(ours[0], smote(x, y)[0])


@pytest.mark.parametrize(
    ("x", "y", "k", "sentence"),
    [
        (np.arange(40).reshape(10, 4), [0] * 6 + [1] * 4, 2, "token ids are names"),
        (torch.zeros(10, 4, dtype=torch.long), [0] * 6 + [1] * 4, 2, "token ids are names"),
        (np.ones((10, 4)), [0] * 5 + [1] * 5, 2, None),
        (np.ones((10, 4)), [0] * 7 + [1] * 3, 3, "class 1 has 3 rows, and k=3"),
        (np.ones((10, 4)), [0] * 7 + [1] * 3, 0, "k of at least 1"),
        (np.ones(10), [0] * 7 + [1] * 3, 1, "finite numbers \\(rows, width\\)"),
        (np.ones((10, 4)), [0] * 7, 1, "a class for each row"),
        (np.full((10, 4), np.nan), [0] * 7 + [1] * 3, 1, "finite numbers"),
    ],
)
def test_what_cannot_be_interpolated_is_refused(x, y, k, sentence):
    if sentence is None:
        assert len(smote(x, y, k)[0]) == 10
        return
    with pytest.raises(ValueError, match=sentence):
        smote(x, y, k)


# priors


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_a_prior_is_undone_by_the_rule_of_bayes(trained, real):
    "p(c | x) is proportional to p(x | c) p(c): from the densities, once with either prior."
    density = torch.tensor([[0.2, 0.5, 0.1], [0.9, 0.05, 0.4]], dtype=torch.double)
    t, r = torch.tensor(trained, dtype=torch.double), torch.tensor(real, dtype=torch.double)
    found = undo_prior((density * t).log(), trained, real).softmax(-1)
    assert_close(found, density * r / (density * r).sum(-1, keepdim=True))


def test_undone_and_adjusted_are_two_names_of_one_shift():
    logits, _ = random_logits()
    both = undo_prior(logits, [70, 25, 5], [1, 1, 1]).softmax(-1)
    assert_close(both, adjusted(logits, [70, 25, 5]).softmax(-1))
    assert_close(undo_prior(logits, [70, 25, 5], [14, 5, 1]), logits)
    there = undo_prior(logits, [1, 1, 1], [70, 25, 5])
    assert_close(undo_prior(there, [70, 25, 5], [1, 1, 1]), logits, atol=1e-5, rtol=1e-5)


def test_repeating_the_rare_rows_shifts_the_log_odds_by_the_logarithm_of_the_factor():
    "A table of counts is a model that has learnt all that there is."
    a, b = np.array([[30.0, 4.0], [10.0, 6.0]]), 5.0  # rows with each of two features, by class; factor of class 1
    plain, resampled = np.log(a), np.log(a * [1, b])
    found = undo_prior(torch.tensor(resampled), [40, 10 * b], [40, 10]).softmax(-1)
    assert_close(found, torch.tensor(plain).softmax(-1))


# scores


def some_rows(n=80, seed=0, share=0.2):
    draw = np.random.default_rng(seed)
    truth = (np.arange(n) < share * n).astype(int)
    return truth, np.round(draw.beta(1 + 3 * truth, 4), 2)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_scores_are_those_of_the_counts(threshold):
    truth, p = some_rows()
    found, said = scores(truth, p, threshold, costs=(1, 7)), p >= threshold
    tp, fp = (said & (truth == 1)).sum(), (said & (truth == 0)).sum()
    fn, tn = (truth == 1).sum() - tp, (truth == 0).sum() - fp
    assert found["accuracy"] == pytest.approx((tp + tn) / len(p))
    assert found["precision"] == pytest.approx(tp / max(tp + fp, 1))
    assert found["recall"] == pytest.approx(tp / (tp + fn))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["balanced accuracy"] == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2)
    assert found["cost"] == pytest.approx((fp + 7 * fn) / len(p))
    assert found["mcc"] == pytest.approx(0 if said.all() or not said.any() else np.corrcoef(truth, said)[0, 1])
    ranks = sum((a > b) + 0.5 * (a == b) for a in p[truth == 1] for b in p[truth == 0])
    assert found["auroc"] == pytest.approx(ranks / ((tp + fn) * (fp + tn)))


def test_the_average_precision_is_the_mean_precision_at_the_positives():
    truth, p = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    assert scores(truth, p)["average precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_the_calibration_error_is_that_of_the_rare_class():
    truth, p = np.array([0] * 18 + [1] * 2), np.full(20, 0.1)
    assert scores(truth, p)["calibration error"] == pytest.approx(0)
    assert scores(truth, 1 - p)["calibration error"] == pytest.approx(0.8)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=25),
    st.sampled_from(["f1", "balanced accuracy", "mcc", "cost"]),
)
def test_no_other_threshold_is_better_than_the_best(rows, by):
    truth, p = np.array([r[0] for r in rows]), np.array([r[1] / 8 for r in rows])
    if truth.min() == truth.max():
        return
    sign = -1 if by == "cost" else 1
    best = best_threshold(truth, p, by, (2, 3))
    worth = {t: sign * scores(truth, p, t, (2, 3))[by] for t in (best, 0.0, np.inf, *np.arange(-1, 18) / 16)}
    assert worth[best] == pytest.approx(max(worth.values()), abs=1e-12)
    assert best in (0.0, np.inf) or not np.isin(best, p)
    as_good = [t for t, value in worth.items() if value > worth[best] - 1e-12]
    assert (p >= best).sum() == max((p >= t).sum() for t in as_good)


def test_a_best_threshold_tells_neighbouring_floats_apart():
    low = 0.3
    p = np.array([low, np.nextafter(low, 1)])
    best = best_threshold([0, 1], p)
    assert scores([0, 1], p, best)["accuracy"] == 1


def test_of_equally_good_thresholds_it_is_the_lowest():
    p = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert best_threshold([0, 1, 0, 0, 1, 1], p, "balanced accuracy") == pytest.approx(0.45)
    assert best_threshold([0, 1, 0, 1, 1, 1], p, "balanced accuracy") == pytest.approx(0.35)
    assert best_threshold([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], "cost", (1, 1)) == pytest.approx(0.4)


def test_a_threshold_may_call_all_or_none():
    assert best_threshold([0, 1], [0.9, 0.1], "cost", (10, 1)) == np.inf
    assert best_threshold([0, 1], [0.9, 0.1], "cost", (1, 10)) == 0.0


@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_the_rule_of_costs_is_the_cheapest_where_probabilities_are_true(false_alarm, miss):
    p = np.linspace(0.005, 0.995, 100)
    said = p >= cost_threshold(false_alarm, miss)
    expected = np.where(said, false_alarm * (1 - p), miss * p)
    assert (expected <= np.minimum(false_alarm * (1 - p), miss * p) + 1e-9).all()


def test_scores_of_nonsense_are_refused():
    for call in (scores, best_threshold):
        with pytest.raises(ValueError, match="all 3 labels are of one class.*stratify_by_column"):
            call([0, 0, 0], [0.1, 0.2, 0.3])
        with pytest.raises(ValueError, match="labels 0 or 1"):
            call([0, 1, 2], [0.1, 0.2, 0.3])
        with pytest.raises(ValueError, match="a probability for each"):
            call([0, 1], [0.1, 0.2, 0.3])
        for p in ([-1.0, 0.5], [0.1, float("nan")]):
            with pytest.raises(ValueError, match="from 0 to 1; of logits"):
                call([0, 1], p)
    with pytest.raises(ValueError, match="by is 'f1'"):
        best_threshold([0, 1], [0.1, 0.2], "accuracy")
    for costs in ((0, 1), (1, -1)):
        with pytest.raises(ValueError, match="both costs must be above 0"):
            best_threshold([0, 1], [0.1, 0.2], "cost", costs)


def test_a_table_of_classes_has_macro_and_weighted_means():
    labels, predictions = [0] * 8 + [1] * 2, [0] * 8 + [1, 0]
    table = per_class(labels, predictions, ["no", "yes"])
    assert table["rows"].tolist() == [8, 2, 10, 10]
    assert table.loc["yes", ["precision", "recall"]].tolist() == [1.0, 0.5]
    for mean in ("macro", "weighted"):
        expected = metrics.precision_recall_fscore_support(labels, predictions, average=mean)[:3]
        assert table.loc[mean, ["precision", "recall", "f1"]].tolist() == pytest.approx(expected)


def test_a_class_without_a_row_has_no_score():
    table = per_class([0, 0, 1], [0, 0, 1], ["a", "b", "c"])
    assert table.loc["c", ["precision", "recall", "f1"]].isna().all()
    assert table.loc[["macro", "weighted"], "f1"].isna().all()


# the whole, in another process

PROGRAM = """
import torch
from test_imbalance import of_labels, mixed_up, points
from finetune_lessons.imbalance import *
data = of_labels("abc", **mixed_up(train=[40, 30, 35], test=[40, 30, 35]))
rare = thin(data, "b", 0.1, seed=3)
for made in (rare, oversample(rare, seed=4), undersample(rare, seed=5)):
    print(made["train"]["text"][:], made["test"]["text"][:])
print(smote(*points())[0].tobytes().hex())
"""


def test_another_process_draws_the_same(monkeypatch, tmp_path):
    from pathlib import Path

    tests = Path(__file__).parent
    found = set()
    for hash_seed in ("0", "1"):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        monkeypatch.setenv("PYTHONPATH", ":".join(map(str, (tests.parents[1], tests.parent, tests))))
        found.add(subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout)
    assert len(found) == 1
