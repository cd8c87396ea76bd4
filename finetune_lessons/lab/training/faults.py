"""A step that cannot be taken: what is said of it."""

import math

from finetune_lessons.lab.training.batches import Batch
from finetune_lessons.lab.training.sampling import JointRows, Rows
from finetune_lessons.lab.training.tasks import labelled


class NonFiniteLoss(ValueError):
    "The loss or its gradient is NaN or infinite. The model is as it was before the step."


def nothing_to_learn(index: int, rows: Rows | JointRows) -> NonFiniteLoss:
    return NonFiniteLoss(f"nothing to learn from in {_where(index, rows)}: every label is -100 or missing")


def not_finite(
    index: int,  # of the step
    rows: Rows | JointRows,
    loss: float,
    grad_norm: float,
    lr: float,
    batches: list[Batch],
) -> NonFiniteLoss:
    gradient = f", and its gradient {grad_norm}" if math.isfinite(loss) else ""
    why = f"Often the learning rate is too high (lr={lr:g}: try a tenth, in a new run)"
    if missing := sum(map(_missing_numbers, batches)):
        why = f"{missing} of its labels are missing (NaN): the loss must leave them out, as batch['labelled'] says"
    return NonFiniteLoss(
        f"the loss is {loss:.3g}{gradient} at {_where(index, rows)}. The model is as it was before this step. {why}"
    )


def _missing_numbers(batch: Batch) -> int:
    if "tasks" in batch:
        return sum(map(_missing_numbers, batch["tasks"].values()))
    numbers = "labelled" in batch and batch["labels"].is_floating_point()
    return int((~labelled(batch)).sum()) if numbers else 0


def _where(index: int, rows: Rows | JointRows) -> str:
    shown = ", ".join(map(str, rows.index[:8])) + (", ..." if len(rows.index) > 8 else "")
    task = f" of task {rows.task!r}" if rows.task else ""
    return f"step {index}, a batch of the train rows {shown}{task}"
