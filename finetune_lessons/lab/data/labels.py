"""What a label means: a class, known by its name and the same in every split; nothing; or no class at all."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset, DatasetDict

_NUMBER = r"[+-]?[0-9]{1,15}(\.[0-9]{1,9})?"


def is_number(value: str) -> bool:
    "As a class may be written."
    return bool(re.fullmatch(_NUMBER, value))


def class_names(values: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Sorted class names, and the name of each value; where all are numbers, "1.0" and "01" are the class "1"."""
    distinct = set(values)
    if not all(map(is_number, distinct)):
        return sorted(distinct), {value: value for value in distinct}
    numbers = {value: Decimal(value).normalize() + 0 for value in distinct}
    names = [f"{number:f}" for number in sorted(set(numbers.values()))]
    return names, {value: f"{number:f}" for value, number in numbers.items()}


def label_words(part: "Dataset") -> list[Any]:
    """The labels of a split: names for a ClassLabel, None where there is none (NaN, empty, a ClassLabel's -1)."""
    from datasets import ClassLabel

    feature = part.features["label"]
    labels = part["label"][:]
    if isinstance(feature, ClassLabel):
        return [None if label is None or label < 0 else feature.names[label] for label in labels]
    return [_stripped(label) for label in labels]


def _stripped(label: Any) -> Any:
    if isinstance(label, str):
        return label.strip() or None
    return None if label != label else label  # NaN is unequal to itself


def one_class_label(
    data: "Mapping[str, Dataset]",  # splits with a column label: words, numbers of classes, or a ClassLabel
) -> "DatasetDict":
    """The splits with the same ClassLabel in all of them, however each has written or numbered its classes.

    Raises ValueError for labels that are no classes, and when another split has rows of a class that train has not.
    """
    from datasets import DatasetDict

    return DatasetDict(with_class_labels(data, "the data"))


def with_class_labels(
    splits: "Mapping[str, Dataset]",  # with a label in every row; one of them is train
    name: str,  # of the source, for messages
) -> "dict[str, Dataset]":
    """The splits with one ClassLabel, whatever form their labels have; classes are compared by name, never by number.

    Raises ValueError as `one_class_label` does.
    """
    from datasets import ClassLabel

    if all(isinstance(part.features["label"], ClassLabel) for part in splits.values()):
        return _with_trains_classes(splits)
    labels = {split: label_words(part) for split, part in splits.items()}
    _check_are_classes([label for split in labels.values() for label in split], name)
    written = {split: [_written(label) for label in given] for split, given in labels.items()}
    names, of_value = class_names([value for values in written.values() for value in values])
    classes = {split: [of_value[value] for value in values] for split, values in written.items()}
    encoded = {}
    for split, part in splits.items():
        used = set(classes[split])
        feature = ClassLabel(names=[c for c in names if c in used])
        encoded[split] = _with_labels(part, [feature.str2int(c) for c in classes[split]], feature)
    return _with_trains_classes(encoded)


def _check_are_classes(labels: list[Any], name: str) -> None:
    """The answer is the same in whatever order the labels come."""
    distinct = [label for _, label in sorted({repr(label): label for label in labels}.items())]
    example = {_kind(label): label for label in reversed(distinct)}
    if odd := sorted(example.keys() - {"words", "numbers", "truth values"}):
        raise ValueError(
            f"the labels of {name} are not classes; one of them is {example[odd[0]]!r}. `load_data` reads one class, "
            "a word or a whole number, for each text"
        )
    if len(example) > 1:
        shown = " and ".join(f"{kind} ({label!r})" for kind, label in sorted(example.items()))
        raise ValueError(f"the labels of {name} are of several kinds, {shown}; write them all as words")
    if _are_ratings(distinct):
        rating = next(label for label in distinct if not _is_whole(label))
        raise ValueError(
            f"the labels of {name} are not classes; one of them is {rating}, a rating. For a regression, read a "
            "file with read_csv, or load the data with datasets.load_dataset, and take a model with num_labels=1; for "
            "classes, write the labels as words"
        )


def _kind(label: Any) -> str:
    if isinstance(label, bool):
        return "truth values"
    if isinstance(label, int | float):
        return "numbers"
    return "words" if isinstance(label, str) else type(label).__name__


def _are_ratings(labels: list[Any]) -> bool:
    """Whether all are numbers, as such or in writing, and some have a fraction."""
    numbers = all(_kind(label) == "numbers" or is_number(str(label)) for label in labels)
    return numbers and not all(map(_is_whole, labels))


def _is_whole(number: Any) -> bool:
    return float(number).is_integer()


def _written(label: Any) -> str:
    return f"{label:.0f}" if isinstance(label, float) else str(label)


def _with_trains_classes(splits: "Mapping[str, Dataset]") -> "dict[str, Dataset]":
    train = splits["train"].features["label"]
    return {split: _renumbered(part, split, train) for split, part in splits.items()}


def _renumbered(part: "Dataset", split: str, train: "ClassLabel") -> "Dataset":
    names = part.features["label"].names
    if names == train.names:
        return part
    labels = part["label"][:]
    used = {label for label in labels if label is not None and label >= 0}
    if strange := sorted({names[label] for label in used} - set(train.names)):
        known = ", ".join(map(repr, train.names))
        raise ValueError(
            f"the {split} split has the class {strange[0]!r}, which is none of train's ({known}); "
            f"put texts of it into train, or take it out of {split}"
        )
    number = {label: train.str2int(names[label]) for label in used}
    return _with_labels(part, [number.get(label, label) for label in labels], train)


def _with_labels(part: "Dataset", labels: list[int | None], feature: "ClassLabel") -> "Dataset":
    """`part` with other labels, its columns in the order they had."""
    relabelled = part.remove_columns("label").add_column("label", labels, feature=feature)
    return relabelled.select_columns(part.column_names)
