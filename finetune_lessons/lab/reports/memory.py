"""How much memory a block of code took at its highest."""

import ctypes
import gc
import sys
import threading
from pathlib import Path

STATUS, CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MB = 2**20


class PeakMemory:
    """`with PeakMemory() as memory:` measures the block; then `memory.megabytes` is its peak above the start.

    Of the GPU where there is one, else of the whole process: from the kernel's own high-water mark on Linux,
    elsewhere from a sample every 10 ms. What earlier code freed is given back to the system first, so that
    the block cannot hide in it.
    """

    def __enter__(self) -> "PeakMemory":
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
            return self
        _give_back_freed_memory()
        self._start = _resident()
        self._sampler = None if _reset_high_water_mark() else _Sampler()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = self._sampler.stop() if self._sampler else _from_status("VmHWM")
        self.megabytes = (peak - self._start) / MB


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _reset_high_water_mark() -> bool:
    try:
        CLEAR_PEAK.write_text("5")
    except OSError:
        return False
    return True


def _from_status(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _give_back_freed_memory() -> None:
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library, which does not keep as much
            return


class _Sampler:
    def __init__(self) -> None:
        self._peak, self._stop = _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._peak = max(self._peak, _resident())

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return max(self._peak, _resident())
