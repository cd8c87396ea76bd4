"""How much memory a block of code took at its highest."""

import ctypes
import gc
import sys
import threading
from pathlib import Path
from typing import Any

MAPS = Path("/proc/self/maps")
MB = 2**20
PAUSE = 0.002  # seconds between two samples


class PeakMemory:
    """`with PeakMemory() as memory:` measures the block; then `memory.megabytes` is its peak above the start.

    Of the GPU where there is one. Else of the process: with glibc, what is allocated and not freed, and weights that
    are mapped from a file; elsewhere what it holds of the memory: with what it has freed and not given back, and blind
    to the use of what was freed before. What an earlier block left behind does not count. Sampled every 2 ms.
    """

    def __enter__(self) -> "PeakMemory":
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
            return self
        self._mapped, self._sampler = _mapped_weights(), _Sampler()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() - self._start
        else:
            peak = self._sampler.stop() + max(0, _mapped_weights() - self._mapped)
        self.megabytes = peak / MB


class _Info(ctypes.Structure):
    "What glibc's mallinfo2 tells."

    _fields_ = [(name, ctypes.c_size_t) for name in "arena chunks small maps mapped _a _b used free top".split()]


def _mallinfo() -> Any:
    "glibc's function, or None where the C library is another or an older one."
    try:
        function = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return None
    function.restype = _Info
    return function


_info = _mallinfo()


def _held() -> int:
    if _info is None:
        return _resident()
    info, arrow = _info(), sys.modules.get("pyarrow")  # which has an allocator of its own
    return info.used + info.mapped + (arrow.total_allocated_bytes() if arrow else 0)


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _mapped_weights() -> int:
    "Bytes of the files of weights that are mapped: of those that glibc has allocated they are no part."
    if _info is None or not MAPS.exists():
        return 0
    places = [line.split()[0].split("-") for line in MAPS.read_text().splitlines() if line.endswith(".safetensors")]
    return sum(int(end, 16) - int(start, 16) for start, end in places)


class _Sampler:
    def __init__(self) -> None:
        self._start = self._peak = _held()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(PAUSE):
            self._peak = max(self._peak, _held())

    def stop(self) -> int:
        "The highest above the start."
        self._stop.set()
        self._thread.join()
        return max(self._peak, _held()) - self._start
