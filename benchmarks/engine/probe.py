"""The machine's own limits, measured: what its threads read from memory, and what its arithmetic does at most.

`Probe.read` runs before every single measurement (0.2 s): the memory of a shared machine is never twice the same.
Both need a C++ compiler, as building the peers does; without one, NumPy reads the memory (slower, and said so) and
there are no arithmetic peaks.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PROBE_BYTES = 512 << 20
PROBE_S = 0.2
PEAK_S = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Operations per second of all threads together (a multiply-add is two). None: no such instruction, no compiler."""

    i8: float | None
    bf16: float | None
    f32: float | None

    def best(self, *, weight_bits: int) -> float | None:
        """The fastest arithmetic that weights of this width can be multiplied with."""
        if weight_bits == 16:
            return self.bf16 or self.f32
        return self.i8 or self.f32


class Probe:
    """Keeps 512 MiB, far more than any cache, for as long as it lives."""

    def __init__(self, num_threads: int, cache: Path) -> None:
        self._num_threads = num_threads
        self._library = _compile(cache)
        self._parts = [np.ones(PROBE_BYTES // 8 // num_threads) for _ in range(num_threads)]

    @property
    def how(self) -> str:
        return "native" if self._library else "numpy"

    def read(self) -> float:
        """Bytes per second that all threads read together now."""
        library = self._library
        if library is None:
            return self._timed([part.sum for part in self._parts])
        jobs: list[Callable[[], float]] = [
            partial(library.peak_read, part.ctypes.data, part.nbytes, PROBE_S) for part in self._parts
        ]
        return sum(self._together(jobs))

    def peaks(self) -> Peaks:
        return Peaks(i8=self._peak("peak_i8"), bf16=self._peak("peak_bf16"), f32=self._peak("peak_f32"))

    def _peak(self, name: str) -> float | None:
        if self._library is None:
            return None
        return sum(self._together([partial(getattr(self._library, name), PEAK_S)] * self._num_threads)) or None

    def _timed(self, jobs: list[Callable[[], float]]) -> float:
        begin = time.perf_counter()
        self._together(jobs)
        return sum(part.nbytes for part in self._parts) / (time.perf_counter() - begin)

    @staticmethod
    def _together(jobs: Sequence[Callable[[], float]]) -> list[float]:
        """Every job on a thread of its own, begun together. ctypes and NumPy let the interpreter's lock go."""
        results = [0.0] * len(jobs)

        def work(index: int) -> None:
            results[index] = jobs[index]()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def waited_s() -> float | None:
    """Seconds since boot in which some task waited for a processor (/proc/pressure/cpu); None if it is not told."""
    try:
        words = Path("/proc/pressure/cpu").read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((int(word.removeprefix("total=")) / 1e6 for word in words if word.startswith("total=")), None)


def _compile(cache: Path) -> ctypes.CDLL | None:
    """peaks.cpp for this very machine, in the cache; None without a compiler that can."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "peaks.so"
    source = HERE / "peaks.cpp"
    command = [compiler, "-O2", "-march=native", "-fPIC", "-shared", str(source), "-o", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return None
    library = ctypes.CDLL(str(path))
    library.peak_read.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_double]
    library.peak_read.restype = ctypes.c_double
    for name in ("peak_i8", "peak_bf16", "peak_f32"):
        getattr(library, name).argtypes = [ctypes.c_double]
        getattr(library, name).restype = ctypes.c_double
    return library
