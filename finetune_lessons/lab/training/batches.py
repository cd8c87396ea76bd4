"""One split as batches of tensors: by length, padded to the longest of the batch."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune_lessons.lab.training.columns import CHUNK, Column
from finetune_lessons.lab.training.deciding import decide
from finetune_lessons.lab.models.heads import Head
from finetune_lessons.lab.training.padding import padded, real_tokens
from finetune_lessons.lab.training.sampling import JointRows, Rows, plan_epoch, steps_per_epoch
from finetune_lessons.lab.training.tasks import Task
from finetune_lessons.lab.training.token_budget import TokenBudget, size_of_a_step
from finetune_lessons.lab.training.tokenising import tokenize, transform_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "decoder_attention_mask")
OWN = {"label", "labels", "labelled", "index", "task", "tasks", "epoch"}  # keys of a batch that no column overrides


def model_inputs(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    "The part of a batch that a transformers model takes, without labels: `model(**model_inputs(batch))`."
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}


def count_tokens(batch: Mapping[str, Any]) -> int:
    "Tokens without padding."
    if "tasks" in batch:
        return sum(map(count_tokens, batch["tasks"].values()))
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else 0


class Batch(dict[str, Any]):
    "What a loss is given; a loss that asks for labels where there are none is told so."

    def __missing__(self, key: str) -> Any:
        if key in ("labels", "label"):
            raise ValueError(
                f"the loss asks for {key!r}, and the data have no labels; a batch has {', '.join(self)}: "
                "name the right column with data.rename_column(old, 'label'), or use a loss that needs none"
            )
        raise KeyError(key)

    def to(self, device: torch.device) -> "Batch":
        "Its tensors on the device; a GPU fetches them from page-locked memory while the processor goes on."
        return Batch({key: _on(device, value) for key, value in self.items()})


class Batches:
    "One split of one or several tasks."

    def __init__(
        self,
        splits: Mapping[str, "Dataset"],  # task name -> tokenised split
        tokenizer: "PreTrainedTokenizerBase",
        tasks: Mapping[str, Task] | None = None,  # what their labels mean; None: what they look like without a model
        side: str = "right",  # where sequences are padded
    ):
        self.splits = {name: split.with_format(None) for name, split in splits.items()}
        self.tokenizer, self.side = tokenizer, side
        self.tasks = tasks or {name: decide({"data": split}, Head()) for name, split in self.splits.items()}
        self.lengths = {name: Column("", "input_ids", split).lengths() for name, split in self.splits.items()}
        self._lists = {name: set(_list_columns(split)) for name, split in self.splits.items()}
        self._names = {name: self._loaded(name) for name in self.splits}
        self._transforms = {name: transform for name, split in splits.items() if (transform := transform_of(split))}
        self._columns = {
            name: splits[name] if name in self._transforms else split.select_columns(self._names[name])
            for name, split in self.splits.items()
        }

    def __len__(self) -> int:
        return sum(map(len, self.lengths.values()))

    def _loaded(self, name: str) -> list[str]:
        split, labels = self.splits[name], self.tasks[name].column
        numeric = [column for column in _numeric_columns(split) if column not in OWN]
        return numeric + [column for column in split.column_names if column == labels]

    @property
    def change(self) -> bool:
        "Whether a transform makes other rows of them each time they are loaded."
        return bool(self._transforms)

    @cached_property
    def fingerprint(self) -> str:
        "Of all lengths and labels, and the tokens of the first thousand examples, hashed."
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            digest.update(json.dumps([name, split[:1000]["input_ids"]]).encode())
            digest.update(np.ascontiguousarray(self.lengths[name]).tobytes())
            if (labels := self.tasks[name].column) in split.column_names:
                for part in split.select_columns(labels).iter(CHUNK):
                    digest.update(json.dumps(part[labels]).encode())
        return digest.hexdigest()[:16]

    def epoch(
        self, size: int | TokenBudget, seed: int, epoch: int, sampling: str | float = "proportional"
    ) -> list[Rows] | list[JointRows]:
        "The steps of an epoch, shuffled by (seed, epoch)."
        return plan_epoch(self.lengths, size, np.random.default_rng([seed, epoch]), sampling)

    def steps_per_epoch(self, size: int | TokenBudget, sampling: str | float = "proportional") -> int:
        return steps_per_epoch(self.lengths, size, sampling)

    def in_order(
        self,
        batch_size: int,
        max_tokens: int | None = None,  # in one batch, padding counted; a text that is longer comes alone
    ) -> Iterator[Rows]:
        "Every example once, longest first, so that a batch too large for the memory fails at once."
        for task, lengths in self.lengths.items():
            order, start = np.argsort(-lengths, kind="stable"), 0
            while start < len(order):
                room = max_tokens // max(1, int(lengths[order[start]])) if max_tokens else batch_size
                end = start + max(1, min(batch_size, room))
                yield Rows(task, order[start:end])
                start = end

    def load(self, rows: Rows | JointRows, device: torch.device) -> Batch:
        """The batch of these rows: padded tensors on `device`, `labels` and which of them are there (`labelled`),
        `index` (row numbers), `task`.

        Labels of sequences are padded with -100; other numbers become tensors of shape (batch,)
        with NaN where one is missing, lists of numbers stay lists; texts stay behind, and columns that are called as
        what is the batch's own. The batch of a step of all tasks has a batch for each of them in `tasks`.
        """
        if isinstance(rows, JointRows):
            return Batch(task="", tasks={part.task: self.load(part, device) for part in rows.by_task})
        task, read = self.tasks[rows.task], self._columns[rows.task][rows.index]
        examples = {name: read[name] for name in self._names[rows.task] if name in read}
        labels = examples.pop(task.column, None) if task.column else None
        if "attention_mask" not in examples:
            examples["attention_mask"] = [real_tokens(ids, self.tokenizer) for ids in examples["input_ids"]]
        batch = {name: self._tensor(name, v, name in self._lists[rows.task]) for name, v in examples.items()}
        if labels is not None:
            batch |= task.load(labels, self.side)
        batch["index"] = torch.tensor(rows.index)
        return Batch(batch, task=rows.task).to(device)

    def _tensor(self, name: str, values: list, is_list: bool) -> Any:
        if name in self._padding:
            tensor = padded(values, self._padding[name], self.side)
            return tensor.long() if tensor.dtype == torch.bool else tensor
        if is_list:
            return values
        return torch.tensor([math.nan if value is None else value for value in values])

    @property
    def _padding(self) -> dict[str, int]:
        return {
            "input_ids": self.tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": self.tokenizer.pad_token_type_id,
            "decoder_input_ids": self.tokenizer.pad_token_id,
            "decoder_attention_mask": 0,
        }


class Plan:
    "The rows of each step of a run, from seed and epoch alone: a run that was stopped goes on in the middle of it."

    def __init__(
        self,
        batches: Batches,
        size: int | TokenBudget,  # of one task's part of a step, of all processes together
        seed: int,
        sampling: str | float,
    ):
        self._batches, self._arguments, self._sampling = batches, (size, seed), sampling
        self._epoch: tuple[int, list[Rows] | list[JointRows]] = (-1, [])
        if isinstance(size, TokenBudget):
            for lengths in batches.lengths.values():
                size.check(lengths)
        self.steps_per_epoch = batches.steps_per_epoch(size, sampling)

    def __getitem__(self, index: int) -> Rows | JointRows:
        "Of the step `index`, counted from the start of the run."
        epoch, step = divmod(index, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches.epoch(*self._arguments, epoch, self._sampling))
        return self._epoch[1][step]


def train_batches(
    split: "Dataset",  # texts, or tokenised
    tokenizer: "PreTrainedTokenizerBase",
    batch_size: int = 32,
    seed: int = 0,
    epoch: int = 0,
    max_tokens: int | None = None,
) -> Iterator[dict[str, Any]]:
    "The batches of one epoch, on the CPU: those that a `Run` with this seed trains on."
    from datasets import DatasetDict

    batches = Batches({"": tokenize(DatasetDict(train=split), tokenizer)["train"]}, tokenizer)
    for rows in batches.epoch(size_of_a_step(batch_size, max_tokens), seed, epoch):
        yield batches.load(rows, torch.device("cpu"))


def _numeric_columns(split: "Dataset") -> list[str]:
    columns = (Column("", name, split) for name in split.column_names)
    return [column.name for column in columns if column.type.startswith(("int", "uint", "float", "bool"))]


def _list_columns(split: "Dataset") -> list[str]:
    return [name for name in split.column_names if Column("", name, split).is_list]


def _on(device: torch.device, value: Any) -> Any:
    if isinstance(value, Batch):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on(device, inner) for key, inner in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    return _to_device(device, value)


def _to_device(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
