"""What the frozen first layers of a model put out: computed once for each text, and kept."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from finetune_lessons.lab.training.batches import Batches
from finetune_lessons.lab.training.replacing import replaced
from finetune_lessons.lab.training.trunk import INPUTS, Trunk, state

BATCH_SIZE = 32  # of its own: how the run makes its batches does not change what is kept
CHUNK = 64 * 2**20  # bytes
Place = tuple[int, int, int]  # number of the chunk, first token, tokens


class ActivationCache:
    """What a model's frozen first layers make of each text, for `Run(..., cache=ActivationCache())`; and the frozen
    start of the first layer that is trained, where that is most of it, as before an adapter.

    Before the first step all texts of a split pass through those layers once; from then on the model starts behind
    them. They work without dropout. Texts are told apart by their tokens, layers by their weights, settings and
    precision: whatever is new is computed anew, so that runs of several seeds or methods can share one cache.
    A call that asks the model for more than its last output, or a hook on a frozen layer, gets the whole model.
    """

    def __init__(
        self,
        memory_mb: float = 1024,  # beyond it, temporary files that are mapped into memory
        folder: str | Path | None = None,  # of those files; None: the system's
    ):
        if not memory_mb >= 0:
            raise ValueError(f"memory_mb must be at least 0; given: {memory_mb!r}")
        self._tensors = _Tensors(int(min(memory_mb * 2**20, 2**62)), folder)
        self._places: dict[str, dict[bytes, Place]] = {}  # trunk -> text -> where its activations are
        self._filled: WeakKeyDictionary[Batches, set[str]] = WeakKeyDictionary()
        self._latest: tuple[Any, Trunk] | None = None

    @property
    def megabytes(self) -> float:
        "How much is kept, in memory and on disk."
        return self._tensors.size / 2**20

    def check(self, model: nn.Module, batches: Batches) -> None:
        "Raises ValueError for a model without a frozen first layer; warns of texts that are never twice the same."
        if not self._trunk(model).layers:
            raise ValueError(
                "a cache keeps what frozen first layers put out, but the first layer of this model, or something "
                "before it, is trained: freeze layers, or leave cache out"
            )
        if batches.change:
            warnings.warn(
                "the data have a transform: where it changes the tokens, as fresh masks do, nothing that the cache "
                "keeps fits, and all is computed anew at each step",
                stacklevel=4,
            )

    @contextmanager
    def serving(self, model: nn.Module, batches: Batches) -> Iterator[None]:
        "Inside, the model starts behind its frozen first layers, for all texts of these batches."
        trunk = self._trunk(model)
        if not trunk.layers:
            yield
            return
        if trunk.key not in self._filled.setdefault(batches, set()):
            self._fill(trunk, batches)
            self._filled[batches].add(trunk.key)
        whole, places = trunk.body.forward, self._places[trunk.key]

        def forward(*args: Any, **kwargs: Any) -> Any:
            inputs = trunk.plain_inputs(args, kwargs)
            texts = _texts(inputs) if inputs else []
            if not inputs or not all(text in places for text in texts):
                return whole(*args, **kwargs)
            ids = inputs["input_ids"]
            hidden = self._tensors.padded([places[text] for text in texts], ids.shape[1]).to(ids.device)
            with trunk.giving(hidden):
                return whole(*args, **kwargs)

        with trunk.evaluating(), replaced({trunk.body: forward}):
            yield

    def _trunk(self, model: nn.Module) -> Trunk:
        now = state(model)
        if self._latest is None or self._latest[0] != now:
            self._latest = (now, Trunk(model))
        return self._latest[1]

    def _fill(self, trunk: Trunk, batches: Batches) -> None:
        places = self._places.setdefault(trunk.key, {})
        device = next(trunk.body.parameters()).device
        for rows in batches.in_order(BATCH_SIZE):
            batch = batches.load(rows, device)
            inputs = {name: batch[name] for name in trunk.inputs if name in batch}
            missing = {text: i for i, text in enumerate(_texts(inputs)) if text not in places}
            if missing:
                hidden, lengths = trunk.output(inputs), _lengths(inputs)
                for text, i in missing.items():
                    places[text] = self._tensors.add(hidden[i, : lengths[i]].cpu())


def _lengths(inputs: dict[str, Tensor]) -> list[int]:
    "Tokens of each text, without the padding behind it."
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return ((mask != 0) * places).amax(1).tolist()


def _texts(inputs: dict[str, Tensor]) -> list[bytes]:
    "What tells the texts apart: a hash of their tokens, masks and types, without the padding behind them."
    columns = [inputs[name].long() if name in inputs else torch.full_like(inputs["input_ids"], -1) for name in INPUTS]
    rows = torch.stack(columns, 2).cpu().numpy()
    cut = [row[:length] for row, length in zip(rows, _lengths(inputs), strict=True)]
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in cut]


class _Tensors:
    "Rows of numbers, in chunks: in memory, and beyond a limit in files that are mapped into it."

    def __init__(self, limit: int, folder: str | Path | None):
        self._limit, self._parent = limit, folder
        self._folder: TemporaryDirectory | None = None
        self._chunks: list[Tensor] = []
        self._open: dict[tuple[int, torch.dtype], tuple[int, int]] = {}  # (width, dtype) -> chunk, rows in it
        self.size = 0  # bytes

    def add(self, rows: Tensor) -> Place:
        n, width = rows.shape
        number, used = self._open.get((width, rows.dtype), (-1, 0))
        if number < 0 or used + n > len(self._chunks[number]):
            number, used = self._new_chunk(n, width, rows.dtype), 0
        self._chunks[number][used : used + n] = rows
        self._open[width, rows.dtype] = (number, used + n)
        return number, used, n

    def padded(self, places: list[Place], tokens: int) -> Tensor:
        "(places, tokens, width), with zeros behind each."
        first = self._chunks[places[0][0]]
        out = first.new_zeros(len(places), tokens, first.shape[1])
        for row, (number, start, n) in zip(out, places, strict=True):
            row[:n] = self._chunks[number][start : start + n]
        return out

    def _new_chunk(self, n: int, width: int, dtype: torch.dtype) -> int:
        numbers = max(n, CHUNK // (width * dtype.itemsize)) * width
        in_memory = self.size + numbers * dtype.itemsize <= self._limit
        chunk = torch.empty(numbers, dtype=dtype) if in_memory else self._mapped(numbers, dtype)
        self._chunks.append(chunk.view(-1, width))
        self.size += numbers * dtype.itemsize
        return len(self._chunks) - 1

    def _mapped(self, numbers: int, dtype: torch.dtype) -> Tensor:
        self._folder = self._folder or TemporaryDirectory(prefix="activations-", dir=self._parent)
        path = Path(self._folder.name) / str(len(self._chunks))
        path.write_bytes(bytes(numbers * dtype.itemsize))  # all of it: a full disk is an OSError now, not a crash later
        return torch.from_file(str(path), shared=True, size=numbers, dtype=dtype)


__all__ = ["ActivationCache"]
