"""Names in files that do not tell what lies around a module."""

from typing import Any

from torch import Tensor, nn


class PlainNames(nn.Module):
    "A module around `base`, whose weights keep their names in a `state_dict`; its own come under `name`."

    name: str
    base: nn.Module

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        found = super().state_dict(*args, prefix=prefix, **kwargs)
        for key in [key for key in found if key.startswith(prefix)]:
            inside, own = key.removeprefix(prefix), f"{self.name}."
            if inside.startswith("base."):
                found[prefix + inside.removeprefix("base.")] = found.pop(key)
            elif not inside.startswith(own):
                found[prefix + own + inside] = found.pop(key)
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        own = f"{prefix}{self.name}."
        for key in [key for key in state_dict if key.startswith(prefix)]:
            outside = key.startswith(own)
            renamed = prefix + key.removeprefix(own) if outside else f"{prefix}base.{key.removeprefix(prefix)}"
            state_dict[renamed] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)
