"""What of a model is trained."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import pandas as pd


def trainable_parameters(model: nn.Module) -> "pd.DataFrame":
    "One row for each parameter that is trained: its name, shape, count, and share of all the model's parameters."
    import pandas as pd

    total = sum(p.numel() for p in model.parameters())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = [(name, tuple(p.shape), p.numel(), p.numel() / total) for name, p in trained.items()]
    return pd.DataFrame(rows, columns=["name", "shape", "parameters", "share"]).set_index("name")
