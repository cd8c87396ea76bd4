"""What a classifier or a regression says of texts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from finetune_lessons.lab.models.heads import problem_type_of
from finetune_lessons.lab.models.inputs import accepted, as_texts, check_given, unwrapped
from finetune_lessons.lab.models.modes import mode
from finetune_lessons.lab.models.reading import text_batches

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COLUMNS = ("text", "prediction", "confidence")


def predict(
    model: "PreTrainedModel",  # with a classification head
    tokenizer: "PreTrainedTokenizerBase",
    texts: str | Iterable[str],
    batch_size: int = 32,  # changes no number
) -> "pd.DataFrame":
    """A row a text: text, prediction (the name of its class), confidence, and the probability of each class by name.

    Of several classes a text, prediction is the list of those over one half; of a regression it is the number, or the
    list of numbers. Texts longer than the model takes are cut, and their number is printed. Raises ValueError for what
    is no text, and for a model without such a head.
    """
    import pandas as pd

    check_given(model, tokenizer)
    model, listed = unwrapped(model), as_texts(texts, "texts")
    if getattr(model, "can_generate", lambda: True)():
        raise ValueError(_no_classifier(model))
    logits = _logits(model, tokenizer, listed, batch_size)
    table = pd.DataFrame({"text": listed})
    kind = problem_type_of(model.config)
    if kind == "regression":
        return table.assign(prediction=logits[:, 0].numpy() if logits.shape[1] == 1 else logits.tolist())
    names = _class_names(model.config, logits.shape[1])
    if kind == "multi_label_classification":
        probabilities = logits.sigmoid()
        predicted = [[name for name, p in zip(names, row, strict=True) if p > 0.5] for row in probabilities.tolist()]
        table["prediction"] = pd.Series(predicted, dtype=object)
    else:
        probabilities = logits.softmax(-1)
        table["prediction"] = [names[number] for number in probabilities.argmax(-1)]
        table["confidence"] = probabilities.max(-1).values.numpy()
    return pd.concat([table, pd.DataFrame(probabilities.numpy(), columns=names)], axis=1)


def _class_names(config: Any, outputs: int) -> list[str]:
    names = [str(config.id2label.get(number, number)) for number in range(outputs)]
    if len({*names, *COLUMNS}) < len(names) + len(COLUMNS):
        raise ValueError(f"each class needs a name of its own, and none of {', '.join(COLUMNS)}; there are: {names}")
    return names


def _logits(model: Any, tokenizer: Any, texts: list[str], batch_size: int) -> torch.Tensor:
    "(texts, outputs), in the order of the texts."
    found = torch.zeros(len(texts), model.config.num_labels)
    with torch.no_grad(), mode(model, training=False):
        for rows, batch in text_batches(model, tokenizer, texts, batch_size):
            logits = getattr(model(**accepted(model, batch)), "logits", None)
            if logits is None or logits.shape != (len(rows), found.shape[1]):
                raise ValueError(_no_classifier(model))
            found[rows] = logits.float().cpu()
    return found


def _no_classifier(model: Any) -> str:
    return f"predict is for a model that classifies texts, as load_encoder gives; given: {type(model).__name__}"
