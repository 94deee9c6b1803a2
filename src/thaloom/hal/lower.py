"""Every operator of the contract, composed from a dozen plain tensor operators (level L1).

What a weak chip must offer is `TensorOps`, on whole arrays of shapes that come in few sizes: rows, outputs and
contexts are padded up to powers of two, so that a chip that compiles for each shape compiles seldom. Paged attention
becomes a gather of the sequence's blocks and dense attention under a mask. Slow, and enough to join.

Legend: R rows (padded), N query heads, K key/value heads, G = N/K, D head size, E value size, Q padded rows of one
sequence, L padded context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.blocks import block_bytes
from thaloom.hal.checks import StepChecker, check_limits, check_program, read_weights
from thaloom.hal.driver import Buffer, Limits, WeightSource
from thaloom.hal.host import Budget
from thaloom.hal.ops import (
    BLOCK_TOKENS,
    OPERATORS,
    Activation,
    Add,
    Embedding,
    Gated,
    Instruction,
    Linear,
    Logits,
    Lora,
    Moe,
    PagedAttention,
    Pool,
    Program,
    RmsNorm,
    Rope,
    Step,
    Weight,
    rope_frequencies,
)
from thaloom.hal.quantise import convert
from thaloom.hal.types import Device, Support

A = TypeVar("A")
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Binary = Literal["add", "subtract", "multiply", "divide", "maximum", "equal", "less"]
Unary = Literal["exp", "tanh", "sqrt"]
Reduction = Literal["sum", "max", "argmax"]

MASKED = -1e30
"""Added to scores that a row may not see: finite, so that a padded row that sees nothing gives no NaN."""


class TensorOps(Protocol[A]):
    """Plain operators on whole arrays of one device. `A` is its array: f32, or int32 where it holds indices.

    Shapes broadcast as NumPy's do. Comparisons give 1.0 and 0.0. No operator changes its arguments except `scatter`.
    """

    def upload(self, data: NDArray[np.generic]) -> A: ...
    def download(self, x: A) -> F32: ...
    def zeros(self, shape: Sequence[int]) -> A: ...
    def reshape(self, x: A, shape: Sequence[int]) -> A: ...
    def transpose(self, x: A, axes: Sequence[int]) -> A: ...

    def matmul(self, a: A, b: A) -> A:
        """(..., m, k) by (..., k, n), equal leading dimensions, summed in f32 or better."""
        ...

    def gather(self, x: A, indices: A, *, axis: int = 0) -> A:
        """x[indices] along one axis; indices (n,), int32."""
        ...

    def scatter(self, x: A, indices: A, values: A) -> A:
        """x with rows `indices` (n,) replaced by values (n, ...); may be `x` itself. Repeated indices: any wins."""
        ...

    def binary(self, kind: Binary, a: A, b: A) -> A: ...
    def unary(self, kind: Unary, x: A) -> A: ...

    def reduce(self, kind: Reduction, x: A) -> A:
        """Over the last axis, which stays with size 1. `argmax` gives the lowest index, as f32."""
        ...

    def softmax(self, x: A) -> A:
        """Over the last axis."""
        ...


SUPPORT = Support(
    levels=dict.fromkeys(sorted(set(OPERATORS) - {"sample"}), "L1"),
    exact=False,
    weight_dtypes=frozenset({"f32", "bf16", "f16"}),
    kv_dtypes=frozenset({"f32"}),
    weight_formats=frozenset({"stored", "int8", "int4"}),
)


class LoweredBackend(Generic[A]):
    """driver.Backend over any TensorOps. Without a budget shared with others it has the device's memory to itself."""

    def __init__(
        self, ops: TensorOps[A], device: Device, *, degraded: str | None = None, budget: Budget | None = None
    ) -> None:
        self._ops = ops
        self._device = device
        self._degraded = degraded
        self._budget = budget or Budget(device)

    @property
    def device(self) -> Device:
        return self._device

    @property
    def support(self) -> Support:
        return SUPPORT

    @property
    def degraded(self) -> str | None:
        return self._degraded

    def allocate(self, num_bytes: int) -> LoweredBuffer[A]:
        """A right to that many bytes; they become arrays when a program is bound to them."""
        self._budget.reserve(num_bytes)
        return LoweredBuffer(num_bytes, self._budget.give_back)

    def compile(self, program: Program, weights: WeightSource, limits: Limits) -> LoweredExecutable[A]:
        check_program(program, SUPPORT)
        check_limits(limits, SUPPORT)
        tensors = convert(program, read_weights(program, weights, SUPPORT), limits.weight_format)
        num_bytes = sum(4 * tensor.data.size for tensor in tensors.values())
        self._budget.reserve(num_bytes)
        arrays = {name: tensor.to_f32() for name, tensor in tensors.items()}
        return LoweredExecutable(self._ops, program, arrays, limits, lambda: self._budget.give_back(num_bytes))


