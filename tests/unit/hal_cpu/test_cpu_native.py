"""The native library behind its C interface, where one was built."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from thaloom.base.errors import DriverUnavailable, InternalError
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Limits
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.encode import encode
from thaloom.hal.drivers.cpu.executable import CpuBackend, PackedWeights
from thaloom.hal.drivers.cpu.native import Library
from thaloom.hal.drivers.cpu.probe import Machine
from thaloom.hal.host import Budget
from thaloom.hal.ops import Step
from thaloom.hal.testing.programs import tiny_model

LIMITS = Limits(max_rows=16, max_sequences=2, max_context=64)


def backend(file: Path, *, num_threads: int = 1) -> CpuBackend:
    device = Machine().device()
    return CpuBackend(device, native.load(file), Budget(device), num_threads=num_threads)


def test_it_names_its_build(library_file: Path) -> None:
    assert native.load(library_file).variant in library_file.name


def test_another_interface_is_refused(library_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = native.ABI
    monkeypatch.setattr(native, "ABI", spoken + 1)
    with pytest.raises(DriverUnavailable, match=f"interface {spoken}"):
        Library(library_file)


def test_structs_of_another_size_are_refused(library_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_STRUCT_BYTES", (1000, *native._STRUCT_BYTES[1:]))
    with pytest.raises(DriverUnavailable, match="install"):
        Library(library_file)


def test_another_library_is_refused() -> None:
    with pytest.raises(DriverUnavailable, match="not our library"):
        Library(Path(ctypes.util.find_library("c") or "libc.so.6"))


@pytest.mark.parametrize("dtype", [native.F32, native.BF16])
@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (1, 16, 2), (1, 17, 3), (3, 5, 7)])
def test_panels_hold_every_number_once(library_file: Path, dtype: int, count: int, rows: int, columns: int) -> None:
    library = native.load(library_file)
    number = np.float32 if dtype == native.F32 else np.uint16
    source = np.arange(1, count * rows * columns + 1).astype(number)
    num_bytes = library.packed_bytes(dtype, count, rows, columns)
    memory = backend(library_file).allocate(num_bytes)
    weight = native.Weight(
        data=memory.address,
        num_bytes=num_bytes,
        kind=native.MATRICES,
        dtype=dtype,
        count=count,
        rows=rows,
        columns=columns,
    )
    library.pack(weight, native.Source(data=source.ctypes.data, num_bytes=source.nbytes, dtype=dtype, num_threads=2))
    packed = memory.data.view(number)
    assert np.sort(packed[packed != 0]).tolist() == sorted(source.tolist())
    side = 1 if dtype == native.F32 else 2
    panels = packed.reshape(count, -(-rows // 16), -(-columns // side), 16, side)
    unpacked = panels.transpose(0, 1, 3, 2, 4).reshape(count, -1, panels.shape[2] * side)[:, :rows, :columns]
    assert unpacked.tobytes() == source.reshape(count, rows, columns).tobytes()


def test_a_source_of_the_wrong_size_is_not_packed(library_file: Path) -> None:
    library, memory = native.load(library_file), backend(library_file).allocate(4096)
    weight = native.Weight(data=memory.address, num_bytes=4096, kind=native.MATRICES, count=1, rows=4, columns=4)
    source = np.zeros(16, np.float32)
    with pytest.raises(ValueError, match="4 x 4"):
        library.pack(weight, native.Source(data=source.ctypes.data, num_bytes=source.nbytes - 4, num_threads=1))


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1 << 23, 1), (1 << 20, 1, 1)]
)
def test_impossible_matrices_are_refused(library_file: Path, count: int, rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match="no matrix"):
        native.load(library_file).packed_bytes(native.F32, count, rows, columns)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("abi", native.ABI + 1),
        ("struct_bytes", 8),
        ("num_instructions", 0),
        ("num_threads", 0),
        ("num_threads", 5000),
        ("max_rows", 0),
        ("max_context", 1 << 25),
        ("kv_dtype", native.INT8_GROUPS),
        ("kv_dtype", native.BF16_WIDE),
        ("kv_dtype", 8),
        ("instructions", None),
        ("weights", None),
        ("num_weights", 1),
        ("num_slots", 1),
    ],
)
def test_a_bad_program_is_refused(library_file: Path, field: str, value: int | None) -> None:
    case, owner = tiny_model(1), backend(library_file)
    weights = PackedWeights(case.program, MemoryWeights(case.weights), owner, native.load(library_file))
    encoded = encode(
        case.program, weights.structs, kv_dtype=0, num_threads=1, max_rows=4, max_sequences=2, max_context=32
    )
    native.load(library_file).plan(encoded.program)
    setattr(encoded.program, field, value)
    with pytest.raises(ValueError, match=r"\w"):
        native.load(library_file).plan(encoded.program)
    weights.free()


def step(num_rows: int = 4) -> Step:
    return Step(
        tokens=np.arange(num_rows, dtype=np.int32),
        positions=np.arange(num_rows, dtype=np.int32),
        sequences=np.zeros(num_rows, np.int32),
        block_tables=np.zeros((1, 1), np.int32),
        outputs=np.array([num_rows - 1], np.int32),
    )


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_threads_start_with_an_executable_and_end_with_it(library_file: Path) -> None:
    before, case = native_threads(), tiny_model(1)
    executable = backend(library_file, num_threads=4).compile(case.program, MemoryWeights(case.weights), LIMITS)
    assert native_threads() == before + 3
    executable.close()
    # A joined thread is gone for its process before it is gone from /proc: the kernel wakes the joiner first.
    deadline = time.monotonic() + 30
    while native_threads() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert native_threads() == before


def test_a_second_caller_is_turned_away(library_file: Path) -> None:
    """One call at a time: whoever comes while another is inside gets an error, and no result is mixed."""
    case, owner = tiny_model(1), backend(library_file, num_threads=2)
    executable = owner.compile(case.program, MemoryWeights(case.weights), LIMITS)
    pool = owner.allocate(executable.block_bytes)
    executable.bind_pool(pool, 1)
    problems: list[str] = []

    def work() -> None:
        for _ in range(200):
            try:
                executable.run(step(16))
            except InternalError as error:
                problems.append(error.message)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another thread" in problem for problem in problems)
    executable.run(step())
    executable.close()
    pool.free()


FORK = """
import os, sys
from tests.unit.hal_cpu.test_cpu_native import *
case, owner = tiny_model(1), backend(Path(sys.argv[1]), num_threads=3)
executable = owner.compile(case.program, MemoryWeights(case.weights), LIMITS)
pool = owner.allocate(executable.block_bytes)
executable.bind_pool(pool, 1)
executable.run(step())
child = os.fork()
if child == 0:
    try:
        executable.run(step())
    except InternalError:
        executable.close()
        os._exit(0)
    os._exit(1)
_, status = os.waitpid(child, 0)
executable.run(step())
executable.close()
print("status", status)
"""


def test_after_a_fork_the_child_is_refused_and_can_end(library_file: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(library_file)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"},
    )
    assert done.stdout == "status 0\n", done.stderr
