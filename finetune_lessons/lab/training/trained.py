"""The part of a model that a run has changed, by names that do not tell how the model is wrapped."""

import hashlib

from torch import Tensor, nn

from finetune_lessons.lab.models.inputs import plain_name

METHOD = " of the method "


def parameters_by_name(learner: nn.Module) -> dict[str, nn.Parameter]:
    return {plain_name(name): p for name, p in learner.named_parameters()}


def trained_tensors(learner: nn.Module, trained: set[str]) -> dict[str, Tensor]:
    "The parameters of these names, and all buffers that a model is saved with."
    persistent = learner.state_dict()
    buffers = {plain_name(name): b for name, b in learner.named_buffers() if name in persistent}
    return {name: p for name, p in parameters_by_name(learner).items() if name in trained} | buffers


def detached(tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    "As a file takes them."
    return {f"{prefix}{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}


def fingerprints(learner: nn.Module, trained: set[str]) -> dict[str, str]:
    "Of each parameter that is not trained: shape and 64 of its numbers, hashed; and of the methods their arguments."
    frozen = {name: _fingerprint(p) for name, p in parameters_by_name(learner).items() if name not in trained}
    arguments = [recipe["arguments"] for module in learner.modules() if (recipe := vars(module).get("recipe"))]
    return frozen | {
        f"{name}{METHOD}{of['name']}": repr(value)
        for of in arguments
        for name, value in of.items()
        if name != "seed"  # of what has been trained since
    }


def _fingerprint(parameter: Tensor) -> str:
    numbers = parameter.detach().flatten()
    sample = numbers[:: max(1, len(numbers) // 64)].float().cpu().numpy().tobytes()
    return hashlib.sha256(str(tuple(parameter.shape)).encode() + sample).hexdigest()[:16]