class LoweredBuffer(Generic[A]):
    """Bytes of a device whose arrays have no addresses: a count, and whatever arrays were made within it."""

    def __init__(self, num_bytes: int, release: Callable[[int], None]) -> None:
        self._num_bytes = num_bytes
        self._release: Callable[[int], None] | None = release
        self.stores: list[tuple[A, A]] | None = None

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def free(self) -> None:
        if self._release is not None:
            self._release(self._num_bytes)
            self._release, self.stores = None, None


class LoweredExecutable(Generic[A]):
    """driver.Executable that plays a program on TensorOps."""

    def __init__(
        self,
        ops: TensorOps[A],
        program: Program,
        weights: Mapping[str, F32],
        limits: Limits,
        release: Callable[[], None],
    ) -> None:
        self._program = program
        self._limits = limits
        self._checker = StepChecker(program, limits)
        self._weight_bytes = sum(4 * array.size for array in weights.values())
        self._release: Callable[[], None] | None = release
        self._player: _Player[A] | None = _Player(ops, program, weights)
        self._ops = ops
        self._num_blocks = 0
        self._pool: LoweredBuffer[A] | None = None

    @property
    def block_bytes(self) -> int:
        return block_bytes(self._program, self._limits.kv_dtype)

    @property
    def weight_bytes(self) -> int:
        return self._weight_bytes

    @property
    def scratch_bytes(self) -> int:
        return 0

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        """Starts from zeroed blocks: a pool without addresses keeps nothing from one program to the next."""
        if not isinstance(pool, LoweredBuffer):
            raise ValueError("the pool was not allocated by this backend")
        needed = num_blocks * self.block_bytes
        if num_blocks < 0 or needed > pool.num_bytes:
            raise ValueError(f"{num_blocks} blocks need {needed} bytes; the pool has {pool.num_bytes}")
        places = num_blocks * BLOCK_TOKENS
        pool.stores = [
            (
                self._ops.zeros((places, spec.num_kv_heads * spec.head_size)),
                self._ops.zeros((places, spec.num_kv_heads * spec.value_size)),
            )
            for spec in self._program.kv
        ]
        self._pool, self._num_blocks = pool, num_blocks

    def run(self, step: Step) -> F32:
        if self._player is None:
            raise ValueError("this executable was closed")
        self._checker.check(step, self._num_blocks)
        return self._player.play(step, self._stores())

    def copy_block(self, source: int, target: int) -> None:
        for block in (source, target):
            if not 0 <= block < self._num_blocks:
                raise ValueError(f"block {block} is outside the pool of {self._num_blocks}")
        stores, ops = self._stores(), self._ops
        within = np.arange(BLOCK_TOKENS, dtype=np.int32)
        origin, goal = ops.upload(source * BLOCK_TOKENS + within), ops.upload(target * BLOCK_TOKENS + within)
        for layer, (keys, values) in enumerate(stores):
            stores[layer] = (
                ops.scatter(keys, goal, ops.gather(keys, origin)),
                ops.scatter(values, goal, ops.gather(values, origin)),
            )

    def close(self) -> None:
        if self._release is not None:
            self._release()
            self._release, self._player, self._pool = None, None, None

    def _stores(self) -> list[tuple[A, A]]:
        """Keys (places, K*D) and values (places, K*E) of each layer."""
        if not self._program.kv:
            return []
        if self._pool is None or self._pool.stores is None:
            raise ValueError("no pool is bound")
        return self._pool.stores


@dataclass(slots=True, kw_only=True)
class _Stage(Generic[A]):
    """One step on its way through the program. Rows are padded; a padded row repeats row 0 and is thrown away."""

    step: Step
    rows: I32
    """(R,) the step's row behind each padded row"""
    stores: list[tuple[A, A]]
    slots: dict[int, A] = field(default_factory=dict)


