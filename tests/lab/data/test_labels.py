"""Classes are the same in every split, by name."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from finetune_lessons.lab.data.labels import class_names, one_class_label


def split(names: list[str], labels: list[int | None]) -> Dataset:
    features = Features({"label": ClassLabel(names=names), "tokens": [Value("int64")], "text": Value("string")})
    columns = {"label": labels, "tokens": [[i] for i in range(len(labels))], "text": list("abcdefgh"[: len(labels)])}
    return Dataset.from_dict(columns, features=features)


def test_one_class_label_maps_by_name_and_keeps_all_else():
    splits = {"test": split(["joy", "anger"], [0, 1, 1]), "train": split(["anger", "joy", "fear"], [0, 1, 2])}
    same = one_class_label(splits)
    assert list(same) == ["test", "train"]
    assert same["train"] is splits["train"]
    assert same["test"].features == splits["train"].features
    assert same["test"][:] == splits["test"][:] | {"label": [1, 0, 0]}
    assert splits["test"]["label"][:] == [0, 1, 1]


def test_one_class_label_leaves_missing_labels_missing():
    same = one_class_label({"train": split(["a", "b"], [0, 1]), "test": split(["b", "a"], [-1, 0, None])})
    assert same["test"]["label"][:] == [-1, 1, None]


def test_a_name_that_no_row_has_is_no_class():
    same = one_class_label({"train": split(["a", "b"], [0, 1]), "validation": split(["c", "b"], [1, 1])})
    assert same["validation"]["label"][:] == [1, 1]
    assert same["validation"].features["label"].names == ["a", "b"]


@pytest.mark.parametrize("labels", [[0, 1, 2], [2, 1, 0]])
def test_a_class_outside_train_is_refused_in_the_same_words(labels):
    with pytest.raises(ValueError, match="the validation split has the class 'c', .* none of train's .'a', 'b'.; put"):
        one_class_label({"train": split(["a", "b"], [0, 1]), "validation": split(["d", "c", "a"], labels)})


@pytest.mark.parametrize("values, names", [(["2", "10", "02.0"], ["2", "10"]), (["2", "10", "x"], ["10", "2", "x"])])
def test_numbers_are_sorted_by_size_and_words_by_letter(values, names):
    found, of_value = class_names(values)
    assert found == names and set(of_value) == set(values) and set(of_value.values()) == set(names)


def test_words_of_all_splits_are_numbered_together():
    given = {"train": ["joy", "anger"], "test": ["anger"]}
    data = DatasetDict({name: Dataset.from_dict({"text": labels, "label": labels}) for name, labels in given.items()})
    made = one_class_label(data)
    assert made["train"].features["label"].names == made["test"].features["label"].names == ["anger", "joy"]
    assert made["train"]["label"][:] == [1, 0] and made["test"]["label"][:] == [0]
