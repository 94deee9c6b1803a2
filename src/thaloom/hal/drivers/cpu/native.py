"""The C++ library behind the CPU driver: the build of it that fits this host, and its C interface (thaloom_cpu.h).

The library is compiled several times, once for each level of the instruction set; the best that the processor can
run is loaded. `THALOOM_CPU_VARIANT` names one by hand, or a file by its path (the sanitizer lane does); `none` means:
behave as if there were none.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import DriverUnavailable, InternalError, OutOfMemory
from thaloom.hal.draws import MAX_FURTHER

ABI = 11
FOLDER = Path(__file__).parent / "lib"
BUILD_INFO = "BUILD_INFO.json"

BAD_PROGRAM, BAD_STEP, NO_MEMORY, NO_THREADS, WRONG_CALLER, BAD_NUMBERS = range(1, 7)
F32, BF16, INT8, INT8_GROUPS, INT4, I8, F16, BF16_WIDE, INT8_SPLIT = range(9)
SOURCE_F32, SOURCE_BF16, SOURCE_F16, SOURCE_I8 = range(4)
VECTOR, MATRICES = 0, 1


class Op(enum.IntEnum):
    """enum thaloom_op."""

    EMBEDDING = 0
    RMSNORM = 1
    LINEAR = 2
    ROPE = 3
    ATTENTION = 4
    GATED = 5
    ADD = 6
    POOL = 7
    LOGITS = 8
    MOE = 9
    LORA = 10


_V2 = frozenset({"sse4_2", "popcnt", "ssse3", "cx16"})
_V3 = _V2 | {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_DOTPROD = frozenset({"asimd", "crc32", "atomics", "asimdrdm", "fphp", "asimdhp", "asimddp"})  # with all of Armv8.2
VARIANTS: tuple[tuple[str, frozenset[str]], ...] = (
    ("x86_64_v4_bf16", _V4 | {"avx512_vnni", "avx512_bf16"}),
    ("x86_64_v4_vnni", _V4 | {"avx512_vnni"}),
    ("x86_64_v3_vnni", _V3 | {"avx_vnni"}),
    ("x86_64_v3", _V3),
    ("x86_64_v2", _V2),
    ("aarch64_i8mm_bf16", _DOTPROD | {"i8mm", "bf16"}),
    ("aarch64_dotprod", _DOTPROD),
    ("aarch64_neon", frozenset()),
    ("generic", frozenset()),
)
"""Builds, best first, with the features a processor must have for each. AVX-512 without dot products of whole numbers
has no build of its own: such a processor runs x86_64_v3.

Source: x86-64 psABI, microarchitecture levels; Arm Architecture Reference Manual, A2 (NEON is in every AArch64).
"""


class Weight(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("num_bytes", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("dtype", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("rows", ctypes.c_uint32),
        ("columns", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class Source(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("num_bytes", ctypes.c_uint64),
        ("scales", ctypes.c_void_p),
        ("num_scales", ctypes.c_uint64),
        ("dtype", ctypes.c_uint32),
        ("num_threads", ctypes.c_uint32),
    )


class Instruction(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint32),
        ("out", ctypes.c_int32),
        ("slots", ctypes.c_int32 * 3),
        ("weights", ctypes.c_int32 * 4),
        ("numbers", ctypes.c_uint32 * 7),
        ("table", ctypes.c_uint32),
        ("table_length", ctypes.c_uint32),
        ("reals", ctypes.c_double * 3),
    )


class Program(ctypes.Structure):
    _fields_ = (
        ("abi", ctypes.c_uint32),
        ("struct_bytes", ctypes.c_uint32),
        ("num_instructions", ctypes.c_uint32),
        ("num_slots", ctypes.c_uint32),
        ("num_weights", ctypes.c_uint32),
        ("num_table_values", ctypes.c_uint32),
        ("instructions", ctypes.c_void_p),
        ("widths", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("kv_dtype", ctypes.c_uint32),
        ("num_threads", ctypes.c_uint32),
        ("max_rows", ctypes.c_uint32),
        ("max_sequences", ctypes.c_uint32),
        ("max_context", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class Plan(ctypes.Structure):
    _fields_ = (
        ("scratch_bytes", ctypes.c_uint64),
        ("block_bytes", ctypes.c_uint64),
        ("result_width", ctypes.c_uint32),
        ("result_stride", ctypes.c_uint32),
    )


class Step(ctypes.Structure):
    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("sequences", ctypes.c_void_p),
        ("block_tables", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("adapters", ctypes.c_void_p),
        ("num_rows", ctypes.c_uint32),
        ("num_sequences", ctypes.c_uint32),
        ("table_columns", ctypes.c_uint32),
        ("num_outputs", ctypes.c_uint32),
        ("result", ctypes.c_void_p),
        ("result_values", ctypes.c_uint64),
        ("gives_states", ctypes.c_uint32),
        ("is_greedy", ctypes.c_uint32),
    )


class Draws(ctypes.Structure):
    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("logits_values", ctypes.c_uint64),
        ("wishes", ctypes.c_void_p),
        ("drawn", ctypes.c_void_p),
        ("top", ctypes.c_void_p),
        ("num_rows", ctypes.c_uint32),
        ("num_draws", ctypes.c_uint32),
        ("top_columns", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class Draw(ctypes.Structure):
    _fields_ = (
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("uniform_steps", ctypes.c_uint64),
        ("further_steps", ctypes.c_uint64 * MAX_FURTHER),
        ("top_k", ctypes.c_uint32),
        ("num_top", ctypes.c_int32),
        ("edits", ctypes.c_void_p),
        ("allowed", ctypes.c_void_p),
        ("num_edits", ctypes.c_uint32),
        ("allowed_words", ctypes.c_uint32),
        ("row", ctypes.c_uint32),
        ("num_further", ctypes.c_uint32),
    )


class Drawn(ctypes.Structure):
    _fields_ = (
        ("token", ctypes.c_int32),
        ("num_not_finite", ctypes.c_uint32),
        ("highest", ctypes.c_float),
        ("num_top", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("further", ctypes.c_int32 * MAX_FURTHER),
    )


class Message(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char * 256),)

    def __str__(self) -> str:
        return bytes(self.text).decode(errors="replace")


_STRUCT_BYTES = tuple(
    ctypes.sizeof(struct) for struct in (Weight, Instruction, Program, Plan, Step, Draw, Drawn, Draws, Message, Source)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What this host will run on."""

    path: Path | None
    """None: no build can be used."""
    degraded: str | None
    """Why it is not the best this processor could run, or None."""
    by_hand: bool = False
    """Named in THALOOM_CPU_VARIANT: nothing else will do."""


