"""What a program, its weights and each step must satisfy before a driver touches anything.

Every driver may call these; the reference does. They raise ValueError (a mistake of the engine), except where the
model itself is at fault: NotServable for an operator or dtype, MalformedFile for a weight of the wrong shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.hal.driver import Limits, WeightSource
from thaloom.hal.ops import BLOCK_TOKENS, OPERATORS, VERSION, Embedding, Logits, Lora, Pool, Program, Step
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import Support


def check_program(program: Program, support: Support) -> None:
    """Raises NotServable for an operator `support` lacks or another version of the set, ValueError for nonsense."""
    if program.version != VERSION:
        raise NotServable(f"the program uses version {program.version} of the operators, this driver knows {VERSION}")
    for instruction in program.instructions:
        if instruction.op not in support.levels:
            raise NotServable(f"operator {instruction.op!r} is not supported here", operator=instruction.op)
    if not program.instructions or not isinstance(program.instructions[-1], Logits | Pool):
        raise ValueError("a program ends with `logits` or `pool`")
    if any(isinstance(instruction, Logits | Pool) for instruction in program.instructions[:-1]):
        raise ValueError("`logits` and `pool` may only stand at the end of a program")
    if any(OPERATORS[instruction.op] is not type(instruction) for instruction in program.instructions):
        raise ValueError("an instruction is not the operator it says it is")


def check_limits(limits: Limits, support: Support) -> None:
    """Raises NotServable for a way of keeping weights, or keys and values, that `support` lacks."""
    if limits.kv_dtype not in support.kv_dtypes:
        raise NotServable(f"keys and values in {limits.kv_dtype} are not supported here", dtype=limits.kv_dtype)
    if limits.weight_format not in support.weight_formats:
        raise NotServable(f"weights in {limits.weight_format} are not supported here", format=limits.weight_format)


def check_weight(name: str, tensor: Tensor | QuantTensor, shape: tuple[int, ...], support: Support) -> None:
    """Raises MalformedFile for a wrong shape, NotServable for a dtype or format that `support` lacks."""
    if tensor.shape != shape:
        raise MalformedFile(f"weight {name!r} has shape {tensor.shape}, the model needs {shape}")
    if isinstance(tensor, Tensor) and tensor.dtype not in support.weight_dtypes:
        raise NotServable(f"weight {name!r}: dtype {tensor.dtype} is not supported here", dtype=tensor.dtype)
    if isinstance(tensor, QuantTensor) and tensor.format not in support.weight_formats:
        raise NotServable(f"weight {name!r}: {tensor.format} is not supported here", format=tensor.format)


def read_weights(program: Program, source: WeightSource, support: Support) -> dict[str, Tensor | QuantTensor]:
    """All weights of the program, as they come. Raises MalformedFile also for a missing one; see check_weight."""
    tensors: dict[str, Tensor | QuantTensor] = {}
    for name, shape in program.weights.items():
        tensors[name] = source.read(name)
        check_weight(name, tensors[name], tuple(shape), support)
    return tensors


class MemoryWeights:
    """A WeightSource over tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor | QuantTensor]) -> None:
        self._tensors = dict(tensors)

    def names(self) -> list[str]:
        return list(self._tensors)

    def read(self, name: str) -> Tensor | QuantTensor:
        if name not in self._tensors:
            raise MalformedFile(f"the model has no weight {name!r}")
        return self._tensors[name]


