"""What a model puts out, as far as it says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from finetune_lessons.lab.models.inputs import unwrapped


@dataclass(frozen=True)
class Head:
    kind: str = "unknown"  # "text": logits (texts, outputs); "tokens": a language model; "token classes"; or "unknown"
    outputs: int | None = None  # classes or numbers of a text, words of the vocabulary; None: unknown
    causal: bool = False  # whether a token is named after those before it
    problem_type: str | None = None  # what the configuration says that the outputs are, if it does
    classes: tuple[str, ...] = ()  # the names that the configuration gives them, if it does


def head_of(
    model: Any,
    task: str = "",  # of several
) -> Head:
    model = unwrapped(model)
    outputs, config = getattr(model, "num_labels", None), cast(Any, getattr(model, "config", None))
    if isinstance(outputs, Mapping):
        return Head("text", outputs.get(task))
    name = type(model).__name__
    if name.endswith("ForTokenClassification"):
        return Head("token classes", config.num_labels)
    if name.endswith("ForSequenceClassification"):
        return Head("text", config.num_labels, False, config.problem_type, names_of(config))
    words = getattr(model, "get_output_embeddings", lambda: None)()
    if words is not None:
        return Head("tokens", len(words.weight), is_causal(model))
    return Head("text", outputs) if isinstance(outputs, int) and "QuestionAnswering" not in name else Head()


def is_causal(model: Any) -> bool:
    return hasattr(model, "can_generate") and model.can_generate() and not model.config.is_encoder_decoder


def problem_type_of(config: Any) -> str:
    "What the outputs of a classifier are, in the words of transformers' configurations."
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")


def names_of(config: Any) -> tuple[str, ...]:
    "The names of the classes, if somebody has given them some."
    names = [str(name) for _, name in sorted(config.id2label.items())]
    unnamed = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return () if unnamed else tuple(names)
