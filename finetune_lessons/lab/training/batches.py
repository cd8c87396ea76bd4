"""Texts to tensors: tokenised once, batched by length, padded to the longest of the batch."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch

from finetune_lessons.lab.data.progress import no_progress_bars
from finetune_lessons.lab.training.sampling import JointRows, Rows, plan_epoch, steps_per_epoch

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
LARGE = 100e6  # bytes of data in memory, from which on the tokens are put on the disk
CHUNK = 10_000  # rows that are looked through at a time
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "decoder_attention_mask")


def model_inputs(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    "The part of a batch that a transformers model takes, without labels: `model(**model_inputs(batch))`."
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}


def tokenize(
    data: "DatasetDict",  # splits with a column `text`
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None = None,  # tokens; longer texts are cut. None: what the tokenizer says the model can take
) -> "DatasetDict":
    """`data` with the columns `input_ids`, `attention_mask` and `length`, ready for a `Run`.

    A split that has `input_ids` already keeps them. Raises ValueError when a split has neither texts nor tokens,
    or a row has no token.
    """
    from datasets import DatasetDict

    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is a number of tokens, at least 1; given: {max_length}")
    limit = max_length or min(tokenizer.model_max_length, 10**6)
    return DatasetDict({name: _tokenize_split(name, split, tokenizer, limit) for name, split in data.items()})


def _tokenize_split(name: str, split: "Dataset", tokenizer: "PreTrainedTokenizerBase", limit: int) -> "Dataset":
    def encode(rows: dict) -> dict:
        return dict(tokenizer(rows["text"], truncation=True, max_length=limit, return_length=True))

    def measure(rows: dict) -> dict:
        return {"length": [len(ids) for ids in rows["input_ids"]]}

    if not len(split):
        return split
    split, tokenised = split.with_format(None), "input_ids" in split.column_names
    if not tokenised:
        _check_texts(name, split)
    if not tokenised or "length" not in split.column_names:
        with no_progress_bars():
            split = split.map(measure if tokenised else encode, batched=True, cache_file_name=_file_for(split))
    if len(empty := np.flatnonzero(_array(split, "length") == 0)):
        raise ValueError(f"row {empty[0]} of the split {name!r} has no tokens: leave empty texts out")
    return split


def _file_for(split: "Dataset") -> str | None:
    "Where its tokens go. None: beside the file that it is read from, or into memory if it is there and small."
    from datasets.fingerprint import get_temporary_cache_files_directory

    if split.cache_files or split.data.nbytes < LARGE:
        return None
    return str(Path(get_temporary_cache_files_directory()) / f"{uuid4()}.arrow")


def _array(split: "Dataset", column: str) -> np.ndarray:
    return split.with_format("numpy")[column][:]


def _first_missing(split: "Dataset", column: str) -> int | None:
    start = 0
    for part in split.select_columns(column).with_format("arrow").iter(CHUNK):
        if part[column].null_count:
            return start + int(np.flatnonzero(part[column].is_null())[0])
        start += len(part)
    return None


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", ""))


def _check_texts(name: str, split: "Dataset") -> None:
    if "text" not in split.column_names:
        raise ValueError(
            f"the split {name!r} has no column 'text'; its columns are {split.column_names}: "
            "name the right one with data.rename_column(old, 'text')"
        )
    row = _first_missing(split, "text") if _dtype(split.features["text"]).endswith("string") else 0
    if row is not None:
        text = split[row]["text"]
        raise ValueError(f"row {row} of the split {name!r} is not a text but {text!r}: mend it, or leave it out")


class Batches:
    "One split of one or several tasks, as batches of tensors."

    def __init__(
        self,
        tasks: Mapping[str, "Dataset"],  # task name -> tokenised split
        tokenizer: "PreTrainedTokenizerBase",
    ):
        self.tasks, self.tokenizer = dict(tasks), tokenizer
        self.lengths = {task: _array(split, "length") for task, split in self.tasks.items()}
        self._numbers = {task: split.select_columns(_numeric_columns(split)) for task, split in self.tasks.items()}

    def __len__(self) -> int:
        return sum(map(len, self.lengths.values()))

    @cached_property
    def fingerprint(self) -> str:
        "Of all lengths and labels, and the tokens of the first thousand examples, hashed."
        digest = hashlib.sha256()
        for task, split in self.tasks.items():
            digest.update(json.dumps([task, split[:1000]["input_ids"]]).encode())
            digest.update(np.ascontiguousarray(self.lengths[task]).tobytes())
            if "label" in split.column_names:
                for part in split.select_columns("label").iter(CHUNK):
                    digest.update(json.dumps(part["label"]).encode())
        return digest.hexdigest()[:16]

    def epoch(
        self, batch_size: int, seed: int, epoch: int, sampling: str | float = "proportional"
    ) -> list[Rows] | list[JointRows]:
        "The steps of an epoch, shuffled by (seed, epoch)."
        return plan_epoch(self.lengths, batch_size, np.random.default_rng([seed, epoch]), sampling)

    def steps_per_epoch(self, batch_size: int, sampling: str | float = "proportional") -> int:
        return steps_per_epoch(self.lengths, batch_size, sampling)

    def in_order(self, batch_size: int) -> Iterator[Rows]:
        "Every example once, longest first, so that a batch too large for the memory fails at once."
        for task, lengths in self.lengths.items():
            order = np.argsort(-lengths, kind="stable")
            yield from (Rows(task, order[i : i + batch_size]) for i in range(0, len(order), batch_size))

    def load(self, rows: Rows | JointRows, device: torch.device) -> dict[str, Any]:
        """The batch of these rows: padded tensors on `device`, `labels`, `index` (row numbers), `task`.

        Sequences pad on the tokenizer's side, labels with -100; other numbers become tensors of shape (batch,)
        with NaN where one is missing, lists of numbers stay lists; texts stay behind. The batch of a step of all
        tasks has a batch for each of them in `tasks`.
        """
        if isinstance(rows, JointRows):
            return {"task": "", "tasks": {part.task: self.load(part, device) for part in rows.by_task}}
        examples = self._numbers[rows.task][rows.index]
        batch = {name: self._column(name, values, device) for name, values in examples.items()}
        if "label" in batch:
            batch["labels"] = batch.pop("label")
        batch["index"] = _on(device, torch.tensor(rows.index))
        return {**batch, "task": rows.task}

    def _column(self, name: str, values: list, device: torch.device) -> Any:
        if name in self._padding:
            padded = _pad(values, self._padding[name], self.tokenizer.padding_side)
            return _on(device, padded.long() if padded.dtype == torch.bool else padded)
        if isinstance(values[0], list):
            return values
        return _on(device, torch.tensor([math.nan if value is None else value for value in values]))

    @property
    def _padding(self) -> dict[str, int]:
        return {
            "input_ids": self.tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": self.tokenizer.pad_token_type_id,
            "decoder_input_ids": self.tokenizer.pad_token_id,
            "decoder_attention_mask": 0,
            "label": IGNORE_INDEX,
            "labels": IGNORE_INDEX,
        }


def train_batches(
    split: "Dataset",  # texts, or tokenised
    tokenizer: "PreTrainedTokenizerBase",
    batch_size: int = 32,
    seed: int = 0,
    epoch: int = 0,
) -> Iterator[dict[str, Any]]:
    "The batches of one epoch, on the CPU: those that a `Run` with this seed trains on."
    from datasets import DatasetDict

    batches = Batches({"": tokenize(DatasetDict(train=split), tokenizer)["train"]}, tokenizer)
    for rows in batches.epoch(batch_size, seed, epoch):
        yield batches.load(rows, torch.device("cpu"))


def _numeric_columns(split: "Dataset") -> list[str]:
    def is_numeric(feature: Any) -> bool:
        while hasattr(feature, "feature"):
            feature = feature.feature
        return _dtype(feature).startswith(("int", "uint", "float", "bool"))

    return [name for name, feature in split.features.items() if name != "length" and is_numeric(feature)]


def _on(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    "The tensor on the device; a GPU fetches it from page-locked memory while the processor goes on."
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _pad(sequences: list, value: int, side: str) -> torch.Tensor:
    if not isinstance(sequences[0], list):
        return torch.tensor(sequences)
    width = max(map(len, sequences))
    paddings = [[value] * (width - len(sequence)) for sequence in sequences]
    pairs = zip(sequences, paddings, strict=True)
    return torch.tensor([padding + ids if side == "left" else ids + padding for ids, padding in pairs])


def batches_by_split(
    data: "Mapping[str, Any]",  # a DatasetDict, or several by task name
    tokenizer: "PreTrainedTokenizerBase",
    model: Any,  # for what its inputs and labels may be
) -> "dict[str, Batches]":
    """The batches of each split that has examples.

    Raises ValueError for data that the model cannot be trained or evaluated on, with the first row that is at fault.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"data must be a DatasetDict with a split 'train'; given: {type(data).__name__}")
    tasks = data if data and all(isinstance(value, Mapping) for value in data.values()) else {"": data}
    for task, splits in tasks.items():
        _check_splits(f"task {task!r}" if task else "the data", splits)
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token: set tokenizer.pad_token = tokenizer.eos_token")
    _check_heads(tasks, model)
    virtual = sum(vars(module).get("num_virtual_tokens", 0) for module in model.modules())
    positions = max_positions(model) - virtual
    limit = int(min(tokenizer.model_max_length, positions, 10**6))
    found: dict[str, dict[str, Dataset]] = {}
    for task, splits in tasks.items():
        for name, split in tokenize(splits, tokenizer, limit).items():
            if len(split):
                _check_lengths(name, split, positions)
                _check_labels(name, split, _classes(model, task))
                found.setdefault(name, {})[task] = split
    return {name: Batches(by_task, tokenizer) for name, by_task in found.items()}


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


