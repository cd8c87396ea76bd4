"""Whether a language model reads from left to right."""

from typing import Any

import torch

ROUNDING = 1e-4  # of the largest logit; an encoder's logits change by a hundred times that


def sees_ahead(model: Any) -> bool:
    "Whether the last token of a text changes what the model says of those before it, as it does in an encoder."
    words = model.config.get_text_config().vocab_size
    *text, end, other_end = ((words // 2 + i) % words for i in range(7))
    ids = torch.tensor([[*text, end], [*text, other_end]], device=model.device)
    with torch.no_grad():
        one, other = model(input_ids=ids).logits[:, :-1].float()
    return bool((one - other).abs().max() > ROUNDING * one.abs().max())
