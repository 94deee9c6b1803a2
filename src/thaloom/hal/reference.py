"""The NumPy reference: the definition of what each operator means, in f32, one instruction after another.

Rows are independent to the bit, by construction: whatever sums or calls a transcendental function does so in one
call per row, whose shapes and strides depend on that row alone; only single correctly-rounded operations (+ - * /
and copies) run over all rows at once. BLAS is avoided because it picks kernels, blocking and threads by the
number of rows; `c_einsum` has one thread and one order of summation for given shapes.

Legend: R rows, S sequences, N query heads, K key/value heads, D head size, E value size, L context of a row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from thaloom.hal.blocks import BlockStore, block_bytes
from thaloom.hal.host import F32, Budget, HostBackend
from thaloom.hal.ops import (
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
    rope_frequencies,
)
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import Device, DType, Support

SUPPORT = Support(
    levels=dict.fromkeys(sorted(set(OPERATORS) - {"sample"}), "L3"),
    exact=True,
    weight_dtypes=frozenset({"f32", "bf16", "f16"}),
    kv_dtypes=frozenset({"f32", "bf16", "f16", "i8"}),
    weight_formats=frozenset({"stored", "int8", "int4"}),
)
"""What the reference runs: everything but `sample`, which the host does."""


class ReferenceBackend(HostBackend):
    """A driver.Backend that interprets programs. `degraded` says why nothing faster runs, if that is a loss."""

    def __init__(self, device: Device, *, degraded: str | None = None, budget: Budget | None = None) -> None:
        super().__init__(device, SUPPORT, evaluate, degraded=degraded, budget=budget)


class ReferencePool(BlockStore):
    """A store of `num_blocks` zeroed blocks of its own."""

    def __init__(self, program: Program, num_blocks: int, kv_dtype: DType = "f32") -> None:
        super().__init__(program, kv_dtype, np.zeros(num_blocks * block_bytes(program, kv_dtype), np.uint8))


def run_reference(program: Program, weights: Mapping[str, Tensor | QuantTensor], step: Step, kv: BlockStore) -> F32:
    """Result of the program for one step, (num_outputs, width); the step's keys and values are stored in `kv`.

    The step is trusted (hal/checks.py checks steps); weights are converted on each call.
    """
    return evaluate(program, {name: weights[name].to_f32() for name in program.weights}, step, kv)


def evaluate(program: Program, weights: Mapping[str, F32], step: Step, kv: BlockStore) -> F32:
    """As run_reference, with the weights in f32 already."""
    context = _Context(weights=weights, step=step, kv=kv)
    for instruction in program.instructions:
        context.slots[instruction.out] = _EVALUATE[type(instruction)](instruction, context)
    return context.slots[program.instructions[-1].out]


@dataclasses.dataclass(slots=True, kw_only=True)
class _Context:
    """What instructions of one step share."""

    weights: Mapping[str, F32]
    step: Step
    kv: BlockStore
    slots: dict[int, F32] = dataclasses.field(default_factory=dict)
    rotations: dict[Rope, tuple[F32, F32]] = dataclasses.field(default_factory=dict)


def _f32(value: float) -> F32:
    """A scalar that keeps f32 arrays in f32, whatever NumPy's promotion rules."""
    return np.asarray(value, np.float32)


def matvec(matrix: F32, vector: F32) -> F32:
    """(out, in) times (in,), summed in the order that depends on `in` alone."""
    out: F32 = np.einsum("oi,i->o", matrix, vector)
    return out


def softmax(scores: F32) -> F32:
    """Over the last axis of one row's scores."""
    weights: F32 = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: F32 = weights / weights.sum(axis=-1, keepdims=True, dtype=np.float32)
    return shares


def activate(x: F32, kind: Activation) -> F32:
    """One row through an activation function."""
    if kind == "relu":
        return np.maximum(x, _f32(0))
    if kind == "silu":
        with np.errstate(over="ignore"):  # exp(-x) = inf gives x / inf = 0, which is right
            return x / (_f32(1) + np.exp(-x))
    if kind == "gelu_tanh":
        inner = _f32(math.sqrt(2 / math.pi)) * (x + _f32(0.044715) * x * x * x)
        return _f32(0.5) * x * (_f32(1) + np.tanh(inner))
    erf = np.fromiter((math.erf(value) for value in (x.astype(np.float64) / math.sqrt(2)).flat), np.float32, x.size)
    return _f32(0.5) * x * (_f32(1) + erf.reshape(x.shape))


def softcapped(x: F32, cap: float) -> F32:
    """cap * tanh(x / cap) of one row, or x where cap is 0."""
    return _f32(cap) * np.tanh(x / _f32(cap)) if cap else x


def _each_row(function: Callable[[F32], F32], x: F32, width: int) -> F32:
    out = np.empty((len(x), width), np.float32)
    for row, values in zip(out, x, strict=True):
        row[...] = function(values)
    return out


def _embedding(op: Embedding, context: _Context) -> F32:
    return context.weights[op.weight][context.step.tokens] * _f32(op.scale)


def _rmsnorm(op: RmsNorm, context: _Context) -> F32:
    x, weight = context.slots[op.x], context.weights[op.weight]
    groups = x.reshape(len(x), -1, len(weight))
    sums = np.stack([np.einsum("gi,gi->g", row, row) for row in groups])
    scale = _f32(1) / np.sqrt(sums / _f32(len(weight)) + _f32(op.eps))
    return (groups * scale[:, :, None] * (_f32(op.offset) + weight)).reshape(x.shape)


def _linear(op: Linear, context: _Context) -> F32:
    matrix = context.weights[op.weight]
    out = _each_row(lambda row: matvec(matrix, row), context.slots[op.x], len(matrix))
    return out if op.bias is None else out + context.weights[op.bias]


