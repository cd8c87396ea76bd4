"""Whether a language model reads from left to right."""

from typing import Any

import torch

from finetune_lessons.lab.models.heads import is_causal
from finetune_lessons.lab.models.inputs import device_of, unwrapped

ROUNDING = 1e-4  # of the largest logit; an encoder's logits change by a hundred times that


def sees_ahead(model: Any) -> bool:
    "Whether the last token of a text changes what the model says of those before it, as it does in an encoder."
    words = model.config.get_text_config().vocab_size
    *text, end, other_end = ((words // 2 + i) % words for i in range(7))
    ids = torch.tensor([[*text, end], [*text, other_end]], device=device_of(model))
    with torch.no_grad():
        one, other = model(input_ids=ids).logits[:, :-1].float()
    return bool((one - other).abs().max() > ROUNDING * one.abs().max())


def check_decoder(model: Any) -> None:
    "Raises ValueError for a model of transformers that does not name each token after those before it."
    model = unwrapped(model)
    if not hasattr(model, "can_generate") or is_causal(model):
        return
    why = "shifts its labels itself" if model.can_generate() else "sees the tokens that it is to name"
    raise ValueError(
        f"language_model_loss is for decoders, as load_causal_lm gives, and {type(model).__name__} {why}: train it by "
        "its own loss, lambda model, batch: model(**model_inputs(batch), labels=batch['labels']).loss"
    )
