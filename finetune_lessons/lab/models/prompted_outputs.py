"""What comes out of a model that read n tokens before a text: the text's own part of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from finetune_lessons.lab.models.prompted_inputs import AS_TUPLE

# outputs with an axis for tokens, and those with two, of queries and of keys
ROWS = ("prediction_logits", "start_logits", "end_logits", "last_hidden_state", "hidden_states")
SQUARES = ("attentions", "global_attentions")


@dataclass(frozen=True)
class Reading:
    "One call of a model that reads n tokens before those of the text, or read them into its cache before."

    n: int
    own: Tensor  # which of the tokens that it reads are the text's, (texts, tokens)
    started: bool = False
    cached: int | None = None  # tokens in the cache after the call; None: there is no cache
    padded: bool = False  # on the left

    @property
    def tokens(self) -> int:
        return self.own.shape[1] - (0 if self.started else self.n)

    def without_front(self, module: Any, output: Any, kwargs: Mapping[str, Any], kept: Sequence[str] = ()) -> Any:
        """The outputs of the text alone, but for those that are kept, in the form that was asked for.

        Raises ValueError for one that has places which are no token's.
        """
        cut = dict.fromkeys(ROWS, self._rows) | dict.fromkeys(SQUARES, self._square)
        cut |= {"logits": self._logits, "router_logits": self._flat}
        if isinstance(kwargs.get("logits_to_keep"), Tensor) or not has_token_logits(module, output.get("logits")):
            kept = (*kept, "logits")
        for name in [name for name in output if name in cut and name not in kept]:
            try:
                output[name] = _each(output[name], cut[name])
            except ValueError as error:
                raise ValueError(f"{name} of {type(module).__name__} has {error}") from None
        return as_asked(output, kwargs)

    def _rows(self, x: Tensor) -> Tensor:
        if self.started:
            return x
        if x.shape[1] != self.own.shape[1]:
            raise ValueError(f"{x.shape[1]} places for {self.n} virtual and {self.tokens} other tokens")
        return _only(self.own, x) if self.padded else x[:, self.n :]

    def _logits(self, x: Tensor) -> Tensor:
        "Which may be those of the last tokens alone."
        return x[:, -self.tokens :] if x.shape[1] < self.own.shape[1] else self._rows(x)

    def _flat(self, x: Tensor) -> Tensor:
        "Of all texts one after the other."
        return x if self.started else x[self.own.flatten()]

    def _square(self, x: Tensor) -> Tensor:
        "(texts, heads, queries, keys); where a window moved on, some of the n keys are gone."
        if x.ndim == 3:  # RWKV's
            return self._rows(x)
        if self.padded:
            raise ValueError("other keys for each text where they are padded on the left; pad them on the right")
        whole = self.own.shape[1] if self.cached is None else self.cached
        gone = max(0, whole - x.shape[-1])  # behind a window
        if self.cached is None and x.shape[-1] != whole:  # a window around each token
            gone = self.n
        return x[:, :, -self.tokens :, max(0, self.n - gone) :]


def has_token_logits(module: nn.Module, logits: Any) -> bool:
    "Whether there is a logit, or several, for each token."
    of_one = ("ForPreTraining", "ForQuestionAnswering")  # ELECTRA's, TAPAS'
    return logits is not None and (logits.ndim > 2 or type(module).__name__.endswith(of_one))


def without_front_of_encoder(output: Any, own: Tensor) -> None:
    "Takes what is not the text's own out of the outputs of a model with a decoder, (texts, tokens of the encoder)."
    if output.get("encoder_last_hidden_state") is not None:
        output["encoder_last_hidden_state"] = _only(own, output["encoder_last_hidden_state"])
    if output.get("cross_attentions") is not None:
        keys = output["cross_attentions"]
        output["cross_attentions"] = _each(keys, lambda x: _only(own, x.movedim(-1, 1)).movedim(1, -1))


def _only(own: Tensor, x: Tensor) -> Tensor:
    return x[own].unflatten(0, (len(own), -1))


def as_asked(output: Any, kwargs: Mapping[str, Any]) -> Any:
    return output.to_tuple() if kwargs.get("return_dict") == AS_TUPLE else output


def _each(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, (tuple, list)):
        return tuple(_each(part, change) for part in x)
    return x if x is None else change(x)
