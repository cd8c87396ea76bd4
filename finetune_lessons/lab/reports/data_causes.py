"""What in the data keeps a loss from falling: each function looks for one cause."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from finetune_lessons.lab.reports.causes import Cause
from finetune_lessons.lab.reports.label_probe import LEAST, MOST, feature_probe, targets, word_probe
from finetune_lessons.lab.training.columns import Column
from finetune_lessons.lab.training.tasks import Classification, MultiLabel, Regression


def constant_labels(run: Any) -> Iterator[Cause]:
    for name, task in run.tasks.items():
        if not isinstance(task, Classification | MultiLabel | Regression):
            continue
        labels = Column("train", task.column or "", run.splits["train"].splits[name])
        if labels.is_list:
            rows = {tuple(row) for row in labels.data[:MOST][labels.name] if row is not None}
            constant, what = len(rows) == 1, next(iter(rows), "")
        else:
            numbers = labels.numbers()
            numbers = numbers[~np.isnan(numbers) & (numbers != -100)]
            constant, what = len(numbers) > 1 and np.ptp(numbers) == 0, labels.data[0][labels.name]
        if constant and len(labels.data) > 1:
            yield Cause(
                "The labels are all the same",
                f"each of the {len(labels.data):,} training texts has the label {what}",
                "Look at how the labels were made, and shuffle a sorted file before you cut it into splits",
            )


def same_inputs(run: Any) -> Iterator[Cause]:
    tokenizer = run.tokenizer
    for split in run.splits["train"].splits.values():
        ids = split[:MOST]["input_ids"]
        distinct = len(set(map(tuple, ids)))
        special = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
        unknown = getattr(tokenizer, "unk_token_id", None)
        tokens = [i for text in ids for i in text if i not in set(tokenizer.all_special_ids) - {unknown}]
        lost = sum(i == unknown for i in tokens) if unknown not in special else 0
        if tokens and 2 * lost > len(tokens):
            yield Cause(
                "The tokenizer does not know the words",
                f"{lost / len(tokens):.0%} of the tokens are {tokenizer.unk_token}, so that {len(ids):,} texts make "
                f"{distinct:,} different inputs",
                "Take the tokenizer that belongs to the model, and a model that reads the texts' language",
            )
        elif len(ids) >= 20 and distinct <= max(1, len(ids) // 50):
            yield Cause(
                "The inputs are all alike",
                f"{len(ids):,} training texts make {distinct:,} different inputs",
                "Look at data['train'][0]: is it the right column, and is the text still in it when it is cut?",
            )


def hidden_by_mask(run: Any) -> Iterator[Cause]:
    pad = run.tokenizer.pad_token_id
    for split in run.splits["train"].splits.values():
        if "attention_mask" not in split.column_names:
            continue
        some = split[:MOST]
        pairs = [
            (i, m) for ids, mask in zip(some["input_ids"], some["attention_mask"], strict=True)
            for i, m in zip(ids, mask, strict=True) if i != pad
        ]  # fmt: skip
        hidden = sum(m == 0 for _, m in pairs)
        if pairs and 2 * hidden > len(pairs):
            yield Cause(
                "The attention mask hides the texts",
                f"{hidden / len(pairs):.0%} of the tokens that are no padding have a mask of 0",
                "Give real tokens a 1 and padding a 0, or leave the column attention_mask out",
            )


def cut_away(run: Any) -> Iterator[Cause]:
    "Only where whole texts tell the labels, and what is left of them does not."
    train = run.splits["train"]
    for name, split in train.splits.items():
        task = train.tasks[name]
        if "text" not in split.column_names or not task.is_scored:
            continue
        rows, labels = targets(train, name)
        if len(rows) < LEAST:
            continue
        some, numbers = split[rows], isinstance(task, Regression)
        whole = run.tokenizer(some["text"], truncation=False, verbose=False)["input_ids"]
        pairs = list(zip(some["input_ids"], whole, strict=True))
        cut = sum(len(kept) < len(full) for kept, full in pairs)
        if 2 * cut < len(rows):
            continue
        left, full = word_probe(some["input_ids"], labels, numbers), word_probe(whole, labels, numbers)
        if left and full and full.sees_something and not left.sees_something:
            lengths = [int(np.median([len(pair[i]) for pair in pairs])) for i in (0, 1)]
            yield Cause(
                "What decides is cut away",
                f"{cut / len(rows):.0%} of the texts are cut, from {lengths[1]} tokens to {lengths[0]} (medians); a "
                f"count of words tells the labels of whole texts, {full}, and not of what is left, {left}",
                "Allow more tokens, tokenize(data, tokenizer, max_length), or put what matters first",
            )


def labels_unrelated(run: Any) -> Iterator[Cause]:
    train = run.splits["train"]
    for name, task in train.tasks.items():
        if not task.is_scored or _is_above_chance(run, name):
            continue
        (rows, labels), numbers = targets(train, name), isinstance(task, Regression)
        words = word_probe(train.splits[name][rows]["input_ids"], labels, numbers)
        if words is None or words.sees_something:
            continue
        features = feature_probe(run, name, rows[: MOST // 2], labels[: MOST // 2], numbers)
        if features is None or not features.sees_something:
            also = f", and one on the model's own features {features}" if features else ""
            yield Cause(
                "The labels have nothing to do with the texts, as far as can be seen",
                f"on {words.texts} texts that it has not seen, counting words reaches {words}{also}",
                "Read twenty rows: were texts and labels shuffled apart? If they fit, the task is hard, and needs more",
            )


def validation_stays(run: Any) -> Iterator[Cause]:
    "Where the loss falls, and what is learnt holds for the training texts alone."
    for name, task in run.tasks.items():
        labels, metrics = _validated(run, name)
        if not isinstance(task, Classification) or len(labels) < LEAST or _is_above_chance(run, name):
            continue
        accuracy, share = metrics[f"{name}/accuracy" if name else "accuracy"], _largest_share(labels)
        yield Cause(
            "The loss falls, and the validation does not follow",
            f"from {run.steps[0].loss:.3g} to {run.steps[-1].loss:.3g} in training; accuracy on {len(labels)} other "
            f"texts is {accuracy:.2f}, and {share:.2f} for whoever always says the most frequent class",
            "Look whether both splits were made and labelled alike; if so, the texts are learnt by heart: take more of "
            "them, or fewer epochs",
        )


def _is_above_chance(run: Any, name: str) -> bool:
    "By the last validation."
    task, prefix = run.tasks[name], f"{name}/" if name else ""
    labels, metrics = _validated(run, name)
    if isinstance(task, Regression):
        return metrics.get(f"{prefix}pearson", 0) > 0.3
    if not isinstance(task, Classification) or not len(labels):
        return metrics.get(f"{prefix}f1_micro", 0) > 0.6
    share = _largest_share(labels)
    return metrics[f"{prefix}accuracy"] > share + 2 * math.sqrt(share * (1 - share) / len(labels))


def _validated(run: Any, name: str) -> tuple[np.ndarray, dict[str, float]]:
    "Labels of the validation split, one a text, and the last metrics; empty where there are none."
    metrics: dict[str, float] = next((step.metrics for step in reversed(run.steps) if step.metrics), {})
    split = run.splits["validation"].splits.get(name) if metrics else None
    if split is None or not isinstance(run.tasks[name], Classification):
        return np.empty(0), metrics
    labels = Column("", run.tasks[name].column or "", split).numbers()
    return labels[labels >= 0], metrics


def _largest_share(labels: np.ndarray) -> float:
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