class StepChecker:
    """Checks steps against one program, its limits and its pool. Made once; a check costs tens of microseconds."""

    def __init__(self, program: Program, limits: Limits) -> None:
        self._limits = limits
        self._max_blocks = -(-limits.max_context // BLOCK_TOKENS)
        self._has_store = bool(program.kv)
        self._adapters = {step.adapter for step in program.instructions if isinstance(step, Lora)}
        tables = [step.weight for step in program.instructions if isinstance(step, Embedding)]
        self._gives_logits = isinstance(program.instructions[-1], Logits)
        self._vocab_size = min((program.weights[name][0] for name in tables), default=2**31 - 1)

    def check(self, step: Step, num_blocks: int) -> None:
        """Raises ValueError that names what is wrong. Reads only."""
        self._check_shapes(step)
        self._check_ranges(step)
        if step.states and not self._gives_logits:
            raise ValueError("this program gives no states")
        self._check_rows(step)
        if self._has_store:
            self._check_blocks(step, num_blocks)

    def _check_shapes(self, step: Step) -> None:
        rows = step.num_rows
        arrays: dict[str, tuple[NDArray[np.int32], tuple[int, ...]]] = {
            "tokens": (step.tokens, (rows,)),
            "positions": (step.positions, (rows,)),
            "sequences": (step.sequences, (rows,)),
            "outputs": (step.outputs, (len(step.outputs),)),
            "block_tables": (step.block_tables, step.block_tables.shape[:2]),
        }
        if step.adapters is not None:
            arrays["adapters"] = (step.adapters, (rows,))
        for name, (array, shape) in arrays.items():
            if array.dtype != np.int32:
                raise ValueError(f"step.{name} is {array.dtype}, not int32")
            if array.shape != shape or (name == "block_tables" and array.ndim != 2):
                raise ValueError(f"step.{name} has shape {array.shape}, not {shape}")

    def _check_ranges(self, step: Step) -> None:
        limits, (num_sequences, num_columns) = self._limits, step.block_tables.shape
        if not 0 < step.num_rows <= limits.max_rows:
            raise ValueError(f"{step.num_rows} rows; this executable takes 1 to {limits.max_rows}")
        if not 0 < num_sequences <= limits.max_sequences:
            raise ValueError(f"{num_sequences} sequences; this executable takes 1 to {limits.max_sequences}")
        if num_columns > self._max_blocks:
            raise ValueError(f"block tables have {num_columns} columns; at most {self._max_blocks} fit max_context")
        if len(step.outputs) > limits.max_rows:
            raise ValueError(f"{len(step.outputs)} outputs; at most {limits.max_rows}")
        _within("tokens", step.tokens, self._vocab_size)
        _within("positions", step.positions, limits.max_context)
        _within("sequences", step.sequences, num_sequences)
        _within("outputs", step.outputs, step.num_rows)
        if step.adapters is not None:
            unknown = set(np.unique(step.adapters).tolist()) - self._adapters - {-1}
            if unknown:
                raise ValueError(f"step.adapters names {min(unknown)}, which the program does not have")

    def _check_rows(self, step: Step) -> None:
        jumps = np.diff(step.sequences)
        if (jumps < 0).any():
            raise ValueError("step.sequences must not decrease: rows of one sequence stand together")
        if (np.diff(step.positions)[jumps == 0] != 1).any():
            raise ValueError("positions of one sequence must be consecutive")

    def _check_blocks(self, step: Step, num_blocks: int) -> None:
        tables = step.block_tables
        last_row = np.flatnonzero(np.append(np.diff(step.sequences) != 0, True))
        owners, lengths = step.sequences[last_row], step.positions[last_row] // BLOCK_TOKENS + 1
        if int(lengths.max()) > tables.shape[1]:
            raise ValueError(f"a sequence needs {int(lengths.max())} blocks; its table has {tables.shape[1]} columns")
        used = np.arange(tables.shape[1]) < lengths[:, None]
        named = tables[owners][used]
        if (named < 0).any() or (named >= num_blocks).any():
            raise ValueError(f"a block lies outside the pool of {num_blocks}: {int(named.min())}..{int(named.max())}")
        blocks = tables[step.sequences, step.positions // BLOCK_TOKENS].astype(np.int64)
        places = np.sort(blocks * BLOCK_TOKENS + step.positions % BLOCK_TOKENS)
        if (np.diff(places) == 0).any():
            raise ValueError("two rows would write to the same place of the pool")


def _within(name: str, values: NDArray[np.int32], end: int) -> None:
    if len(values) and not (int(values.min()) >= 0 and int(values.max()) < end):
        raise ValueError(f"step.{name} must be in [0, {end}), not {int(values.min())}..{int(values.max())}")
