"""A program in the form the native library reads: arrays of plain structs (native/cpu/thaloom_cpu.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thaloom.base.errors import NotServable
from thaloom.hal import ops
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.native import Op
from thaloom.hal.ops import Instruction, Program

ACTIVATIONS: dict[ops.Activation, int] = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


@dataclass(slots=True)
class Encoded:
    """A native Program and the arrays it points to, which must live as long as a call that reads it."""

    program: native.Program
    keep: list[Any] = field(default_factory=list)


def encode(
    program: Program,
    weights: Mapping[str, native.Weight],
    *,
    kv_dtype: int,
    num_threads: int,
    max_rows: int,
    max_sequences: int,
    max_context: int,
) -> Encoded:
    """Raises NotServable for an operator without an encoding, ValueError for rope scaling that makes no sense."""
    encoder = _Encoder(program)
    for instruction in program.instructions:
        encoder.add(instruction)
    instructions = (native.Instruction * len(encoder.instructions))(*encoder.instructions)
    widths = (ctypes.c_uint32 * len(program.widths))(*program.widths)
    structs = (native.Weight * len(program.weights))(*(weights[name] for name in program.weights))
    tables = np.ascontiguousarray(encoder.tables, np.float64)
    result = native.Program(
        abi=native.ABI,
        struct_bytes=ctypes.sizeof(native.Program),
        num_instructions=len(instructions),
        num_slots=len(widths),
        num_weights=len(structs),
        num_table_values=len(tables),
        instructions=ctypes.addressof(instructions),
        widths=ctypes.addressof(widths),
        weights=ctypes.addressof(structs),
        tables=tables.ctypes.data,
        kv_dtype=kv_dtype,
        num_threads=num_threads,
        max_rows=max_rows,
        max_sequences=max_sequences,
        max_context=max_context,
    )
    return Encoded(result, [instructions, widths, structs, tables])


class _Encoder:
    def __init__(self, program: Program) -> None:
        self.instructions: list[native.Instruction] = []
        self.tables: list[float] = []
        self._weights = {name: number for number, name in enumerate(program.weights)}
        self._placed: dict[tuple[float, ...], int] = {}

    def add(self, instruction: Instruction) -> None:
        if type(instruction) not in _ENCODE:
            raise NotServable(f"operator {instruction.op!r} is not supported here", operator=instruction.op)
        _ENCODE[type(instruction)](self, instruction)

    def _put(
        self,
        op: Op,
        out: int,
        *,
        slots: tuple[int | None, ...] = (),
        weights: tuple[str | None, ...] = (),
        numbers: tuple[int, ...] = (),
        reals: tuple[float, ...] = (),
        table: tuple[float, ...] = (),
    ) -> None:
        told = native.Instruction(op=int(op), out=out, table=self._place(table), table_length=len(table))
        told.slots[:] = _padded([-1 if slot is None else slot for slot in slots], 3, -1)
        told.weights[:] = _padded([-1 if name is None else self._weights[ops.Weight(name)] for name in weights], 4, -1)
        told.numbers[:] = _padded(list(numbers), 7, 0)
        told.reals[:] = _padded(list(reals), 3, 0.0)
        self.instructions.append(told)

    def _place(self, table: tuple[float, ...]) -> int:
        """Where the table starts; equal ones share a place, so that angles are computed once a step."""
        if table not in self._placed:
            self._placed[table] = len(self.tables)
            self.tables.extend(table)
        return self._placed[table]

    def embedding(self, op: ops.Embedding) -> None:
        self._put(Op.EMBEDDING, op.out, weights=(op.weight,), reals=(op.scale,))

    def rmsnorm(self, op: ops.RmsNorm) -> None:
        self._put(
            Op.RMSNORM, op.out, slots=(op.x,), weights=(op.weight,), numbers=(op.group,), reals=(op.eps, op.offset)
        )

    def linear(self, op: ops.Linear) -> None:
        self._put(Op.LINEAR, op.out, slots=(op.x,), weights=(op.weight, op.bias))

    def rope(self, op: ops.Rope) -> None:
        frequencies, factor = ops.rope_frequencies(op)
        self._put(
            Op.ROPE,
            op.out,
            slots=(op.x,),
            numbers=(op.head_size, op.rotary_size, int(op.interleaved)),
            reals=(factor,),
            table=tuple(frequencies.tolist()),
        )

    def paged_attention(self, op: ops.PagedAttention) -> None:
        numbers = (op.num_heads, op.num_kv_heads, op.head_size, op.value_size, int(op.causal), op.window)
        self._put(
            Op.ATTENTION,
            op.out,
            slots=(op.q, op.k, op.v),
            numbers=numbers,
            reals=(op.scale, op.softcap),
            table=tuple(op.alibi),
        )

    def gated(self, op: ops.Gated) -> None:
        self._put(Op.GATED, op.out, slots=(op.gate, op.up), numbers=(ACTIVATIONS[op.activation],))

    def add_(self, op: ops.Add) -> None:
        self._put(Op.ADD, op.out, slots=(op.a, op.b))

    def pool(self, op: ops.Pool) -> None:
        self._put(Op.POOL, op.out, slots=(op.x,), numbers=(int(op.normalise),))

    def logits(self, op: ops.Logits) -> None:
        self._put(Op.LOGITS, op.out, slots=(op.x,), weights=(op.weight,), reals=(op.scale, op.softcap))

    def moe(self, op: ops.Moe) -> None:
        self._put(
            Op.MOE,
            op.out,
            slots=(op.x,),
            weights=(op.router, op.gate, op.up, op.down),
            numbers=(op.top_k, int(op.normalise), ACTIVATIONS[op.activation]),
            reals=(op.scale,),
        )

    def lora(self, op: ops.Lora) -> None:
        self._put(Op.LORA, op.out, slots=(op.x, op.y), weights=(op.a, op.b), numbers=(op.adapter,), reals=(op.scale,))


_ENCODE: dict[type[Instruction], Callable[[_Encoder, Any], None]] = {
    ops.Embedding: _Encoder.embedding,
    ops.RmsNorm: _Encoder.rmsnorm,
    ops.Linear: _Encoder.linear,
    ops.Rope: _Encoder.rope,
    ops.PagedAttention: _Encoder.paged_attention,
    ops.Gated: _Encoder.gated,
    ops.Add: _Encoder.add_,
    ops.Pool: _Encoder.pool,
    ops.Logits: _Encoder.logits,
    ops.Moe: _Encoder.moe,
    ops.Lora: _Encoder.lora,
}
OPERATORS = frozenset(kind.op for kind in _ENCODE)
"""What the native library runs."""


def _padded(values: list[Any], length: int, filler: Any) -> Any:
    return values + [filler] * (length - len(values))
