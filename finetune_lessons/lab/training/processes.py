"""This process among those that train one model together, as accelerate has started them."""

import atexit
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")
M = TypeVar("M", bound=torch.nn.Module)


SHARDS = (
    "each process holds the whole model. Leave it out, in the file of accelerate config too: a large model trains with "
    "add_lora on a base in 4 or 8 bits, and to_peft hands LoRA on to libraries that shard"
)
NOT_FOLLOWED = {  # variable that accelerate launch sets -> values that change nothing, its option, what to do instead
    "ACCELERATE_USE_FSDP": ({"false", "0"}, "--use_fsdp", SHARDS),
    "ACCELERATE_USE_DEEPSPEED": ({"false", "0"}, "--use_deepspeed", SHARDS),
    "ACCELERATE_USE_MEGATRON_LM": ({"false", "0"}, "--use_megatron_lm", SHARDS),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ({"false", "0"}, "--use_parallelism_config", SHARDS),
    "ACCELERATE_MIXED_PRECISION": (
        {"no"}, "--mixed_precision", "launch with no, and say precision='bf16' (--precision bf16), or 'fp16'",
    ),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        {"1"}, "--gradient_accumulation_steps", "launch with 1, and say grad_accum= (--grad-accum)",
    ),
    "ACCELERATE_DYNAMO_BACKEND": (
        {"no"}, "--dynamo_backend", "launch with no, and say compile=True (--compile)",
    ),
}  # fmt: skip


class Processes:
    """Alone it hands everything back as it is.

    Raises ValueError for a setting of `accelerate launch` that a run does not follow.
    """

    def __init__(self) -> None:
        check_launch(os.environ)
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
        state = PartialState(cpu=cpu, **store_after_restart())  # copied: a Trainer resets it
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

        return reduce(values.to(self.device), "sum") if self.count > 1 else values

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


def check_launch(environment: Mapping[str, str]) -> None:
    "A Trainer may leave some of the variables behind in a process that nobody launched."
    if not {"LOCAL_RANK", "ACCELERATE_DYNAMO_USE_FULLGRAPH"} & environment.keys():
        return
    for variable, (harmless, option, instead) in NOT_FOLLOWED.items():
        value = environment.get(variable, "").lower()
        if value and value not in harmless:
            raise ValueError(f"a Run does not follow accelerate's {option} ({variable}={value}): {instead}")


def store_after_restart() -> dict[str, Any]:
    """Where the processes that torchrun has started again find each other, for `init_process_group`.

    Its store may still hold the addresses of those that ended, under the names that the new ones would ask for.
    """
    environment = os.environ
    restarts = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    of_launcher = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if restarts == "0" or not of_launcher or torch.distributed.is_initialized():
        return {}
    store = torch.distributed.TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)
    place = {"rank": int(environment["RANK"]), "world_size": int(environment["WORLD_SIZE"])}
    return {"store": torch.distributed.PrefixStore(f"after restart {restarts}", store), **place}


@cache
def leave_the_group_at_exit() -> None:
    "A process that ends inside its group may be aborted by gloo's threads, and with it a job that went well."
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


def _places(tensors: list[torch.Tensor]) -> str:
    return ", ".join(sorted({"disk or memory" if t.is_meta else str(t.device) for t in tensors}))
