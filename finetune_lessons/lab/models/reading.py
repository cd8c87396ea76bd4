"""Texts in batches of tokens, as a model that is in use takes them."""

from collections.abc import Iterator
from typing import Any

from finetune_lessons.lab.models.inputs import batches_by_length, most_tokens, unwrapped
from finetune_lessons.lab.models.padding import align_padding, padding_side


def text_batches(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    batch_size: int,
    max_length: int | None = None,  # tokens; None: as many as the model takes, and the number of texts cut is printed
) -> Iterator[tuple[list[int], Any]]:
    "The numbers of some texts, longest first, and their tokens. Raises ValueError for a text without a token."
    model = unwrapped(model)
    align_padding(model, tokenizer)
    limit = int(min(max_length or 10**6, tokenizer.model_max_length, most_tokens(model), 10**6))
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]] if texts else []
    if 0 in lengths:
        raise ValueError(f"text {lengths.index(0)} has no tokens: {texts[lengths.index(0)]!r}")
    if max_length is None and (too_long := sum(length > limit for length in lengths)):
        print(f"{too_long} of {len(texts)} texts cut to the {limit} tokens that the model takes")
    for rows in batches_by_length(lengths, batch_size):
        yield (
            rows,
            tokenizer(
                [texts[row] for row in rows],
                truncation=True,
                max_length=limit,
                padding=True,
                padding_side=padding_side(model),
                return_tensors="pt",
            ),
        )
