"""What the library runs as one gives the bits that its parts give one by one, and needs less memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.ops import Activation, Program, ProgramBuilder, Slot
from thaloom.hal.tensors import Tensor
from thaloom.hal.testing.bench import NUM_BLOCKS, bench, expect_same
from thaloom.hal.testing.programs import Case, make_weights
from thaloom.hal.testing.schedules import make_sequences, together
from thaloom.hal.types import DType, WeightFormat

VOCAB_SIZE = 61
WIDTH = 64
"""Whole groups of 32 columns, so that every format of weights comes in."""
FORMATS: dict[str, tuple[DType, WeightFormat]] = {
    "f32": ("f32", "stored"),
    "bf16": ("bf16", "stored"),
    "int8": ("bf16", "int8"),
    "int4": ("f32", "int4"),
}
Write = Callable[[ProgramBuilder, Slot, bool], Slot]


def gated(activation: Activation, *, width: int = 150, up_first: bool = False, bias: bool = True) -> Write:
    def write(builder: ProgramBuilder, x: Slot, apart: bool) -> Slot:
        names = ["up", "gate"] if up_first else ["gate", "up"]
        made = {name: builder.linear(x, name, width=width, bias=f"{name}.bias" if bias else None) for name in names}
        if apart:
            builder.add(x, x)  # what stands between them keeps them apart
        return builder.gated(made["gate"], made["up"], activation=activation)

    return write


def residual(*, product_first: bool, bias: bool = True) -> Write:
    def write(builder: ProgramBuilder, x: Slot, apart: bool) -> Slot:
        y = builder.linear(builder.rmsnorm(x, "norm", eps=1e-5), "matrix", width=WIDTH, bias="bias" if bias else None)
        if apart:
            builder.add(x, x)
        return builder.add(y, x) if product_first else builder.add(x, y)

    return write


def rows(builder: ProgramBuilder, x: Slot, apart: bool) -> Slot:
    """Operators by rows, each reading the one before and the first of them again at the end."""
    doubled = builder.add(x, x)
    turned = builder.rope(builder.rmsnorm(doubled, "norm", eps=1e-5), head_size=16, base=100.0)
    if apart:
        builder.linear(x, "idle", width=16)
    return builder.add(turned, builder.add(turned, doubled))


CASES: dict[str, Write] = {
    "gated.silu": gated("silu"),
    "gated.gelu, the other way round": gated("gelu", up_first=True),
    "gated.relu, no bias": gated("relu", bias=False, width=16),
    "gated.one column": gated("gelu_tanh", width=1),
    "residual": residual(product_first=False),
    "residual, the other way round, no bias": residual(product_first=True, bias=False),
    "rows": rows,
}


def program(write: Write, *, apart: bool) -> Program:
    builder = ProgramBuilder()
    x = builder.embedding("embedding", vocab_size=VOCAB_SIZE, width=WIDTH)
    result = builder.linear(write(builder, x, apart), "last", width=33)
    builder.pool(result, normalise=False)
    return builder.build()


def case_of(name: str, shape: Program, weights: Mapping[str, Tensor], weight_format: WeightFormat) -> Case:
    needed = {key: weights[key] for key in shape.weights}
    return Case(name=name, program=shape, weights=needed, weight_format=weight_format)


@pytest.mark.parametrize("stored", sorted(FORMATS))
@pytest.mark.parametrize("name", sorted(CASES))
def test_one_is_what_its_parts_are(build: str, name: str, stored: str) -> None:
    dtype, weight_format = FORMATS[stored]
    whole, apart = (program(CASES[name], apart=apart) for apart in (False, True))
    weights = make_weights(apart, 7, dtype)
    opened = CpuDriver().open(DEVICE_ID, num_threads=3)
    results = []
    for shape in (whole, apart):
        with bench(opened, case_of(name, shape, weights, weight_format)) as ready:
            for num_rows in (1, 2, 5, 13, 40):
                rng = np.random.default_rng(num_rows)
                sequences = make_sequences((num_rows,), rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS)
                results.append([rows.copy() for rows in ready.play(sequences, together(sequences))])
    half = len(results) // 2
    for found, wanted in zip(results[:half], results[half:], strict=True):
        expect_same(case_of(name, whole, weights, weight_format), found, wanted, "what runs as one")


@settings(max_examples=25)
@given(
    parts=st.lists(st.sampled_from(["residual", "gated.silu", "rows", "both"]), min_size=1, max_size=4),
    num_rows=st.integers(1, 60),
    num_threads=st.integers(1, 3),
    stored=st.sampled_from(sorted(FORMATS)),
)
def test_chains_of_them_too(build: str, parts: list[str], num_rows: int, num_threads: int, stored: str) -> None:
    """Slots share memory, so what is one in one place must not write over what is still read in another."""
    dtype, weight_format = FORMATS[stored]

    def chain(apart: bool) -> Program:
        builder = ProgramBuilder()
        x = builder.embedding("embedding", vocab_size=VOCAB_SIZE, width=WIDTH)
        for number, part in enumerate(parts):
            normed = builder.rmsnorm(x, f"{number}.norm", eps=1e-5)
            if part == "rows":
                y = builder.add(normed, builder.rope(normed, head_size=16, base=100.0))
            elif part == "residual":
                y = builder.linear(normed, f"{number}.o", width=WIDTH)
            else:
                gate, up = (builder.linear(normed, f"{number}.{name}", width=96) for name in ("gate", "up"))
                if apart:
                    builder.add(x, x)
                y = builder.linear(builder.gated(gate, up), f"{number}.down", width=WIDTH)
            if apart:
                builder.linear(x, "idle", width=16)
            x = builder.add(x, y) if part != "gated.silu" else y
        builder.logits(x, "embedding", vocab_size=VOCAB_SIZE)
        return builder.build()

    one, several = chain(False), chain(True)
    weights = make_weights(several, 3, dtype)
    rng = np.random.default_rng(1)
    sequences = make_sequences((num_rows,), rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS)
    found = []
    for shape in (one, several):
        case = case_of("chain", shape, weights, weight_format)
        with bench(CpuDriver().open(DEVICE_ID, num_threads=num_threads), case) as ready:
            found.append([rows.copy() for rows in ready.play(sequences, together(sequences))])
    expect_same(case, found[0], found[1], "what runs as one")
