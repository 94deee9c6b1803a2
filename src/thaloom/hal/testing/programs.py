"""Small random programs: one for each operator and attribute, and whole tiny models. Equal seeds, equal programs.

Every program begins with an embedding, so that rows differ by token, and inputs are of unit scale, as the
tolerances of hal/ops.py assume.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.ops import Activation, Program, ProgramBuilder, RopeScaling, Slot
from thaloom.hal.quantise import convertible, quantise
from thaloom.hal.tensors import GROUP, QuantTensor, Tensor, bf16_from_f32
from thaloom.hal.types import DType, WeightFormat

F32 = NDArray[np.float32]
VOCAB_SIZE = 61
WIDTH = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A program with weights. `name` is `operator.variant`."""

    name: str
    program: Program
    weights: dict[str, Tensor | QuantTensor]
    kv_dtype: DType = "f32"
    weight_format: WeightFormat = "stored"
    adapters: tuple[int, ...] = (-1,)
    """LoRA adapters its sequences may use."""
    cuttable: bool = True
    """Whether a sequence may be cut into chunks: not with attention that looks ahead."""

    @property
    def num_instructions(self) -> int:
        return len(self.program.instructions)


@dataclass(slots=True)
class Recipe:
    """A builder, and what the program needs beside it."""

    builder: ProgramBuilder = field(default_factory=ProgramBuilder)
    kv_dtype: DType = "f32"
    adapters: tuple[int, ...] = (-1,)
    cuttable: bool = True

    def start(self, width: int = WIDTH) -> Slot:
        return self.builder.embedding("embedding", vocab_size=VOCAB_SIZE, width=width)

    def end(self, x: Slot) -> None:
        self.builder.pool(x, normalise=False)


