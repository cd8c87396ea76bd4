"""This process among those that train one model together, as accelerate has started them."""

import atexit
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
M = TypeVar("M", bound=torch.nn.Module)


class Processes:
    "Alone it hands everything back as it is."

    def __init__(self) -> None:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # copied: a Trainer resets it
        self.device, self.rank, self.count = state.device, state.process_index, state.num_processes
        self.is_main = state.is_main_process
        if self.count > 1:
            leave_the_group_at_exit()

    def own(self, pieces: list[T]) -> list[T]:
        "This process's part of a list that has as many items for each."
        each = len(pieces) // self.count
        return pieces[self.rank * each : (self.rank + 1) * each]

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        from accelerate.utils import reduce

        return reduce(values.to(self.device), "sum")

    def gathered(self, value: T) -> list[T]:
        "What each process has for `value`."
        from accelerate.utils import gather_object

        return gather_object([value])

    def placed(self, model: M) -> M:
        """The model on the device; what is there already stays untouched, as quantised weights have to.

        Raises ValueError for a model that accelerate has spread over devices, or put away until it is needed.
        """
        tensors = [*model.parameters(), *model.buffers()]
        if any(t.is_meta for t in tensors) or len(set(getattr(model, "hf_device_map", {}).values())) > 1:
            raise ValueError(
                f"{type(model).__name__} is not in one place ({_places(tensors)}), as device_map= leaves it: load it "
                "without device_map; in 4 or 8 bits, or with add_lora, it takes less"
            )
        return model if all(t.device == self.device for t in tensors) else model.to(self.device)

    def share_parameters(self, module: torch.nn.Module) -> None:
        "Have all processes begin with the parameters of the first."
        from accelerate.utils import broadcast

        if self.count > 1:
            broadcast([parameter.data for parameter in module.parameters()])

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        "Where no process has a gradient it stays None: optimizers leave such parameters alone."
        if self.count == 1:
            return
        users = self.summed(torch.tensor([int(p.grad is not None) for p in parameters])).tolist()
        used = [p for p, n in zip(parameters, users, strict=True) if n]
        zero_if_none = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
        summed = self.summed(torch.cat([g.flatten() for g in zero_if_none]))
        for p, gradient in zip(used, summed.split([p.numel() for p in used]), strict=True):
            p.grad = gradient.view_as(p)


@cache
def leave_the_group_at_exit() -> None:
    "A process that ends inside its group may be aborted by gloo's threads, and with it a job that went well."
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


def _places(tensors: list[torch.Tensor]) -> str:
    return ", ".join(sorted({"disk or memory" if t.is_meta else str(t.device) for t in tensors}))
