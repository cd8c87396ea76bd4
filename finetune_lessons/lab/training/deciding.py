"""Which task the labels of a data set are, for a model: from their features, their values and the model's head."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from finetune_lessons.lab.models.heads import Head
from finetune_lessons.lab.training.columns import Column
from finetune_lessons.lab.training.tasks import IGNORE_INDEX, Classification, MultiLabel, Regression, Task
from finetune_lessons.lab.training.tasks import TokenClasses, Tokens

if TYPE_CHECKING:
    from datasets import Dataset


def decide(
    splits: "Mapping[str, Dataset]",  # of one task, tokenised
    head: Head,
    among_several: bool = False,  # tasks: then -100 says of a number too that it is missing
) -> Task:
    """What the labels of these splits are.

    Raises ValueError for labels that the head has no output for, that the splits number differently, or that are no
    numbers: it names both sides and the mend.
    """
    found = [Column(name, column, split) for name, split in splits.items() if (column := _column(name, split))]
    if not found:
        return Tokens(None, head.causal) if head.kind == "tokens" and head.causal else Task()
    for labels in found:
        _check_alike(found[0], labels)
        _check_numbers(labels)
    return _of_lists(found, head) if found[0].is_list else _of_values(found, head, among_several)


def _column(name: str, split: "Dataset") -> str | None:
    there = [column for column in ("label", "labels") if column in split.column_names]
    if len(there) > 1:
        raise ValueError(f"the split {name!r} has the columns 'label' and 'labels': keep the one that is to be learnt")
    return there[0] if there else None


def _check_alike(first: Column, other: Column) -> None:
    if first.name != other.name or first.is_list != other.is_list:
        raise ValueError(
            f"the splits {first.split!r} and {other.split!r} have unlike labels: {first.name!r} of "
            f"{first.feature}, {other.name!r} of {other.feature}"
        )
    if first.names and other.names and first.names != other.names:
        number = next(i for i, pair in enumerate(_pairs(first.names, other.names)) if pair[0] != pair[1])
        a, b = _pairs(first.names, other.names)[number]
        raise ValueError(
            f"class {number} is {a!r} in the split {first.split!r} and {b!r} in {other.split!r}: "
            "one_class_label(data) numbers the classes of all splits by their names"
        )


def _pairs(a: list[str], b: list[str]) -> list[tuple[str | None, str | None]]:
    width = max(len(a), len(b))
    return list(zip(a + [None] * (width - len(a)), b + [None] * (width - len(b)), strict=True))  # type: ignore[operator]


def _check_numbers(labels: Column) -> None:
    if labels.type.startswith(("int", "uint", "float", "bool")):
        return
    raise ValueError(
        f"{labels.row(0)}, expected a number: one_class_label(data) makes numbers of words, the same in all splits"
    )


# one value a text


def _of_values(found: list[Column], head: Head, among_several: bool) -> Task:
    first, classes = found[0], not found[0].type.startswith("float")
    regression = Regression(first.name, ignored=IGNORE_INDEX if among_several else None)
    if head.kind == "tokens":
        return Task(first.name)  # for a loss that knows: a language model's own would say so
    if head.kind == "token classes":
        raise ValueError(f"the model has a class for each token, but {first.row(0)}: expected a list for each text")
    if head.outputs == 1:
        if first.names or first.type == "bool":
            raise ValueError(
                f"the model has 1 output, for a number, but the labels are classes ({_shown(first)}): "
                f"load it with num_labels={max(2, len(first.names))}"
            )
        return _told(found, regression)
    if not classes and head.outputs is None:
        return _told(found, regression)
    if not classes:
        raise ValueError(
            f"the model has {head.outputs} outputs, for classes, but the labels are of type {first.type} "
            f"({first.row(0)}): for a regression load it with num_labels=1; "
            "if they are classes, leave out rows without one and cast: data.cast_column('label', Value('int64'))"
        )
    for labels in found:
        _check_range(labels, head.outputs)
    return _told(found, Classification(first.name, first.names))


def _check_range(labels: Column, outputs: int | None) -> None:
    numbers = labels.numbers()
    wrong = (numbers < 0) | (numbers >= (np.inf if outputs is None else outputs)) | (numbers % 1 > 0)
    if len(rows := np.flatnonzero(wrong & (numbers != IGNORE_INDEX))):
        limit = f"but the model has {outputs} outputs (labels 0 to {outputs - 1}" if outputs else "expected 0 or more ("
        raise ValueError(
            f"label {numbers[rows[0]]:g} in row {rows[0]} of the split {labels.split!r}, {limit}; "
            f"{IGNORE_INDEX}: none): load the model with the right num_labels, or mend the labels"
        )


def _shown(labels: Column) -> str:
    return ", ".join(labels.names[:5]) + (", ..." if len(labels.names) > 5 else "") if labels.names else "true or false"


def _told(found: list[Column], task: Task) -> Task:
    "The task, after saying how many labels are missing, and refusing those that are infinite."
    for labels in found:
        numbers = labels.numbers()
        if len(rows := np.flatnonzero(np.isinf(numbers))):
            raise ValueError(f"{labels.row(rows[0])}, expected a finite number")
        ignored = numbers == IGNORE_INDEX if isinstance(task, Regression) and task.ignored else False
        if len(rows := np.flatnonzero(np.isnan(numbers) | ignored)):
            warnings.warn(
                f"{len(rows)} of the {len(numbers)} rows of the split {labels.split!r} have no label (the first: row "
                f"{rows[0]}, {labels.data[int(rows[0])][labels.name]}): they are left out of loss and metrics",
                stacklevel=7,
            )
    return task


# a list a text


def _of_lists(found: list[Column], head: Head) -> Task:
    first = found[0]
    if head.kind == "tokens" or (head.kind in ("token classes", "unknown") and all(map(_one_a_token, found))):
        return _of_tokens(found, head)
    if head.kind == "token classes":
        raise ValueError(f"{first.row(0)}, expected one for each token, {IGNORE_INDEX} where there is none")
    if head.outputs == 1:
        raise ValueError(f"the model has 1 output, but {first.row(0)}: load it with num_labels= one for each class")
    if head.problem_type == "regression":
        for labels in found:
            _check_width(labels, head.outputs)
        return Regression(first.name, head.outputs or _width(found))
    return _several_classes(found, head)


def _one_a_token(labels: Column) -> bool:
    tokens = Column(labels.split, "input_ids", labels.data)
    pairs = zip(labels.lists(), tokens.lists(), strict=True)
    return all(np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1]) for ours, theirs in pairs)


def _of_tokens(found: list[Column], head: Head) -> Task:
    words = head.outputs or np.inf
    for labels in found:
        if labels.type.startswith("float"):
            raise ValueError(f"the labels are to be tokens, but {labels.row(0)}: expected whole numbers")
        wrong = labels.first_wrong(lambda x: (x == IGNORE_INDEX) | ((x >= 0) & (x < words)))
        if wrong is not None:
            raise ValueError(
                f"row {wrong[0]} of the split {labels.split!r} has the label {wrong[1]:.0f} for a token, expected "
                + (f"0 to {head.outputs - 1}, of which the model has outputs" if head.outputs else "0 or more")
                + f" ({IGNORE_INDEX}: none)"
            )
        if head.causal and not _one_a_token(labels):
            raise ValueError(
                f"the labels of the split {labels.split!r} are not one for each token: a language model's stand where "
                f"its tokens stand, {IGNORE_INDEX} where there is nothing to name"
            )
    column = found[0].name
    return TokenClasses(column, False) if head.kind == "token classes" else Tokens(column, head.causal)


def _several_classes(found: list[Column], head: Head) -> Task:
    first, names = found[0], found[0].names
    outputs = head.outputs or len(names) or _width(found)
    whole = first.type.startswith(("int", "uint"))
    numbers = bool(names) or (whole and not all(_is_yes_or_no(labels, outputs) for labels in found))
    for labels in found:
        if numbers:
            _check_class_numbers(labels, outputs)
        else:
            _check_width(labels, outputs)
            _check_targets(labels)
    return MultiLabel(first.name, names, outputs, numbers)


def _is_yes_or_no(labels: Column, outputs: int) -> bool:
    is_switch = labels.first_wrong(lambda x: np.isin(x, (0, 1, IGNORE_INDEX))) is None
    return is_switch and labels.first_of_other_length(outputs) is None


def _width(found: list[Column]) -> int:
    return max(int(lengths.max(initial=1)) for labels in found for _, lengths, _ in labels.lists())


def _check_class_numbers(labels: Column, outputs: int) -> None:
    if wrong := labels.first_wrong(lambda x: (x >= 0) & (x < outputs)):
        raise ValueError(
            f"{labels.row(wrong[0])}, but the model has {outputs} outputs: expected the numbers of the classes that "
            f"hold (0 to {outputs - 1}), or {outputs} times 0 or 1"
        )


def _check_width(labels: Column, outputs: int | None) -> None:
    if (row := labels.first_of_other_length(outputs)) is not None:
        raise ValueError(f"{labels.row(row)}, but the model has {outputs} outputs: expected one for each")


def _check_targets(labels: Column) -> None:
    if wrong := labels.first_wrong(lambda x: ((x >= 0) & (x <= 1)) | np.isnan(x) | (x == IGNORE_INDEX)):
        raise ValueError(
            f"{labels.row(wrong[0])}, expected 0 to 1 for each class; "
            'for several numbers a text set model.config.problem_type = "regression"'
        )