class _Player(Generic[A]):
    """A program's weights on the device, and how each operator is composed."""

    def __init__(self, ops: TensorOps[A], program: Program, weights: Mapping[str, F32]) -> None:
        self._ops = ops
        self._program = program
        self._weights = {name: ops.upload(array) for name, array in weights.items()}
        self._play: dict[type[Instruction], Callable[..., A]] = {
            Embedding: self._embedding,
            RmsNorm: self._rmsnorm,
            Linear: self._linear,
            Rope: self._rope,
            PagedAttention: self._paged_attention,
            Gated: self._gated,
            Add: self._add,
            Moe: self._moe,
            Lora: self._lora,
            Pool: self._pool,
            Logits: self._logits,
        }

    def play(self, step: Step, stores: list[tuple[A, A]]) -> F32:
        rows = np.zeros(_padded(step.num_rows), np.int32)
        rows[: step.num_rows] = np.arange(step.num_rows)
        stage = _Stage[A](step=step, rows=rows, stores=stores)
        for instruction in self._program.instructions:
            stage.slots[instruction.out] = self._play[type(instruction)](instruction, stage)
        return self._ops.download(stage.slots[self._program.instructions[-1].out])[: len(step.outputs)]

    def _embedding(self, op: Embedding, stage: _Stage[A]) -> A:
        found = self._ops.gather(self._weights[op.weight], self._ops.upload(stage.step.tokens[stage.rows]))
        return self._scaled(found, op.scale)

    def _rmsnorm(self, op: RmsNorm, stage: _Stage[A]) -> A:
        ops, x = self._ops, stage.slots[op.x]
        width, group = self._width(op.x), self._shape(op.weight)[0]
        groups = ops.reshape(x, (len(stage.rows), width // group, group))
        mean = self._scaled(ops.reduce("sum", ops.binary("multiply", groups, groups)), 1 / group)
        root = ops.unary("sqrt", ops.binary("add", mean, self._scalar(op.eps)))
        weight = ops.binary("add", self._weights[op.weight], self._scalar(op.offset))
        normed = ops.binary("multiply", ops.binary("divide", groups, root), weight)
        return ops.reshape(normed, (len(stage.rows), width))

    def _linear(self, op: Linear, stage: _Stage[A]) -> A:
        out = self._matmul(stage.slots[op.x], self._weights[op.weight])
        return out if op.bias is None else self._ops.binary("add", out, self._weights[op.bias])

    def _rope(self, op: Rope, stage: _Stage[A]) -> A:
        """x * cos + partner(x) * sin, with the sign in sin and 1 and 0 in columns that do not turn."""
        ops, num_rows, width = self._ops, len(stage.rows), self._width(op.x)
        pairs = np.arange(op.rotary_size // 2)
        first = 2 * pairs if op.interleaved else pairs
        second = first + 1 if op.interleaved else pairs + op.rotary_size // 2
        partner = np.arange(op.head_size, dtype=np.int32)
        partner[first], partner[second] = second, first
        frequencies, factor = rope_frequencies(op)
        angles = stage.step.positions[stage.rows].astype(np.float64)[:, None] * frequencies
        cos, sin = np.ones((num_rows, 1, op.head_size)), np.zeros((num_rows, 1, op.head_size))
        cos[:, 0, first] = cos[:, 0, second] = np.cos(angles) * factor
        sin[:, 0, second] = np.sin(angles) * factor
        sin[:, 0, first] = -sin[:, 0, second]
        heads = ops.reshape(stage.slots[op.x], (num_rows, width // op.head_size, op.head_size))
        turned = ops.binary("multiply", ops.gather(heads, ops.upload(partner), axis=2), self._constant(sin))
        return ops.reshape(
            ops.binary("add", ops.binary("multiply", heads, self._constant(cos)), turned), (num_rows, width)
        )

    def _paged_attention(self, op: PagedAttention, stage: _Stage[A]) -> A:
        ops, step = self._ops, stage.step
        self._store(op, stage)
        out = ops.zeros((len(stage.rows), op.num_heads * op.value_size))
        for sequence in np.unique(step.sequences):
            rows = np.flatnonzero(step.sequences == sequence).astype(np.int32)
            attended = self._attend(op, stage, rows, int(sequence))
            goal = ops.upload(rows)
            source = ops.upload(np.arange(len(rows), dtype=np.int32))
            out = ops.scatter(out, goal, ops.gather(attended, source))
        return out

    def _store(self, op: PagedAttention, stage: _Stage[A]) -> None:
        ops, step = self._ops, stage.step
        blocks = step.block_tables[step.sequences, step.positions // BLOCK_TOKENS]
        places = ops.upload((blocks * BLOCK_TOKENS + step.positions % BLOCK_TOKENS).astype(np.int32))
        real = ops.upload(np.arange(step.num_rows, dtype=np.int32))
        keys, values = stage.stores[op.layer]
        keys = ops.scatter(keys, places, ops.gather(stage.slots[op.k], real))
        if op.v is not None:
            values = ops.scatter(values, places, ops.gather(stage.slots[op.v], real))
        stage.stores[op.layer] = (keys, values)

    def _attend(self, op: PagedAttention, stage: _Stage[A], rows: I32, sequence: int) -> A:
        """The rows of one sequence, padded: (Q, N*E)."""
        ops, step = self._ops, stage.step
        length = int(step.positions[rows[-1]]) + 1
        chosen = np.full(_padded(len(rows)), rows[0], np.int32)
        chosen[: len(rows)] = rows
        positions = np.arange(_padded(length))
        table = step.block_tables[sequence]
        seen = np.minimum(positions, length - 1)
        places = ops.upload((table[seen // BLOCK_TOKENS] * BLOCK_TOKENS + seen % BLOCK_TOKENS).astype(np.int32))
        kv_heads, groups, q_size, l_size = op.num_kv_heads, op.num_heads // op.num_kv_heads, len(chosen), len(positions)
        keys, values = (ops.gather(store, places) for store in stage.stores[op.layer])
        keys = ops.reshape(keys, (l_size, kv_heads, op.head_size))
        if op.value_is_key_prefix:
            values = ops.gather(keys, ops.upload(np.arange(op.value_size, dtype=np.int32)), axis=2)
        values = ops.reshape(values, (l_size, kv_heads, op.value_size))
        queries = ops.gather(stage.slots[op.q], ops.upload(chosen))
        queries = ops.transpose(ops.reshape(queries, (q_size, kv_heads, groups, op.head_size)), (1, 2, 0, 3))
        queries = ops.reshape(queries, (kv_heads, groups * q_size, op.head_size))
        scores = self._scaled(ops.matmul(queries, ops.transpose(keys, (1, 2, 0))), op.scale)
        scores = ops.reshape(self._softcapped(scores, op.softcap), (kv_heads, groups, q_size, l_size))
        scores = ops.binary("add", scores, self._bias(op, step.positions[chosen], positions, length))
        weights = ops.reshape(ops.softmax(scores), (kv_heads, groups * q_size, l_size))
        mixed = ops.matmul(weights, ops.transpose(values, (1, 0, 2)))
        mixed = ops.transpose(ops.reshape(mixed, (kv_heads, groups, q_size, op.value_size)), (2, 0, 1, 3))
        return ops.reshape(mixed, (q_size, op.num_heads * op.value_size))

    def _bias(self, op: PagedAttention, rows: I32, positions: NDArray[np.int64], length: int) -> A:
        """What is added to scores: MASKED where a row may not see, and ALiBi. (1 or K, 1 or G, Q, L)."""
        distance = rows[:, None] - positions
        hidden = positions[None, :] >= length
        if op.causal:
            hidden = hidden | (distance < 0)
        if op.window:
            hidden = hidden | (distance >= op.window)
        bias = np.where(hidden, MASKED, 0.0)[None, None]
        if op.alibi:
            slopes = np.asarray(op.alibi).reshape(op.num_kv_heads, -1, 1, 1)
            bias = bias - slopes * distance
        return self._constant(bias)

    def _gated(self, op: Gated, stage: _Stage[A]) -> A:
        return self._ops.binary("multiply", self._activate(stage.slots[op.gate], op.activation), stage.slots[op.up])

    def _add(self, op: Add, stage: _Stage[A]) -> A:
        return self._ops.binary("add", stage.slots[op.a], stage.slots[op.b])

    def _moe(self, op: Moe, stage: _Stage[A]) -> A:
        """All experts for all rows, each weighted by its share, which is 0 where it was not chosen."""
        ops, x = self._ops, stage.slots[op.x]
        num_experts, num_rows = self._shape(op.router)[0], len(stage.rows)
        shares = self._shares(op, ops.softmax(self._matmul(x, self._weights[op.router])), num_experts)
        out = ops.zeros((num_rows, self._width(op.x)))
        for expert in range(num_experts):
            gate, up, down = (self._expert(name, expert) for name in (op.gate, op.up, op.down))
            hidden = self._activate(self._matmul(x, gate), op.activation)
            hidden = ops.binary("multiply", hidden, self._matmul(x, up))
            share = ops.gather(shares, ops.upload(np.array([expert], np.int32)), axis=1)
            out = ops.binary("add", out, ops.binary("multiply", self._matmul(hidden, down), share))
        return self._scaled(out, op.scale)

    def _shares(self, op: Moe, probabilities: A, num_experts: int) -> A:
        """(R, experts): the probabilities of each row's top_k, 0 for the others."""
        ops = self._ops
        numbers = self._constant(np.arange(num_experts))
        left, shares = probabilities, self._scaled(probabilities, 0.0)
        for _ in range(op.top_k):
            chosen = ops.binary("equal", ops.reduce("argmax", left), numbers)
            shares = ops.binary("add", shares, ops.binary("multiply", chosen, probabilities))
            left = ops.binary("subtract", left, self._scaled(chosen, 2.0))
        return ops.binary("divide", shares, ops.reduce("sum", shares)) if op.normalise else shares

    def _expert(self, name: str, expert: int) -> A:
        _, *shape = self._shape(name)
        chosen = self._ops.gather(self._weights[name], self._ops.upload(np.array([expert], np.int32)))
        return self._ops.reshape(chosen, shape)

    def _lora(self, op: Lora, stage: _Stage[A]) -> A:
        ops, adapters = self._ops, stage.step.adapters
        if adapters is None:
            return stage.slots[op.y]
        change = self._matmul(self._matmul(stage.slots[op.x], self._weights[op.a]), self._weights[op.b])
        wanted = self._constant(np.where(adapters[stage.rows] == op.adapter, op.scale, 0.0)[:, None])
        return ops.binary("add", stage.slots[op.y], ops.binary("multiply", change, wanted))

    def _pool(self, op: Pool, stage: _Stage[A]) -> A:
        ops, x = self._ops, self._outputs(stage, op.x)
        if not op.normalise:
            return x
        length = ops.unary("sqrt", ops.reduce("sum", ops.binary("multiply", x, x)))
        return ops.binary("divide", x, ops.binary("maximum", length, self._scalar(1e-12)))

    def _logits(self, op: Logits, stage: _Stage[A]) -> A:
        if stage.step.states:
            return self._outputs(stage, op.x)
        scores = self._matmul(self._outputs(stage, op.x), self._weights[op.weight])
        return self._softcapped(self._scaled(scores, op.scale), op.softcap)

    def _outputs(self, stage: _Stage[A], x: int) -> A:
        wanted = np.zeros(_padded(len(stage.step.outputs)), np.int32)
        wanted[: len(stage.step.outputs)] = stage.step.outputs
        return self._ops.gather(stage.slots[x], self._ops.upload(wanted))

    def _activate(self, x: A, kind: Activation) -> A:
        ops, one = self._ops, self._scalar(1.0)
        if kind == "relu":
            return ops.binary("maximum", x, self._scalar(0.0))
        if kind == "silu":
            return ops.binary("divide", x, ops.binary("add", one, ops.unary("exp", self._scaled(x, -1.0))))
        half = self._scaled(x, 0.5)
        if kind == "gelu":
            return ops.binary("multiply", half, ops.binary("add", one, self._erf(self._scaled(x, math.sqrt(0.5)))))
        cube = ops.binary("multiply", x, ops.binary("multiply", x, x))
        inner = self._scaled(ops.binary("add", x, self._scaled(cube, 0.044715)), math.sqrt(2 / math.pi))
        return ops.binary("multiply", half, ops.binary("add", one, ops.unary("tanh", inner)))

    def _erf(self, x: A) -> A:
        """Within 1.5e-7. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
        ops, one = self._ops, self._scalar(1.0)
        size = ops.binary("maximum", x, self._scaled(x, -1.0))
        t = ops.binary("divide", one, ops.binary("add", one, self._scaled(size, 0.3275911)))
        series = self._scalar(0.0)
        for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
            series = ops.binary("multiply", t, ops.binary("add", series, self._scalar(coefficient)))
        bell = ops.unary("exp", self._scaled(ops.binary("multiply", x, x), -1.0))
        positive = ops.binary("subtract", one, ops.binary("multiply", series, bell))
        sign = ops.binary("subtract", one, self._scaled(ops.binary("less", x, self._scalar(0.0)), 2.0))
        return ops.binary("multiply", sign, positive)

    def _softcapped(self, x: A, cap: float) -> A:
        return self._scaled(self._ops.unary("tanh", self._scaled(x, 1 / cap)), cap) if cap else x

    def _matmul(self, x: A, weight: A) -> A:
        """x (R, in) by weight (out, in)."""
        return self._ops.matmul(x, self._ops.transpose(weight, (1, 0)))

    def _scaled(self, x: A, factor: float) -> A:
        return x if factor == 1.0 else self._ops.binary("multiply", x, self._scalar(factor))

    def _scalar(self, value: float) -> A:
        return self._constant(np.full(1, value))

    def _constant(self, values: NDArray[np.generic]) -> A:
        return self._ops.upload(values.astype(np.float32))

    def _width(self, slot: int) -> int:
        return self._program.widths[slot]

    def _shape(self, weight: str) -> tuple[int, ...]:
        return self._program.weights[Weight(weight)]


def _padded(count: int) -> int:
    """The next power of two, at least 1."""
    return 1 << max(count - 1, 0).bit_length()
