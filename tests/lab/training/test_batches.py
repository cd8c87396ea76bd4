"""Every example once, in an order that the seed fixes, and in tensors that the model can take."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_data, tiny_language_data, tiny_model, tiny_rows, tiny_run, tiny_tokenizer, tiny_tokens

from finetune_lessons.lab.training.batches import Batches, model_inputs
from finetune_lessons.lab.training.inputs import batches_by_split
from finetune_lessons.lab.training.sampling import bucketed
from finetune_lessons.lab.training.tokenising import tokenize

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def batches(rows: dict[str, list], tokenizer=None) -> Batches:
    return Batches({"": Dataset.from_dict(rows)}, tokenizer or tiny_tokenizer())


def of_lengths(lengths: list[int]) -> Batches:
    return batches({"input_ids": [[7] * n for n in lengths]})


def load_all(batches: Batches, batch_size: int = 4) -> dict:
    (rows,) = batches.epoch(batch_size, seed=0, epoch=0)
    return batches.load(rows, CPU)


# the order


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=300),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 5),
)
def test_every_row_comes_once_an_epoch_in_full_batches_but_one(lengths, batch_size, seed, epoch):
    found = bucketed(np.array(lengths), batch_size, np.random.default_rng([seed, epoch]))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    sizes = sorted(len(batch) for batch in found)
    assert sizes[1:] == [batch_size] * (len(sizes) - 1) and 0 < sizes[0] <= batch_size


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    batch_size=st.integers(1, 12),
    parts=st.integers(1, 5),
)
def test_every_row_of_every_task_comes_once_in_training_in_pieces_and_in_evaluation(sizes, batch_size, parts):
    splits = {f"task {n}": Dataset.from_dict({"input_ids": [[7]] * n, "length": [1] * n}) for n in sizes}
    both = Batches(splits, tiny_tokenizer())
    everything = sorted((f"task {n}", row) for n in set(sizes) for row in range(n))
    epoch = both.epoch(batch_size, seed=0, epoch=0)
    assert sorted((piece.task, row) for b in epoch for piece in b.split(parts) for row in piece.index) == everything
    assert sorted((batch.task, row) for batch in both.in_order(batch_size) for row in batch.index) == everything
    assert len(both) == len(everything)
    assert both.steps_per_epoch(batch_size) == len(epoch)


def order(seed: int, epoch: int) -> list[list[int]]:
    lengths = [1 + i * 7 % 5 for i in range(200)]
    return [rows.index.tolist() for rows in of_lengths(lengths).epoch(8, seed, epoch)]


def test_same_seed_and_epoch_give_the_same_order_in_another_process():
    code = "from test_batches import order; print(order(3, 1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == str(order(3, 1)), done.stderr


def test_seeds_and_epochs_differ_in_order_and_in_who_meets_whom():
    orders = [order(0, 0), order(0, 1), order(1, 0)]
    meetings = [{frozenset(batch) for batch in batches} for batches in orders]
    assert len({str(o) for o in orders}) == 3
    assert not meetings[0] & meetings[1] and not meetings[0] & meetings[2]


def test_batches_come_in_random_order_of_length():
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    means = [lengths[batch].mean() for batch in bucketed(lengths, 8, np.random.default_rng(0))]
    assert means != sorted(means) and means != sorted(means)[::-1]


def test_buckets_save_nearly_all_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 3000)

    def padding(found):
        return sum((lengths[batch].max() - lengths[batch]).sum() for batch in found) / lengths.sum()

    at_random = padding(np.array_split(np.random.default_rng(0).permutation(3000), 94))
    assert at_random > 0.8
    assert padding(bucketed(lengths, 32, np.random.default_rng(0))) < 0.05


def test_evaluation_begins_with_the_longest():
    first, *_ = of_lengths([3, 9, 1, 9, 5]).in_order(2)
    assert first.index.tolist() == [1, 3]


# tensors


@pytest.mark.parametrize(("side", "ids", "labels"), [
    ("right", [[7, 8, 9], [7, 0, 0]], [[-100, 8, 9], [7, -100, -100]]),
    ("left", [[7, 8, 9], [0, 0, 7]], [[-100, 8, 9], [-100, -100, 7]]),
])  # fmt: skip
def test_sequences_are_padded_on_the_side_that_is_asked_for(side, ids, labels):
    rows = {
        "input_ids": [[7, 8, 9], [7]], "attention_mask": [[1, 1, 1], [1]], "token_type_ids": [[0, 1, 1], [1]],
        "labels": [[-100, 8, 9], [7]], "decoder_input_ids": [[7, 8, 9], [7]],
    }  # fmt: skip
    found = Batches({"": Dataset.from_dict(rows)}, tiny_tokenizer(), side=side)
    batch = found.load(found.epoch(2, 0, 0)[0], CPU)
    order = batch["index"].argsort()
    assert batch["input_ids"][order].tolist() == batch["decoder_input_ids"][order].tolist() == ids
    assert batch["labels"][order].tolist() == labels
    assert batch["attention_mask"][order].tolist() == (np.array(ids) > 0).astype(int).tolist()
    assert batch["token_type_ids"][order].sum() == 3
    assert set(model_inputs(batch)) == {"input_ids", "attention_mask", "token_type_ids", "decoder_input_ids"}


def test_numbers_become_tensors_and_texts_stay_behind():
    rows = {
        "input_ids": [[7], [8], [9]], "label": [0, 1, 0], "weight": [0.5, None, 2.0], "flag": [True, False, True],
        "ratings": [[1], None, [2, 3]], "nested": [[[1]], [[2]], [[3]]],
        "text": ["a", "b", "c"], "words": [["a"], [], ["b"]], "nothing": [None, None, None],
    }  # fmt: skip
    batch = load_all(batches(rows))
    own = {"input_ids", "attention_mask", "labels", "labelled", "index", "task"}
    assert set(batch) == own | {"weight", "ratings", "nested", "flag"}
    first = batch["index"].tolist().index(0)
    assert batch["labels"].dtype == torch.long and batch["weight"].dtype == torch.float32
    assert batch["weight"][first] == 0.5 and batch["flag"][first] and batch["weight"].isnan().sum() == 1
    assert batch["ratings"][first] == [1] and batch["nested"][first] == [[1]]


def test_a_label_that_is_a_sequence_is_padded_too():
    batch = load_all(batches({"input_ids": [[7, 8], [9]], "label": [[0, 1], [1]]}))
    assert sorted(batch["labels"].tolist()) == [[0, 1], [1, -100]]


def test_a_gpu_fetches_batches_from_page_locked_memory(monkeypatch):
    calls = []

    def to(tensor, device, non_blocking=False):
        calls.append((device.type, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", to)
    of_lengths([2, 3]).load(of_lengths([2, 3]).epoch(2, 0, 0)[0], torch.device("cuda"))
    assert calls == ["pinned", ("cuda", True)] * 3  # the tokens, their mask, and the numbers of the rows


def test_changing_a_batch_does_not_change_the_order():
    found = of_lengths([1, 1, 1])
    rows = found.epoch(3, 0, 0)[0]
    before = rows.index.copy()
    found.load(rows, CPU)["index"].zero_()
    assert np.array_equal(rows.index, before)


# tokenising


def test_texts_are_tokenised_once_and_cut_at_the_limit(data, tokenizer):
    cut = tokenize(data, tokenizer, max_length=5)["train"]
    assert max(map(len, cut["input_ids"])) == 5 and cut["text"][:] == data["train"]["text"][:]
    whole = tokenize(data, tokenizer)["train"]
    assert whole["input_ids"][:] == tokenizer(data["train"]["text"][:])["input_ids"]


def test_tokens_are_taken_as_they_are_given():
    before = tiny_language_data()
    after = tokenize(before, tiny_tokenizer())
    for name, split in before.items():
        assert after[name].to_dict() == split.to_dict()


def test_format_of_tokens_does_not_matter(tokenizer):
    plain = tiny_language_data()
    formatted = DatasetDict({name: split.with_format("torch") for name, split in plain.items()})
    model = tiny_model("gpt2", "causal_lm")
    a, b = (batches_by_split(d, tokenizer, model)["train"] for d in (plain, formatted))
    rows = a.epoch(4, 0, 0)[0]
    assert torch.equal(a.load(rows, CPU)["labels"], b.load(rows, CPU)["labels"])


def test_progress_bars_of_datasets_are_as_before(data, tokenizer, capfd):
    from datasets.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    tokenize(data, tokenizer)
    assert are_progress_bars_disabled() == before
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(("rows", "message"), [
    ({"review": ["a"]}, r"the split 'train' has no column 'text'; its columns are \['review'\].*rename_column"),
    ({"text": ["a", None]}, "row 1 of the split 'train' is not a text but None"),
    ({"text": [1, 2]}, "row 0 of the split 'train' is not a text but 1"),
    ({"input_ids": [[7], []]}, "row 1 of the split 'train' has no tokens"),
])  # fmt: skip
def test_rows_without_text_or_tokens_are_refused(rows, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        tokenize(DatasetDict(train=Dataset.from_dict(rows)), tokenizer)


def test_limit_below_one_token_is_refused(data, tokenizer):
    with pytest.raises(ValueError, match="at least 1; given: 0"):
        tokenize(data, tokenizer, max_length=0)


# what the model can take


@pytest.mark.parametrize("arch", ["bert", "distilbert", "roberta", "gpt2", "opt", "t5"])
def test_texts_are_cut_where_the_positions_of_the_model_end(arch):
    model, tokenizer = tiny_model(arch), tiny_tokenizer(model_max_length=10**30)
    data = DatasetDict(train=Dataset.from_dict({"text": ["word1 " * 200], "label": [0]}))
    batch = load_all(batches_by_split(data, tokenizer, model)["train"])
    assert batch["input_ids"].shape[1] == {"roberta": 63, "t5": 202}.get(arch, 64)
    if arch == "t5":
        batch["input_ids"][:, -1] = 3
    model(**model_inputs(batch))


def test_tokens_beyond_the_positions_are_refused(tokenizer):
    data = DatasetDict(train=Dataset.from_dict({"input_ids": [[7], [7] * 65], "label": [0, 1]}))
    with pytest.raises(ValueError, match="row 1 of the split 'train' has 65 tokens, the model takes 64: cut"):
        batches_by_split(data, tokenizer, tiny_model("bert"))


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 2], r"label 2 in row 1 of the split 'train', but the model has 2 outputs \(labels 0 to 1"),
    ([0, -1], "label -1 in row 1"),
    (["bad", "good"], "row 0 of the split 'train' has the label 'bad', expected a number: one_class_label"),
])  # fmt: skip
@pytest.mark.parametrize(("arch", "column"), [("bert", "label"), ("bert", "labels"), ("t5", "label")])
def test_labels_that_the_model_has_no_output_for_are_refused(arch, column, labels, message, tokenizer):
    data = DatasetDict(train=Dataset.from_dict({"text": ["a", "b"], column: labels}))
    with pytest.raises(ValueError, match=message):
        batches_by_split(data, tokenizer, tiny_model(arch))


def test_labels_of_no_class_and_of_a_regression_are_accepted(tokenizer):
    for labels, outputs in (([1, -100], 2), ([7.5, -3.0], 1), ([7, -3], 1)):
        data = DatasetDict(train=Dataset.from_dict({"text": ["a", "b"], "label": labels}))
        batches_by_split(data, tokenizer, tiny_model("bert", num_labels=outputs))


@pytest.mark.parametrize(("data", "message"), [
    (Dataset.from_dict(tiny_rows(2)), "must be a DatasetDict with a split 'train'; given: Dataset"),
    ([], "must be a DatasetDict with a split 'train'; given: list"),
    ({}, "the data needs a split 'train'; it has: none"),
    (DatasetDict(test=Dataset.from_dict(tiny_rows(2))), "the data needs a split 'train'; it has: test"),
    (DatasetDict(train=Dataset.from_dict(tiny_rows(0))), "the train split of the data is empty"),
    ({"a": DatasetDict(test=Dataset.from_dict(tiny_rows(2)))}, "task 'a' needs a split 'train'; it has: test"),
    ({"train": tiny_rows(2)["text"]}, "the split 'train' of the data must be a datasets.Dataset; given: list"),
])  # fmt: skip
def test_data_without_training_examples_are_refused(data, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        batches_by_split(data, tokenizer, tiny_model("bert"))


def test_tokenizer_without_padding_is_refused(data, tokenizer):
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token: set tokenizer.pad_token"):
        batches_by_split(data, tokenizer, tiny_model("bert"))


# a split that changes whenever it is read


def negated(rows):
    return {"input_ids": rows["input_ids"], "label": [1 - label for label in rows["label"]]}


def test_a_transform_is_asked_at_each_reading():
    seen = []

    def counted(rows):
        seen.append(rows["text"])
        return {"input_ids": [[2, 9 + len(seen), 3] for _ in rows["text"]], "label": rows["label"]}

    data = tiny_tokens(4, 0, 0)
    split = DatasetDict(train=data["train"].with_transform(counted))
    batches = batches_by_split(split, tiny_tokenizer(), tiny_model("bert"))["train"]
    rows = next(batches.in_order(4))
    first, second = (batches.load(rows, CPU) for _ in range(2))
    assert first["input_ids"].tolist() == [[2, 10, 3]] * 4 and second["input_ids"].tolist() == [[2, 11, 3]] * 4
    assert seen[0] == [data["train"]["text"][i] for i in rows.index]


def test_a_run_learns_from_what_the_transform_makes():
    data = tiny_tokens()
    other = DatasetDict({**data, "train": data["train"].with_transform(negated)})
    by_hand = DatasetDict({**data, "train": data["train"].map(negated, batched=True)})
    losses = [[step.loss for step in tiny_run(data=d)] for d in (data, other, by_hand)]
    assert losses[1] == losses[2] != losses[0]


def test_a_transform_leaves_the_fingerprint_alone():
    data, draws = tiny_tokens(), iter(range(10**6))

    def fresh(rows):
        return {"input_ids": [[2, next(draws) % 90, 3] for _ in rows["input_ids"]], "label": rows["label"]}

    splits = [data, DatasetDict({**data, "train": data["train"].with_transform(fresh)})]
    prints = {batches_by_split(d, tiny_tokenizer(), tiny_model("bert"))["train"].fingerprint for d in splits}
    assert len(prints) == 1


def test_a_transform_of_texts_is_refused():
    data = DatasetDict(train=tiny_data()["train"].with_transform(negated))
    with pytest.raises(ValueError, match="call tokenize first, and give the tokens a transform"):
        tiny_run(data=data)