def choose(features: Iterable[str], machine: str, *, folder: Path = FOLDER, wanted: str | None = None) -> Choice:
    """The best build in `folder` for a processor with `features`; `wanted` is THALOOM_CPU_VARIANT, if set.

    Raises DriverUnavailable if `wanted` is not there or cannot run here: a wish by hand is never bent.
    """
    available = frozenset(features)
    fitting = [name for name, needed in VARIANTS if _runs(name, needed, available, machine)]
    built = [name for name in fitting if _path(folder, name).is_file()]
    if wanted == "none":
        return Choice(path=None, degraded="THALOOM_CPU_VARIANT=none asks for the NumPy reference")
    if wanted and "/" in wanted:
        return Choice(path=Path(wanted), degraded=None, by_hand=True)
    if wanted:
        if wanted not in built:
            raise DriverUnavailable(
                f"THALOOM_CPU_VARIANT={wanted!r} cannot be used here (there are: {', '.join(built) or 'none'})"
            )
        return Choice(path=_path(folder, wanted), degraded=None, by_hand=True)
    if not built:
        return Choice(path=None, degraded=f"{why_not_built(folder)}; the NumPy reference runs instead")
    if built[0] != fitting[0]:
        missing = f"{fitting[0]} could run but is missing ({why_not_built(folder, fitting[0])})"
        return Choice(path=_path(folder, built[0]), degraded=missing)
    return Choice(path=_path(folder, built[0]), degraded=None)


def why_not_built(folder: Path = FOLDER, variant: str | None = None) -> str:
    """The reason the build left behind for having no library (or not this one)."""
    try:
        info = json.loads((folder / BUILD_INFO).read_text(encoding="utf-8"))
        reason = info.get("reason") if variant is None else info.get("failed", {}).get(variant, info.get("reason"))
    except (OSError, ValueError, AttributeError):
        return "the native library was never built"
    return str(reason) if reason else "the native library is not there"


def built_variants(features: Iterable[str], folder: Path = FOLDER) -> list[str]:
    """Names of the builds in `folder` that a processor with `features` can run, best first."""
    available, machine = frozenset(features), platform.machine()
    return [n for n, needed in VARIANTS if _runs(n, needed, available, machine) and _path(folder, n).is_file()]


def _runs(name: str, needed: frozenset[str], available: frozenset[str], machine: str) -> bool:
    return needed <= available and (name == "generic" or name.startswith(machine))


def _path(folder: Path, variant: str) -> Path:
    return folder / f"thaloom_cpu_{variant}.so"