def max_positions(model: Any) -> float:
    "How many tokens the model can take at most. RoBERTa counts its positions from the padding token's number on."
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None) or math.inf
    named = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    padding = getattr(next(named, None), "padding_idx", None)
    return positions if padding is None else positions - padding - 1


def _check_heads(tasks: Mapping[str, Any], model: Any) -> None:
    heads = getattr(model, "num_labels", None)
    if not isinstance(heads, Mapping):
        return
    if unknown := [task for task in tasks if task not in heads]:
        given = f"for {unknown[0]!r}" if unknown[0] else "of one task without a name"
        raise ValueError(f"data {given}, but the model has no such head; its heads are {', '.join(heads)}")
    if idle := [head for head in heads if head not in tasks]:
        raise ValueError(f"no data for the task {idle[0]!r}: its head would stay random; leave it out of the model")


def _classes(model: Any, task: str) -> int | None:
    "How many outputs the model has for an example of the task, if that is what it is for."
    if type(model).__name__.endswith("ForSequenceClassification"):
        return model.config.num_labels
    outputs = getattr(model, "num_labels", None)
    return outputs[task] if isinstance(outputs, Mapping) else outputs


def _check_lengths(name: str, split: "Dataset", positions: float) -> None:
    lengths = _array(split, "length")
    if (longest := lengths.max()) > positions:
        raise ValueError(
            f"row {lengths.argmax()} of the split {name!r} has {longest} tokens, the model takes {positions}: "
            f"cut when you tokenise (truncation=True, max_length={positions})"
        )


def _check_labels(name: str, split: "Dataset", classes: int | None) -> None:
    column = next((c for c in ("label", "labels") if c in split.column_names), None)
    if column is None:
        return
    kind = _dtype(split.features[column])
    if (row := 0 if "string" in kind else _first_missing(split, column)) is not None:
        raise ValueError(
            f"row {row} of the split {name!r} has the label {split[row][column]!r}, expected a number: "
            "data.class_encode_column('label') makes numbers of words; leave out rows without a label"
        )
    if not kind.startswith(("int", "uint")) or not classes or classes < 2:
        return
    labels = _array(split, column)
    if len(rows := np.flatnonzero(((labels < 0) | (labels >= classes)) & (labels != IGNORE_INDEX))):
        raise ValueError(
            f"label {labels[rows[0]]} in row {rows[0]} of the split {name!r}, but the model has {classes} outputs "
            f"(labels 0 to {classes - 1}; {IGNORE_INDEX}: none): load the model with the right num_labels, "
            "or mend the labels"
        )
