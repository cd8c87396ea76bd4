"""Texts to tokens, once for each split."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from finetune_lessons.lab.data.progress import no_progress_bars
from finetune_lessons.lab.training.columns import Column

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

LARGE = 100e6  # bytes of data in memory, from which on the tokens are put on the disk


def tokenize(
    data: "DatasetDict",  # splits with a column `text`
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None = None,  # tokens; longer texts are cut. None: what the tokenizer says the model can take
) -> "DatasetDict":
    """`data` with the columns `input_ids` and `attention_mask`, ready for a `Run`.

    A split that has `input_ids` already keeps them, and with them its transform (`Dataset.with_transform`), which a
    `Run` applies each time it loads rows. Raises ValueError when a split has neither texts nor tokens, a row has no
    token, or a transform is for texts.
    """
    from datasets import DatasetDict

    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is a number of tokens, at least 1; given: {max_length}")
    limit = max_length or min(tokenizer.model_max_length, 10**6)
    return DatasetDict({name: _tokenize_split(name, split, tokenizer, limit) for name, split in data.items()})


def _tokenize_split(name: str, split: "Dataset", tokenizer: "PreTrainedTokenizerBase", limit: int) -> "Dataset":
    def encode(rows: dict) -> dict:
        return dict(tokenizer(rows["text"], truncation=True, max_length=limit))

    if not len(split):
        return split
    transform = transform_of(split)
    split = split.with_format(None)
    if "input_ids" not in split.column_names:
        if transform:
            raise ValueError(
                f"the split {name!r} has a transform, but texts are tokenised once: call tokenize first, and give the "
                "tokens a transform"
            )
        check_texts(name, split)
        with no_progress_bars():
            split = split.map(
                encode, batched=True, cache_file_name=_file_for(split), new_fingerprint=_fingerprint_of(split)
            )
    tokens = Column(name, "input_ids", split)
    empty = [tokens.first_missing(), *np.flatnonzero(tokens.lengths() == 0)[:1]]
    if rows := [row for row in empty if row is not None]:
        raise ValueError(f"row {min(rows)} of the split {name!r} has no tokens: leave empty texts out")
    return split.with_transform(transform) if transform else split


def transform_of(split: "Dataset") -> Callable[[dict], dict] | None:
    "What changes its rows whenever they are read: that of `Dataset.with_transform`, if it has one."
    return split.format["format_kwargs"]["transform"] if split.format["type"] == "custom" else None


def _file_for(split: "Dataset") -> str | None:
    "Where its tokens go. None: beside the file that it is read from, or into memory if it is there and small."
    from datasets.fingerprint import get_temporary_cache_files_directory

    if split.cache_files or split.data.nbytes < LARGE:
        return None
    return str(Path(get_temporary_cache_files_directory()) / f"{uuid4()}.arrow")


def _fingerprint_of(split: "Dataset") -> str | None:
    "What no later call finds on the disk needs no hash of the tokenizer, which takes a third of a second."
    return None if split.cache_files else uuid4().hex[:16]


def check_texts(name: str, split: "Dataset") -> None:
    "Raises ValueError for a split without texts, or with a row that is none."
    if "text" not in split.column_names:
        raise ValueError(
            f"the split {name!r} has no column 'text'; its columns are {split.column_names}: "
            "name the right one with data.rename_column(old, 'text')"
        )
    texts = Column(name, "text", split)
    row = texts.first_missing() if texts.type.endswith("string") else 0
    if row is not None:
        text = split[row]["text"]
        raise ValueError(f"row {row} of the split {name!r} is not a text but {text!r}: mend it, or leave it out")