def _rope(op: Rope, context: _Context) -> F32:
    x = context.slots[op.x]
    cos, sin = _rotation(op, context)
    heads = x.reshape(len(x), -1, op.head_size)
    half = op.rotary_size // 2
    if op.interleaved:
        first, second = slice(0, op.rotary_size, 2), slice(1, op.rotary_size, 2)
    else:
        first, second = slice(0, half), slice(half, op.rotary_size)
    out = heads.copy()
    out[..., first] = heads[..., first] * cos - heads[..., second] * sin
    out[..., second] = heads[..., second] * cos + heads[..., first] * sin
    return out.reshape(x.shape)


def _rotation(op: Rope, context: _Context) -> tuple[F32, F32]:
    """cos and sin for each row and pair, (R, 1, rotary_size/2); made once a step for equal ropes."""
    key = dataclasses.replace(op, x=op.out)  # neither slot matters
    key = dataclasses.replace(key, x=0, out=0)  # type: ignore[arg-type]
    if key not in context.rotations:
        frequencies, factor = rope_frequencies(op)
        angles = context.step.positions.astype(np.float64)[:, None] * frequencies
        cos = np.stack([np.cos(row) for row in angles]) * factor
        sin = np.stack([np.sin(row) for row in angles]) * factor
        context.rotations[key] = (cos.astype(np.float32)[:, None], sin.astype(np.float32)[:, None])
    return context.rotations[key]


def _paged_attention(op: PagedAttention, context: _Context) -> F32:
    step, slots = context.step, context.slots
    context.kv.write(op.layer, step, slots[op.k], None if op.v is None else slots[op.v])
    queries = slots[op.q].reshape(step.num_rows, op.num_kv_heads, -1, op.head_size)
    out = np.empty((step.num_rows, op.num_heads * op.value_size), np.float32)
    for sequence in np.unique(step.sequences):
        rows = np.flatnonzero(step.sequences == sequence)
        length = int(step.positions[rows[-1]]) + 1
        keys, values = context.kv.read(op.layer, step.block_tables[sequence], length)
        if op.value_is_key_prefix:
            values = keys[..., : op.value_size]
        for row in rows:
            position = int(step.positions[row])
            end = position + 1 if op.causal else length
            start = max(0, position + 1 - op.window) if op.window else 0
            out[row] = _attend(op, queries[row], keys[start:end], values[start:end], start - position)
    return out


def _attend(op: PagedAttention, q: F32, keys: F32, values: F32, first: int) -> F32:
    """One row. q: (K, N/K, D); keys: (L, K, D); values: (L, K, E); `first`: distance of keys[0] from the row, <= 0."""
    scores = np.einsum("kgd,jkd->kgj", q, keys) * _f32(op.scale)
    scores = softcapped(scores, op.softcap)
    if op.alibi:
        slopes = np.asarray(op.alibi, np.float32).reshape(op.num_kv_heads, -1, 1)
        scores = scores + slopes * np.arange(first, first + len(keys), dtype=np.float32)
    out: F32 = np.einsum("kgj,jke->kge", softmax(scores), values)
    return out.reshape(-1)


def _gated(op: Gated, context: _Context) -> F32:
    gate, up = context.slots[op.gate], context.slots[op.up]
    return _each_row(lambda row: activate(row, op.activation), gate, gate.shape[1]) * up


def _add(op: Add, context: _Context) -> F32:
    return context.slots[op.a] + context.slots[op.b]


def _moe(op: Moe, context: _Context) -> F32:
    router, gate, up, down = (context.weights[name] for name in (op.router, op.gate, op.up, op.down))

    def mix(row: F32) -> F32:
        probabilities = softmax(matvec(router, row))
        chosen = np.argsort(-probabilities, kind="stable")[: op.top_k]
        shares = probabilities[chosen]
        if op.normalise:
            shares = shares / shares.sum(dtype=np.float32)
        out = np.zeros(down.shape[1], np.float32)
        for expert, share in zip(chosen, shares * _f32(op.scale), strict=True):
            hidden = activate(matvec(gate[expert], row), op.activation) * matvec(up[expert], row)
            out += share * matvec(down[expert], hidden)
        return out

    x = context.slots[op.x]
    return _each_row(mix, x, x.shape[1])


def _lora(op: Lora, context: _Context) -> F32:
    out = context.slots[op.y].copy()
    adapters = context.step.adapters
    if adapters is not None:
        a, b, x = context.weights[op.a], context.weights[op.b], context.slots[op.x]
        for row in np.flatnonzero(adapters == op.adapter):
            out[row] += _f32(op.scale) * matvec(b, matvec(a, x[row]))
    return out


def _pool(op: Pool, context: _Context) -> F32:
    x = context.slots[op.x][context.step.outputs]
    if not op.normalise:
        return x

    def normalised(row: F32) -> F32:
        length: F32 = np.maximum(np.sqrt(np.einsum("i,i->", row, row)), _f32(1e-12))
        return row / length

    return _each_row(normalised, x, x.shape[1])


def _logits(op: Logits, context: _Context) -> F32:
    if context.step.states:
        return context.slots[op.x][context.step.outputs]
    matrix = context.weights[op.weight]

    def score(row: F32) -> F32:
        return softcapped(matvec(matrix, row) * _f32(op.scale), op.softcap)

    return _each_row(score, context.slots[op.x][context.step.outputs], len(matrix))


_EVALUATE: dict[type[Instruction], Callable[..., F32]] = {
    Embedding: _embedding,
    RmsNorm: _rmsnorm,
    Linear: _linear,
    Rope: _rope,
    PagedAttention: _paged_attention,
    Gated: _gated,
    Add: _add,
    Moe: _moe,
    Lora: _lora,
    Pool: _pool,
    Logits: _logits,
}