class Library:
    """One loaded build. Its functions raise what their status means."""

    def __init__(self, path: Path) -> None:
        """Raises DriverUnavailable if the file cannot be loaded or speaks another interface."""
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise DriverUnavailable(f"the native library cannot be loaded: {error}") from error
        self.path = path
        self._library = library
        try:
            self._declare()
            self._shake_hands()
        except AttributeError as error:
            raise DriverUnavailable(f"{path.name} is not our library: {error}") from error

    @property
    def variant(self) -> str:
        return str(self._library.thaloom_cpu_variant().decode())

    @functools.cached_property
    def digest(self) -> str:
        """Of the file: what is in panels may differ between any two builds."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def packed_bytes(self, dtype: int, count: int, rows: int, columns: int) -> int:
        """Bytes of a stack of matrices in panels. Raises ValueError if there can be none."""
        num_bytes = int(self._library.thaloom_cpu_packed_bytes(dtype, count, rows, columns))
        if num_bytes == 0:
            raise ValueError(f"no matrix can have {count} x {rows} x {columns} values")
        return num_bytes

    def pack(self, target: Weight, source: Source) -> None:
        """Raises ArithmeticError for a matrix whose numbers cannot be what they are to become."""
        message = Message()
        status = self._library.thaloom_cpu_pack(ctypes.byref(target), ctypes.byref(source), ctypes.byref(message))
        _raise_for(status, message)

    def plan(self, program: Program) -> Plan:
        plan, message = Plan(), Message()
        status = self._library.thaloom_cpu_plan(ctypes.byref(program), ctypes.byref(plan), ctypes.byref(message))
        _raise_for(status, message)
        return plan

    def create(self, program: Program, scratch: int, scratch_bytes: int) -> ctypes.c_void_p:
        handle, message = ctypes.c_void_p(), Message()
        status = self._library.thaloom_cpu_create(
            ctypes.byref(program), scratch, scratch_bytes, ctypes.byref(handle), ctypes.byref(message)
        )
        _raise_for(status, message)
        return handle

    def bind_pool(self, handle: ctypes.c_void_p, pool: int, pool_bytes: int, num_blocks: int) -> None:
        message = Message()
        status = self._library.thaloom_cpu_bind_pool(handle, pool, pool_bytes, num_blocks, ctypes.byref(message))
        _raise_for(status, message)

    def step(self, handle: ctypes.c_void_p, step: Step, message: Message) -> None:
        status = self._library.thaloom_cpu_step(handle, ctypes.byref(step), ctypes.byref(message))
        if status:
            _raise_for(status, message)

    def draw(self, handle: ctypes.c_void_p, draws: Draws, message: Message) -> None:
        status = self._library.thaloom_cpu_draw(handle, ctypes.byref(draws), ctypes.byref(message))
        if status:
            _raise_for(status, message)

    def copy_block(self, handle: ctypes.c_void_p, source: int, target: int) -> None:
        message = Message()
        status = self._library.thaloom_cpu_copy_block(handle, source, target, ctypes.byref(message))
        _raise_for(status, message)

    def destroy(self, handle: ctypes.c_void_p) -> None:
        self._library.thaloom_cpu_destroy(handle)

    def _declare(self) -> None:
        pointer, u32, u64, i32 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32
        for name, result, arguments in (
            ("abi", u32, []),
            ("struct_bytes", u32, [u32]),
            ("variant", ctypes.c_char_p, []),
            ("packed_bytes", u64, [u32] * 4),
            ("pack", i32, [pointer] * 3),
            ("plan", i32, [pointer] * 3),
            ("create", i32, [pointer, pointer, u64, pointer, pointer]),
            ("bind_pool", i32, [pointer, pointer, u64, u32, pointer]),
            ("step", i32, [pointer] * 3),
            ("draw", i32, [pointer] * 3),
            ("copy_block", i32, [pointer, u32, u32, pointer]),
            ("destroy", None, [pointer]),
        ):
            function = getattr(self._library, f"thaloom_cpu_{name}")
            function.restype = result
            function.argtypes = arguments

    def _shake_hands(self) -> None:
        abi = self._library.thaloom_cpu_abi()
        sizes = tuple(self._library.thaloom_cpu_struct_bytes(number) for number in range(len(_STRUCT_BYTES)))
        if abi != ABI or sizes != _STRUCT_BYTES:
            raise DriverUnavailable(
                f"{self.path.name} speaks interface {abi}, this release speaks {ABI}: install Thaloom again"
            )


def _raise_for(status: int, message: Message) -> None:
    if status == 0:
        return
    if status in (BAD_PROGRAM, BAD_STEP):
        raise ValueError(str(message))
    if status == BAD_NUMBERS:
        raise ArithmeticError(str(message))
    if status in (NO_MEMORY, NO_THREADS):
        raise OutOfMemory(str(message))
    raise InternalError(f"{message} (native status {status})")


@functools.cache
def load(path: Path) -> Library:
    """The library in that file, loaded once for each process. Raises DriverUnavailable."""
    return Library(path)


def unused(features: Iterable[str]) -> tuple[str, ...]:
    """What could multiply matrices faster here and no build has code for: AMX tiles, Arm's scalable vectors."""
    return tuple(sorted(name for name in features if name.startswith(("amx_", "sve", "sme"))))


def choose_here(features: Iterable[str]) -> Choice:
    """`choose` for this process, honouring THALOOM_CPU_VARIANT."""
    return choose(features, platform.machine(), wanted=os.environ.get("THALOOM_CPU_VARIANT"))
