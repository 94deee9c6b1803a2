"""Mutated programs and steps against the native library: every one must be refused or run, none may crash.

Run by `make fuzz` on a build with address and undefined-behaviour sanitizers. Every array that is handed over has a
heap block of its own and of exact size, so that one element too far is seen. What the interface calls the caller's
promise (that a pointer has as many bytes as stated beside it) is kept; everything else is fair game. Equal seeds
give equal cases; `--verbose` names each before it runs.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.draws import EDIT
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.encode import encode
from thaloom.hal.testing.programs import (
    Case,
    arrived_whole,
    operator_cases,
    operator_names,
    tiny_model,
    whole_number_cases,
)
from thaloom.hal.tensors import QuantTensor, Tensor

MOST_BYTES = 64 << 20
"""Programs that want more scratch or pool than this are planned and not run."""
LIMITS = {"max_rows": 24, "max_sequences": 4, "max_context": 70}
NUM_BLOCKS = 9
ODD = (
    0,
    1,
    2,
    3,
    15,
    16,
    17,
    31,
    63,
    64,
    255,
    4095,
    1 << 16,
    (1 << 16) + 1,
    1 << 22,
    (1 << 22) + 1,
    1 << 31,
    2**32 - 1,
)
ODD_REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, 1e300, float("inf"), float("-inf"), float("nan"))
DTYPES = {"f32": native.F32, "bf16": native.BF16}
FORMATS = {"int8": (native.INT8, native.INT8_GROUPS), "int4": (native.INT4, native.INT8)}
FLOATS = {"f32": (native.F32,), "bf16": (native.BF16, native.BF16_WIDE)}
"""What a matrix may become, so that matrices of several kinds read the same rows."""

_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]


class Heap:
    """Blocks of exact size, freed together."""

    def __init__(self) -> None:
        self._blocks: list[int] = []

    def take(self, num_bytes: int) -> int:
        block = ctypes.c_void_p()
        if _libc.posix_memalign(ctypes.byref(block), 64, max(num_bytes, 1)) or not block.value:
            raise MemoryError(num_bytes)
        self._blocks.append(block.value)
        ctypes.memset(block.value, 0, num_bytes)
        return block.value

    def hold(self, data: bytes) -> int:
        address = self.take(len(data))
        ctypes.memmove(address, data, len(data))
        return address

    def free(self) -> None:
        for block in self._blocks:
            _libc.free(block)
        self._blocks.clear()


def pack(library: native.Library, case: Case, heap: Heap, rng: np.random.Generator) -> dict[str, native.Weight]:
    structs = {}
    for name, tensor in case.weights.items():
        if len(tensor.shape) == 1:
            values = tensor.to_f32()
            padded = np.zeros(-(-len(values) // 16) * 16, np.float32)
            padded[: len(values)] = values
            weight = native.Weight(kind=native.VECTOR, count=1, rows=1, columns=len(values))
            weight.data, weight.num_bytes = heap.hold(padded.tobytes()), padded.nbytes
        else:
            count, rows, columns = (1, *tensor.shape) if len(tensor.shape) == 2 else tensor.shape
            source, dtype, keep = _source(tensor, case, rng)
            weight = native.Weight(kind=native.MATRICES, dtype=dtype, count=count, rows=rows, columns=columns)
            weight.num_bytes = library.packed_bytes(dtype, count, rows, columns)
            weight.data = heap.take(weight.num_bytes)
            library.pack(weight, source)
            del keep
        structs[name] = weight
    return structs


def _source(
    tensor: Tensor | QuantTensor, case: Case, rng: np.random.Generator
) -> tuple[native.Source, int, list[np.ndarray[Any, Any]]]:
    """How a matrix comes, what it becomes, and the arrays that must live until it has been packed."""
    data = np.ascontiguousarray(tensor.data)
    source = native.Source(data=data.ctypes.data, num_bytes=data.nbytes, num_threads=2)
    if isinstance(tensor, QuantTensor):
        scales = np.ascontiguousarray(tensor.scales)
        source.scales, source.num_scales, source.dtype = scales.ctypes.data, scales.size, native.SOURCE_I8
        in_eight = native.INT8_SPLIT if data.ndim == 2 and rng.random() < 0.5 else native.INT8_GROUPS
        return source, native.INT4 if tensor.bits == 4 else in_eight, [data, scales]
    source.dtype = DTYPES[tensor.dtype]
    is_whole = case.weight_format != "stored" and data.shape[-1] % 32 == 0 and rng.random() < 0.8
    formats = FORMATS[case.weight_format] if is_whole else FLOATS[tensor.dtype]
    if native.INT8_GROUPS in formats and data.ndim == 2:
        formats = (*formats, native.INT8_SPLIT)
    return source, int(rng.choice(formats)), [data]


class Mutator:
    """Turns a good program or step into one that is wrong somewhere, or still right."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def number(self, value: int, bits: int = 32) -> int:
        way = self._rng.integers(5)
        if way == 0:
            return int(self._rng.choice(np.array(ODD, np.uint64)))
        if way == 1:
            return value + int(self._rng.integers(-3, 4))
        if way == 2:
            return value ^ (1 << int(self._rng.integers(bits)))
        if way == 3:
            return int(self._rng.integers(0, 40))
        return value * 2

    def program(self, told: native.Program, instructions: Any, widths: Any, weights: Any, tables: Any) -> None:
        for _ in range(int(self._rng.choice([0, 1, 1, 2, 3, 8]))):
            where = self._rng.integers(10)
            if where < 5 and len(instructions):
                self._instruction(instructions[int(self._rng.integers(len(instructions)))])
            elif where == 5:
                index = int(self._rng.integers(len(widths)))
                widths[index] = self.number(widths[index]) & 0xFFFFFFFF
            elif where == 6 and len(weights):
                weight = weights[int(self._rng.integers(len(weights)))]
                field = str(self._rng.choice(["kind", "dtype", "count", "rows", "columns"]))
                setattr(weight, field, self.number(getattr(weight, field)) & 0xFFFFFFFF)
            elif where == 7 and len(tables):
                tables[int(self._rng.integers(len(tables)))] = self._rng.choice(ODD_REALS)
            elif where == 8:
                field = str(self._rng.choice(["kv_dtype", "num_threads", "max_rows", "max_sequences", "max_context"]))
                setattr(told, field, self.number(getattr(told, field)) & 0xFFFFFFFF)
            else:  # the counts may only shrink: the arrays are as long as they are
                field = str(self._rng.choice(["num_instructions", "num_slots", "num_weights", "num_table_values"]))
                setattr(told, field, int(self._rng.integers(0, getattr(told, field) + 1)))

    def _instruction(self, instruction: native.Instruction) -> None:
        name = str(self._rng.choice(["op", "out", "slots", "weights", "numbers", "table", "table_length", "reals"]))
        if name == "reals":
            instruction.reals[int(self._rng.integers(3))] = self._rng.choice(ODD_REALS)
        elif name in ("slots", "weights", "numbers"):
            array = getattr(instruction, name)
            index = int(self._rng.integers(len(array)))
            array[index] = self._wrapped(self.number(array[index]), name != "numbers")
        else:
            setattr(instruction, name, self._wrapped(self.number(getattr(instruction, name)), name == "out"))

    def _wrapped(self, value: int, signed: bool) -> int:
        return ctypes.c_int32(value).value if signed else value & 0xFFFFFFFF

    def step(self, heap: Heap, plan: native.Plan, limits: native.Program) -> native.Step:
        """A step that keeps the contract for the limits, then is bent in some places."""
        rng = self._rng
        num_sequences = int(rng.integers(1, min(limits.max_sequences, LIMITS["max_sequences"]) + 1))
        columns = -(-min(limits.max_context, LIMITS["max_context"]) // 16)
        tokens, positions, sequences = [], [], []
        for sequence in range(num_sequences):
            start = int(rng.integers(0, 40))
            for position in range(start, start + int(rng.integers(1, 6))):
                tokens.append(int(rng.integers(0, 61)))
                positions.append(position)
                sequences.append(sequence)
        tables = rng.permutation(NUM_BLOCKS * num_sequences)[: num_sequences * columns] % NUM_BLOCKS
        tables = np.resize(tables, num_sequences * columns)
        outputs = rng.integers(0, len(tokens), int(rng.integers(0, len(tokens) + 1)))
        arrays = {
            "tokens": np.array(tokens, np.int32),
            "positions": np.array(positions, np.int32),
            "sequences": np.array(sequences, np.int32),
            "block_tables": tables.astype(np.int32),
            "outputs": outputs.astype(np.int32),
            "adapters": rng.integers(-1, 3, len(tokens)).astype(np.int32),
        }
        for _ in range(int(rng.choice([0, 0, 1, 2]))):
            array = arrays[str(rng.choice(list(arrays)))]
            if len(array):
                index = int(rng.integers(len(array)))
                array[index] = ctypes.c_int32(self.number(int(array[index]))).value
        step = native.Step(
            num_rows=len(tokens), num_sequences=num_sequences, table_columns=columns, num_outputs=len(outputs)
        )
        for name, array in arrays.items():
            setattr(step, name, heap.hold(array.tobytes()))
        if rng.integers(4) == 0:
            step.adapters = None
        if rng.integers(8) == 0:  # fewer rows than there are is allowed to be wrong, more would break our promise
            field = str(rng.choice(["num_rows", "num_sequences", "table_columns", "num_outputs"]))
            setattr(step, field, int(rng.integers(0, getattr(step, field) + 1)))
        values = len(outputs) * plan.result_stride
        if values * 4 > MOST_BYTES:
            values = 0
        step.result, step.result_values = heap.take(values * 4), values
        step.gives_states = int(rng.choice([0, 0, 0, 1, 1, 2]))
        step.is_greedy = int(rng.choice([0, 0, 0, 1, 1, 2]))
        return step

    def draws(self, heap: Heap, step: native.Step, width: int) -> native.Draws:
        """Draws from what the step left (or from zeros), some of them bent, from any bits in place of logits."""
        rng, count = self._rng, int(step.num_outputs)
        columns = int(rng.choice([0, 1, 5, 100]))
        wishes = np.zeros(count, np.dtype(native.Draw))
        wishes["temperature"] = rng.choice([0.0, 5e-324, 0.01, 1.0, 1e308], count)
        wishes["top_p"] = rng.choice([1.0, 0.5, 0.999, 1e-300], count)
        wishes["min_p"] = rng.choice([0.0, 0.1, 1.0], count)
        wishes["uniform_steps"] = rng.integers(0, 2**53, count)
        wishes["further_steps"] = rng.integers(0, 2**53, wishes["further_steps"].shape)
        wishes["num_further"] = rng.integers(0, wishes["further_steps"].shape[1] + 1, count)
        wishes["top_k"] = rng.choice([0, 1, 3, 60, 2**32 - 1], count)
        wishes["num_top"] = rng.integers(-1, columns + 1, count)
        if step.is_greedy and rng.integers(4):
            wishes["temperature"], wishes["num_top"] = 0.0, -1
        wishes["row"] = rng.integers(0, max(count, 1), count) if rng.integers(2) else np.arange(count)
        if count and rng.integers(8) == 0:
            wishes["row"][int(rng.integers(count))] = self.number(count) % 2**32
        if count and rng.integers(4) == 0:
            field = str(rng.choice(["temperature", "top_p", "min_p"]))
            wishes[field][int(rng.integers(count))] = rng.choice(ODD_REALS)
        if count and rng.integers(4) == 0:
            wishes["uniform_steps"][int(rng.integers(count))] = rng.choice(
                np.array([0, 2**53 - 1, 2**53, 2**64 - 1], np.uint64)
            )
            wishes["num_top"][int(rng.integers(count))] = ctypes.c_int32(self.number(columns)).value
            wishes["num_further"][int(rng.integers(count))] = self.number(count) % 2**32
            wishes["further_steps"][int(rng.integers(count)), 0] = rng.choice(
                np.array([0, 2**53, 2**64 - 1], np.uint64)
            )
        for index in range(count if rng.integers(2) else 0):
            self.bend(heap, wishes[index : index + 1], width)
        if step.result_values and rng.integers(3) == 0:
            bits = rng.integers(0, 2**32, step.result_values, np.uint32)
            ctypes.memmove(step.result, bits.ctypes.data, bits.nbytes)
        draws = native.Draws(
            logits=step.result,
            logits_values=step.result_values,
            wishes=heap.hold(wishes.tobytes()),
            drawn=heap.take(count * ctypes.sizeof(native.Drawn)),
            top=heap.take(count * columns * 4) if columns else None,
            num_rows=count if rng.integers(8) else self.number(count) % 2**32,
            num_draws=count,
            top_columns=columns,
        )
        if rng.integers(8) == 0:
            setattr(draws, str(rng.choice(["logits", "wishes", "drawn", "top"])), None)
        return draws

    def bend(self, heap: Heap, wish: NDArray[Any], width: int) -> None:
        """Edits and allowed tokens for one draw; mostly such as are possible."""
        rng = self._rng
        if rng.integers(2):
            edits = np.zeros(int(rng.integers(1, 5)), EDIT)
            edits["token"] = rng.integers(0, width, len(edits))
            edits["scale"], edits["add"] = (
                rng.choice([1.0, 0.5, 1e-38], len(edits)),
                rng.choice([0.0, 3e38], len(edits)),
            )
            if rng.integers(8) == 0:
                edits["token"][0] = ctypes.c_int32(self.number(width)).value
                edits["scale"][0], edits["add"][0] = rng.choice(ODD_REALS), rng.choice(ODD_REALS)
            wish["edits"], wish["num_edits"] = heap.hold(edits.tobytes()), len(edits)
        if rng.integers(2):
            words = (width + 31) // 32
            bits = rng.integers(0, 2**32, words, np.uint32)
            wish["allowed"], wish["allowed_words"] = heap.hold(bits.tobytes()), words
            if rng.integers(8) == 0:
                wish["allowed_words"] = int(rng.integers(0, words + 1))


def run_case(library: native.Library, number: int, seed: int, outcomes: Counter[str]) -> None:
    rng = np.random.default_rng([seed, number])
    cases = _cases()
    case = cases[int(rng.integers(len(cases)))]
    heap, mutator = Heap(), Mutator(rng)
    try:
        weights = pack(library, case, heap, rng)
        kv_dtype = int(rng.choice([native.F32, native.BF16, native.F16, native.I8]))
        encoded = encode(case.program, weights, kv_dtype=kv_dtype, num_threads=int(rng.integers(1, 4)), **LIMITS)
        instructions, widths, structs, tables = encoded.keep
        told = encoded.program
        mutator.program(told, instructions, widths, structs, tables)
        told.num_threads = min(told.num_threads, 4) if told.num_threads <= 1024 else told.num_threads
        for field, array in (("instructions", instructions), ("widths", widths), ("weights", structs)):
            setattr(told, field, heap.hold(bytes(array)))
        told.tables = heap.hold(tables.tobytes())
        _run(library, told, mutator, heap, outcomes, rng)
    finally:
        heap.free()


def _run(
    library: native.Library,
    told: native.Program,
    mutator: Mutator,
    heap: Heap,
    outcomes: Counter[str],
    rng: np.random.Generator,
) -> None:
    try:
        plan = library.plan(told)
    except ValueError:
        outcomes["program refused"] += 1
        return
    if plan.scratch_bytes > MOST_BYTES or plan.block_bytes * NUM_BLOCKS > MOST_BYTES:
        outcomes["too large to run"] += 1
        return
    handle = library.create(told, heap.take(plan.scratch_bytes), plan.scratch_bytes)
    try:
        pool_bytes = plan.block_bytes * NUM_BLOCKS
        library.bind_pool(handle, heap.take(pool_bytes), pool_bytes, NUM_BLOCKS)
        message = native.Message()
        for _ in range(4):
            step = mutator.step(heap, plan, told)
            try:
                library.step(handle, step, message)
                outcomes["step run"] += 1
            except ValueError:
                outcomes["step refused"] += 1
            try:
                library.draw(handle, mutator.draws(heap, step, plan.result_width), message)
                outcomes["draws made"] += 1
            except ValueError:
                outcomes["draws refused"] += 1
        try:
            library.copy_block(handle, *(int(n) for n in rng.integers(0, NUM_BLOCKS + 2, 2)))
        except ValueError:
            outcomes["copy refused"] += 1
    finally:
        library.destroy(handle)


_KNOWN: list[Case] = []


def _cases() -> list[Case]:
    if not _KNOWN:
        for dtype in ("f32", "bf16"):
            _KNOWN.extend(case for name in operator_names() for case in operator_cases(name, dtype=dtype))
            _KNOWN.extend(tiny_model(seed, dtype=dtype) for seed in range(6))
        for weight_format in ("int8", "int4"):
            models = [tiny_model(seed, weight_format=weight_format) for seed in range(3)]
            for case in (*models, *whole_number_cases(weight_format)):
                _KNOWN.extend((case, arrived_whole(case)))
    return _KNOWN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--only", type=int, help="one case, by its number")
    arguments = parser.parse_args()
    library = native.load(Path(os.environ["THALOOM_CPU_VARIANT"]))
    outcomes: Counter[str] = Counter()
    numbers = range(arguments.cases) if arguments.only is None else [arguments.only]
    for number in numbers:
        if arguments.verbose:
            print(f"case {number}", file=sys.stderr, flush=True)
        run_case(library, number, arguments.seed, outcomes)
    print(f"{len(numbers)} cases on {library.variant}, seed {arguments.seed}: {dict(sorted(outcomes.items()))}")


if __name__ == "__main__":
    main()
