"""The file that multilingual-e5-small is packaged in: its numbers, its pieces of words, its weights."""

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.data.archives import AssetError

if TYPE_CHECKING:
    import numpy as np

MAGIC, VERSION = b"E5S1", 1
BLOCK = 32  # weights that share a scale
_SIZES = ("hidden", "layers", "heads", "ffn", "vocabulary", "positions", "types")
_SPECIAL = ("bos", "eos", "pad", "unk")
_BYTES_OF = {0: lambda count: 4 * count, 1: lambda count: count // BLOCK * 18}  # float32; Q4_0, 18 bytes a block
_Q4_0 = 1


@dataclass(frozen=True)
class E5File:
    """What the file says; of the weights, only where they are."""

    content: bytes
    sizes: dict[str, int]  # hidden, layers, heads, ffn, vocabulary, positions, types
    epsilon: float  # of the layer norms
    pieces: list[tuple[str, float]]  # with their logarithmic probabilities, in the order of their numbers
    special: dict[str, int]  # the numbers of bos, eos, pad and unk
    normalised: dict[str, str]  # single characters, and what is read in their place
    places: dict[str, tuple[int, int, int]]  # of a tensor: its type, how many numbers it has, where they start

    def tensor(self, name: str, shape: tuple[int, ...]) -> "np.ndarray":
        """The numbers of a tensor as float32; raises `AssetError` unless they are as many as the shape takes."""
        import numpy as np

        kind, count, start = self.places[name]
        if count != math.prod(shape):
            raise _unlike(f"{name} has {count:,} numbers instead of {math.prod(shape):,}")
        found = np.frombuffer(self.content, np.uint8, _BYTES_OF[kind](count), start)
        if kind != _Q4_0:
            return found.view("<f4").reshape(shape)
        from gguf import GGMLQuantizationType, dequantize

        return dequantize(found.reshape(-1, shape[-1] // BLOCK * 18), GGMLQuantizationType.Q4_0).reshape(shape)


def read_e5(file: Path) -> E5File:
    """Read all but the weights; raises `AssetError` for a file that is cut, or of another layout."""
    content = file.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise _unlike(f"it starts with {content[: len(MAGIC)]!r} instead of {MAGIC!r}")
    try:
        return _read(_Reader(content, len(MAGIC)))
    except (ValueError, OverflowError) as error:  # no UTF-8, or no character
        raise _unlike(str(error)) from error


def _read(reader: "_Reader") -> E5File:
    if (version := reader.number("I")) != VERSION:
        raise _unlike(f"it is of version {version}, known is {VERSION}")
    sizes = dict(zip(_SIZES, reader.numbers(f"{len(_SIZES)}I"), strict=True))
    epsilon = reader.number("f")
    if (block := reader.number("I")) != BLOCK:
        raise _unlike(f"its blocks are of {block} weights instead of {BLOCK}")
    pieces, special = _pieces(reader)
    return E5File(reader.content, sizes, epsilon, pieces, special, _normalised(reader), _places(reader))


def _pieces(reader: "_Reader") -> tuple[list[tuple[str, float]], dict[str, int]]:
    count, *special = reader.numbers("5I")
    size = reader.number("Q")
    starts, scores = reader.numbers(f"{count + 1}I"), reader.numbers(f"{count}f")
    text = reader.take(size)
    words = [text[start:end].decode() for start, end in pairwise(starts)]
    if starts[0] != 0 or starts[-1] != size or len(set(words)) != count:
        raise _unlike("its pieces of words do not fill their text, or one is there twice")
    return list(zip(words, scores, strict=True)), dict(zip(_SPECIAL, special, strict=True))


def _normalised(reader: "_Reader") -> dict[str, str]:
    count, size = reader.numbers("II")
    end, found = reader.position + size, {}
    for _ in range(count):
        character, length = reader.numbers("IB")
        found[chr(character)] = "".join(map(chr, reader.numbers(f"{length}I")))
    if reader.position != end:
        raise _unlike("its table of characters is not as long as it says")
    return found


def _places(reader: "_Reader") -> dict[str, tuple[int, int, int]]:
    places = {}
    for _ in range(reader.number("I")):
        name = reader.take(reader.number("H")).decode(errors="replace")
        kind, count, start, size = reader.numbers("BIQQ")
        if kind not in _BYTES_OF or size != _BYTES_OF[kind](count) or (kind == _Q4_0 and count % BLOCK):
            raise _unlike(f"{name} is said to have {count:,} numbers of type {kind} in {size:,} bytes")
        if start + size > len(reader.content):
            raise _cut(start + size, reader.content)
        places[name] = kind, count, start
    return places


@dataclass
class _Reader:
    """Little-endian numbers, one after the other."""

    content: bytes
    position: int

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self.content):
            raise _cut(self.position, self.content)
        return self.content[start : self.position]

    def numbers(self, layout: str) -> tuple:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def number(self, layout: str) -> Any:
        return self.numbers(layout)[0]


def _cut(needed: int, content: bytes) -> AssetError:
    return _unlike(f"it has {len(content):,} bytes and needs {needed:,} at least")


def _unlike(what: str) -> AssetError:
    return AssetError(f"the file of e5 is damaged or of another layout: {what}; it was not used")