def make_weights(program: Program, seed: int, dtype: DType = "f32") -> dict[str, Tensor | QuantTensor]:
    """Random weights that keep rows at unit scale: matrices are scaled by 1/sqrt(inputs), norms are near 1."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor | QuantTensor] = {}
    for name, shape in program.weights.items():
        values: F32 = rng.standard_normal(shape, dtype=np.float32)
        if name != "embedding" and len(shape) > 1:
            values /= np.float32(math.sqrt(shape[-1]))
        elif name.endswith("norm"):
            values = np.float32(1) + values * np.float32(0.1)
        tensors[name] = store(values, dtype)
    return tensors


def store(values: F32, dtype: DType) -> Tensor:
    """As a tensor of dtype f32, f16 or bf16."""
    if dtype == "bf16":
        return Tensor("bf16", bf16_from_f32(values))
    if dtype == "f16":
        return Tensor("f16", values.astype(np.float16))
    return Tensor("f32", np.ascontiguousarray(values, dtype=np.float32))


def operator_names() -> list[str]:
    """Operators that have cases."""
    return sorted({name.split(".")[0] for name in _RECIPES})


def operator_cases(operator: str, *, dtype: DType = "f32", seed: int = 0) -> list[Case]:
    """All variants of one operator."""
    return [
        _case(name, write, dtype, seed)
        for name, write in sorted(_RECIPES.items())
        if name.split(".")[0] == operator and not (dtype != "f32" and name in _F32_ONLY)
    ]


def whole_number_cases(weight_format: WeightFormat, *, dtype: DType = "f32", seed: int = 0) -> list[Case]:
    """Every operator whose matrices the format is about, with widths that are whole groups of columns."""
    return [
        dataclasses.replace(_case(name, write, dtype, seed), weight_format=weight_format)
        for name, write in sorted(_RECIPES.items())
        if name.endswith("groups_of_32")
    ]


def tiny_model(
    seed: int, *, dtype: DType = "f32", kv_dtype: DType = "f32", weight_format: WeightFormat = "stored"
) -> Case:
    """A random dense decoder of one to three layers, with random attributes that real families have.

    Unless its weights are stored as they come, its widths are whole groups of 32 columns, but for some attention's.
    """

    def write(recipe: Recipe) -> None:
        recipe.kv_dtype = kv_dtype
        _write_tiny_model(recipe, np.random.default_rng(seed), 1 if weight_format == "stored" else GROUP)

    return dataclasses.replace(_case(f"model.{seed}", write, dtype, seed), weight_format=weight_format)


def arrived_whole(case: Case) -> Case:
    """The same case with its matrices in whole numbers already, whatever the driver is told to make of floats; 8 bits
    in groups of 32 columns everywhere."""
    weights = dict(case.weights)
    for name in convertible(case.program):
        values = weights[name].to_f32()
        weights[name] = quantise(values, 4 if case.weight_format == "int4" else 8)
    return dataclasses.replace(case, weights=weights, weight_format="stored")


def _case(name: str, write: Callable[[Recipe], None], dtype: DType, seed: int) -> Case:
    recipe = Recipe()
    write(recipe)
    program = recipe.builder.build()
    weights = make_weights(program, seed, dtype)
    if name == "moe.ties":
        # zeros, so that scores are equal in any arithmetic: equal rows may differ by a bit from lane to lane
        weights["moe.router"] = store(np.zeros_like(weights["moe.router"].to_f32()), dtype)
    return Case(
        name=name,
        program=program,
        weights=weights,
        kv_dtype=recipe.kv_dtype,
        adapters=recipe.adapters,
        cuttable=recipe.cuttable,
    )


def _write_tiny_model(recipe: Recipe, rng: np.random.Generator, unit: int) -> None:
    builder = recipe.builder
    head_size = int(rng.choice([6, 8, 16]))
    num_kv_heads, group = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    num_heads = num_kv_heads * group
    width, mlp_size = int(rng.integers(5, 12)) * 4, int(rng.integers(10, 40)) * 2
    width, mlp_size = (-(-size // unit) * unit for size in (width, mlp_size))
    biased, qk_norm, tied = (bool(rng.integers(2)) for _ in range(3))
    window = int(rng.choice([0, 0, 5, 20]))
    x = builder.embedding("embedding", vocab_size=VOCAB_SIZE, width=width)

    def linear(x: Slot, name: str, width: int) -> Slot:
        return builder.linear(x, name, width=width, bias=f"{name}.bias" if biased else None)

    for layer in range(int(rng.integers(1, 4))):
        normed = builder.rmsnorm(x, f"{layer}.norm", eps=1e-5)
        q = linear(normed, f"{layer}.q", num_heads * head_size)
        k = linear(normed, f"{layer}.k", num_kv_heads * head_size)
        v = linear(normed, f"{layer}.v", num_kv_heads * head_size)
        if qk_norm:
            q = builder.rmsnorm(q, f"{layer}.q_norm", eps=1e-6, group=head_size)
            k = builder.rmsnorm(k, f"{layer}.k_norm", eps=1e-6, group=head_size)
        q, k = (builder.rope(slot, head_size=head_size, base=10000.0) for slot in (q, k))
        attended = builder.paged_attention(
            q, k, v, num_heads=num_heads, num_kv_heads=num_kv_heads, head_size=head_size, window=window
        )
        x = builder.add(x, linear(attended, f"{layer}.o", width))
        normed = builder.rmsnorm(x, f"{layer}.mlp_norm", eps=1e-5)
        hidden = builder.gated(linear(normed, f"{layer}.gate", mlp_size), linear(normed, f"{layer}.up", mlp_size))
        x = builder.add(x, linear(hidden, f"{layer}.down", width))
    x = builder.rmsnorm(x, "norm", eps=1e-5)
    builder.logits(x, "embedding" if tied else "head", vocab_size=VOCAB_SIZE)


def _embedding(scale: float) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        builder = recipe.builder
        recipe.end(builder.embedding("embedding", vocab_size=VOCAB_SIZE, width=WIDTH, scale=scale))

    return write


def _rmsnorm(*, group: int = 0, offset: float = 0.0, eps: float = 1e-6) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        recipe.end(recipe.builder.rmsnorm(recipe.start(), "norm", eps=eps, group=group, offset=offset))

    return write


def _linear(width: int, *, inputs: int = WIDTH, bias: str | None = None) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        recipe.end(recipe.builder.linear(recipe.start(inputs), "linear", width=width, bias=bias))

    return write


def _rope(
    rotary_size: int | None = None,
    *,
    interleaved: bool = False,
    scaling: RopeScaling | None = None,
) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        turned = recipe.builder.rope(
            recipe.start(),
            head_size=16,
            base=1000.0,
            rotary_size=rotary_size,
            interleaved=interleaved,
            scaling=scaling,
        )
        recipe.end(turned)

    return write


def _attention(
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 8,
    value_size: int | None = None,
    values: bool = True,
    scale: float | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
    alibi: tuple[float, ...] = (),
    kv_dtype: DType = "f32",
) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        builder, x = recipe.builder, recipe.start()
        recipe.kv_dtype, recipe.cuttable = kv_dtype, causal
        v_width = kv_heads * (head_size if value_size is None else value_size)
        q = builder.linear(x, "q", width=heads * head_size)
        k = builder.linear(x, "k", width=kv_heads * head_size)
        v = builder.linear(x, "v", width=v_width) if values else None
        attended = builder.paged_attention(
            builder.rope(q, head_size=head_size, base=100.0),
            builder.rope(k, head_size=head_size, base=100.0),
            v,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_size=head_size,
            value_size=value_size,
            scale=scale,
            causal=causal,
            window=window,
            softcap=softcap,
            alibi=alibi,
        )
        recipe.end(attended)

    return write


def _gated(activation: Activation) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        builder, x = recipe.builder, recipe.start()
        gate = builder.linear(x, "gate", width=WIDTH, bias="gate.bias")
        recipe.end(builder.gated(gate, x, activation=activation))

    return write


def _add(recipe: Recipe) -> None:
    x = recipe.start()
    recipe.end(recipe.builder.add(x, recipe.builder.linear(x, "linear", width=WIDTH)))


def _moe(
    *,
    top_k: int,
    width: int = WIDTH,
    expert_width: int = 20,
    normalise: bool = True,
    scale: float = 1.0,
    activation: Activation = "silu",
) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        mixed = recipe.builder.moe(
            recipe.start(width),
            "moe",
            num_experts=6,
            expert_width=expert_width,
            top_k=top_k,
            normalise=normalise,
            scale=scale,
            activation=activation,
        )
        recipe.end(mixed)

    return write


def _lora(recipe: Recipe) -> None:
    builder, x = recipe.builder, recipe.start()
    y = builder.linear(x, "linear", width=30)
    for adapter, rank in ((0, 4), (1, 7)):
        y = builder.lora(x, y, a=f"a{adapter}", b=f"b{adapter}", rank=rank, scale=0.5 + adapter, adapter=adapter)
    recipe.adapters = (-1, 0, 1)
    recipe.end(y)


def _pool(normalise: bool) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        recipe.builder.pool(recipe.start(), normalise=normalise)

    return write


def _logits(
    scale: float = 1.0, softcap: float = 0.0, *, inputs: int = WIDTH, weight: str = "head"
) -> Callable[[Recipe], None]:
    def write(recipe: Recipe) -> None:
        recipe.builder.logits(recipe.start(inputs), weight, vocab_size=VOCAB_SIZE, scale=scale, softcap=softcap)

    return write


_LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_context=32, low_freq_factor=1.0, high_freq_factor=4.0)
_YARN = RopeScaling(kind="yarn", factor=4.0, original_context=32)
_YARN_GIVEN = RopeScaling(kind="yarn", factor=4.0, original_context=64, beta_fast=8.0, attention_factor=0.9)

_RECIPES: dict[str, Callable[[Recipe], None]] = {
    "embedding.plain": _embedding(1.0),
    "embedding.scaled": _embedding(6.5),
    "rmsnorm.row": _rmsnorm(),
    "rmsnorm.groups": _rmsnorm(group=12),
    "rmsnorm.offset": _rmsnorm(offset=1.0, eps=1e-3),
    "linear.plain": _linear(37),
    "linear.bias": _linear(64, bias="bias"),
    "linear.one_column": _linear(1),
    "linear.odd_inputs": _linear(33, inputs=29, bias="bias"),
    "linear.long": _linear(8, inputs=1024),
    "linear.wide": _linear(300, inputs=257, bias="bias"),
    "linear.groups_of_32": _linear(50, inputs=96, bias="bias"),
    "linear.long_groups_of_32": _linear(33, inputs=2048),
    "rope.halves": _rope(),
    "rope.partial": _rope(8),
    "rope.interleaved": _rope(interleaved=True),
    "rope.partial_interleaved": _rope(6, interleaved=True),
    "rope.linear": _rope(scaling=RopeScaling(kind="linear", factor=3.0)),
    "rope.llama3": _rope(scaling=_LLAMA3),
    "rope.yarn": _rope(scaling=_YARN),
    "rope.yarn_given": _rope(scaling=_YARN_GIVEN),
    "paged_attention.all_heads": _attention(heads=3, kv_heads=3),
    "paged_attention.grouped": _attention(heads=6, kv_heads=2),
    "paged_attention.one_kv_head": _attention(heads=5, kv_heads=1, head_size=6),
    "paged_attention.head_64": _attention(heads=4, kv_heads=2, head_size=64),
    "paged_attention.head_128": _attention(heads=3, kv_heads=1, head_size=128),
    "paged_attention.value_size": _attention(head_size=10, value_size=7),
    "paged_attention.scale": _attention(scale=0.2),
    "paged_attention.window": _attention(window=5),
    "paged_attention.window_beyond_block": _attention(window=19),
    "paged_attention.softcap": _attention(softcap=1.5),
    "paged_attention.alibi": _attention(alibi=(0.5, 0.25, 0.125, 0.0625)),
    "paged_attention.not_causal": _attention(causal=False),
    "paged_attention.not_causal_window": _attention(causal=False, window=4),
    "paged_attention.key_prefix": _attention(heads=4, kv_heads=1, head_size=12, value_size=8, values=False),
    "paged_attention.everything": _attention(window=9, softcap=2.0, alibi=(0.5, 0.25, 0.125, 0.0625), value_size=5),
    "gated.silu": _gated("silu"),
    "gated.gelu": _gated("gelu"),
    "gated.gelu_tanh": _gated("gelu_tanh"),
    "gated.relu": _gated("relu"),
    "add.plain": _add,
    "moe.normalised": _moe(top_k=2),
    "moe.plain": _moe(top_k=3, normalise=False, scale=2.5),
    "moe.one": _moe(top_k=1, activation="gelu_tanh"),
    "moe.ties": _moe(top_k=2),
    "moe.groups_of_32": _moe(top_k=2, width=64, expert_width=32),
    "lora.two": _lora,
    "pool.plain": _pool(False),
    "pool.normalised": _pool(True),
    "logits.plain": _logits(),
    "logits.scaled": _logits(scale=0.5),
    "logits.softcap": _logits(scale=2.0, softcap=3.0),
    "logits.groups_of_32": _logits(scale=0.5, inputs=64),
    "logits.tied_groups_of_32": _logits(scale=0.1, inputs=96, weight="embedding"),
}

_F32_ONLY = frozenset({"moe.normalised", "moe.plain", "moe.one", "moe.groups_of_32"})
"""Routing turns on the last bit: with rounded arithmetic another expert may be right. Ties stay: all are equal."""
