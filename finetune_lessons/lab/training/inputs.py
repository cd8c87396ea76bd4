"""Data, model and tokenizer made ready for each other, or refused with the first thing that does not fit."""

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.models.inputs import check_given, most_tokens, unwrapped
from finetune_lessons.lab.models.padding import padding_side
from finetune_lessons.lab.training.batches import Batches
from finetune_lessons.lab.training.columns import Column
from finetune_lessons.lab.training.deciding import decide
from finetune_lessons.lab.models.heads import Head, head_of, problem_type_of
from finetune_lessons.lab.training.tasks import Task
from finetune_lessons.lab.training.tokenising import tokenize

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def batches_by_split(
    data: "Mapping[str, Any]",  # a DatasetDict, or several by task name
    tokenizer: "PreTrainedTokenizerBase",
    model: Any,  # for what its inputs and labels may be
) -> "dict[str, Batches]":
    """The batches of each split that has examples; what their labels mean is decided here.

    Raises ValueError for data that the model cannot be trained or evaluated on, with the first row that is at fault.
    """
    check_given(model, tokenizer)
    if not isinstance(data, Mapping):
        raise ValueError(f"data must be a DatasetDict with a split 'train'; given: {type(data).__name__}")
    by_task = data if data and all(isinstance(value, Mapping) for value in data.values()) else {"": data}
    for name, splits in by_task.items():
        _check_splits(f"task {name!r}" if name else "the data", splits)
    _check_heads(by_task, model)
    heads = {name: head_of(model, name) for name in by_task}
    _check_padding(tokenizer, model, heads)
    _warn_of_padding(model)
    positions = most_tokens(model)
    limit = int(min(tokenizer.model_max_length, positions, 10**6))
    found: dict[str, dict[str, Dataset]] = {}
    tasks: dict[str, Task] = {}
    for task, splits in by_task.items():
        tokenised = {name: split for name, split in tokenize(splits, tokenizer, limit).items() if len(split)}
        tasks[task] = decide(tokenised, heads[task], len(by_task) > 1)
        _name_classes(unwrapped(model), tasks[task], heads[task])
        _say_what_outputs_are(unwrapped(model), tasks[task], heads[task])
        for name, split in tokenised.items():
            _check_tokens(name, split, positions, model)
            found.setdefault(name, {})[task] = split
    side = padding_side(model)
    return {name: Batches(by, tokenizer, {task: tasks[task] for task in by}, side) for name, by in found.items()}


def _check_splits(where: str, splits: Mapping[str, Any]) -> None:
    from datasets import Dataset

    if "train" not in splits:
        raise ValueError(f"{where} needs a split 'train'; it has: {', '.join(map(str, splits)) or 'none'}")
    for name, split in splits.items():
        if not isinstance(split, Dataset):
            given = type(split).__name__
            raise ValueError(f"the split {name!r} of {where} must be a datasets.Dataset; given: {given}")
    if not len(splits["train"]):
        raise ValueError(f"the train split of {where} is empty")


def _check_heads(tasks: Mapping[str, Any], model: Any) -> None:
    heads = getattr(model, "num_labels", None)
    if not isinstance(heads, Mapping):
        return
    if unknown := [task for task in tasks if task not in heads]:
        given = f"for {unknown[0]!r}" if unknown[0] else "of one task without a name"
        raise ValueError(f"data {given}, but the model has no such head; its heads are {', '.join(heads)}")
    if idle := [head for head in heads if head not in tasks]:
        raise ValueError(f"no data for the task {idle[0]!r}: its head would stay random; leave it out of the model")


def _check_padding(tokenizer: "PreTrainedTokenizerBase", model: Any, heads: Mapping[str, Head]) -> None:
    "A classifier finds the end of a text by the padding token that its configuration names."
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token: set tokenizer.pad_token = tokenizer.eos_token")
    if tokenizer.pad_token_id >= (words := _known_words(model)):
        raise ValueError(
            f"the tokenizer pads with the token {tokenizer.pad_token_id}, but the model knows {words} tokens: "
            "after adding tokens call model.resize_token_embeddings(len(tokenizer))"
        )
    config = getattr(unwrapped(model), "config", None)
    if config is None or not any(head.kind == "text" for head in heads.values()):
        return
    if (pads := getattr(config, "pad_token_id", None)) is None:
        config.pad_token_id = tokenizer.pad_token_id
    elif pads != tokenizer.pad_token_id:
        raise ValueError(
            f"the tokenizer pads with {tokenizer.pad_token_id} ({tokenizer.pad_token!r}), but the model takes {pads} "
            "for padding: set model.config.pad_token_id = tokenizer.pad_token_id, or load the model's own tokenizer"
        )


def _warn_of_padding(model: Any) -> None:
    "Of what no choice of ours mends: a model of transformers that reads padding as it reads texts, such as FNet."
    model = unwrapped(model)
    taken = inspect.signature(model.forward).parameters
    if hasattr(model, "config") and "input_ids" in taken and "attention_mask" not in taken:
        warnings.warn(
            f"{type(model).__name__} takes no attention mask, so padding changes what it says of a text, and its "
            "numbers depend on the batch size: with batch_size=1 there is none",
            stacklevel=5,
        )


def _check_tokens(name: str, split: "Dataset", positions: float, model: Any) -> None:
    tokens = Column(name, "input_ids", split)
    lengths = tokens.lengths()
    if (longest := lengths.max()) > positions:
        raise ValueError(
            f"row {lengths.argmax()} of the split {name!r} has {longest} tokens, the model takes {positions}: "
            f"cut when you tokenise (truncation=True, max_length={positions})"
        )
    words = _known_words(model)
    if wrong := tokens.first_wrong(lambda ids: (ids >= 0) & (ids < words)):
        raise ValueError(
            f"row {wrong[0]} of the split {name!r} has the token {wrong[1]:.0f}, but the model knows {words} tokens: "
            "call model.resize_token_embeddings(len(tokenizer)) if you added some, or load the model's own tokenizer"
        )


def _name_classes(model: Any, task: Task, head: Head) -> None:
    "Give the model the names that the data have for its classes, for whoever loads it later."
    names = list(task.classes)
    if head.kind != "text" or len(names) != head.outputs or not hasattr(model, "config"):
        return
    theirs = [name.casefold() for name in head.classes]
    ours = [name.casefold() for name in names]
    if theirs != ours and sorted(theirs) == sorted(ours):
        number = next(i for i, name in enumerate(ours) if name != theirs[i])
        raise ValueError(
            f"class {number} is {names[number]!r} in the data and {head.classes[number]!r} in the model: "
            f"number the classes of the data as the model does, ClassLabel(names={list(head.classes)})"
        )
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}


def _say_what_outputs_are(model: Any, task: Task, head: Head) -> None:
    "In the model's configuration, by which `predict` goes and whoever loads it later."
    config: Any = getattr(model, "config", None)
    has_heads = isinstance(getattr(model, "num_labels", None), Mapping)
    if head.kind != "text" or has_heads or not task.problem_type or not hasattr(config, "problem_type"):
        return
    if task.problem_type != problem_type_of(config):
        config.problem_type = task.problem_type


def _known_words(model: Any) -> float:
    "How many tokens the model has an embedding for."
    try:
        embedding = unwrapped(model).get_input_embeddings()
    except (AttributeError, NotImplementedError):  # a model of one's own, or one that reads characters
        return math.inf
    return getattr(embedding, "num_embeddings", math.inf)
