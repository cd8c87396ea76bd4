"""What a run reports of each step."""

from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class Step:
    "What happened in one optimizer step."

    index: int  # number of the step, from 0
    epoch: int  # from 0
    loss: float  # mean over the step's examples (or tokens), before the update
    parts: dict[str, float]  # the loss's parts, where it names some
    lr: float  # of the first parameter group
    grad_norm: float  # over all trained parameters, before clipping
    tokens: int  # without padding
    seconds: float  # without evaluation
    metrics: dict[str, float] = field(default_factory=dict)  # of the validation split, at the end of an epoch

    def row(self) -> dict[str, float]:
        "Its numbers by name, flat: the fields, the loss's parts, and the metrics as `validation/...`."
        return {name: getattr(self, name) for name in NUMBERS} | self.parts | prefixed("validation", self.metrics)


NUMBERS = [f.name for f in fields(Step) if f.name not in ("parts", "metrics")]


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}" if prefix else name: value for name, value in metrics.items()}
