"""Every operator against the reference, and the kit's whole list of checks, for every build."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.unit.hal_cpu import builds
from thaloom.hal.drivers.cpu import DRIVER
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.ops import OPERATORS, Program, ProgramBuilder
from thaloom.hal.tensors import Tensor, bf16_from_f32
from thaloom.hal.testing import run_conformance
from thaloom.hal.testing.bench import NUM_BLOCKS, bench, expect_close, right, sequences_for
from thaloom.hal.testing.programs import (
    Case,
    arrived_whole,
    make_weights,
    operator_cases,
    operator_names,
    tiny_model,
    whole_number_cases,
)
from thaloom.hal.testing.schedules import make_sequences, together
from thaloom.hal.types import DType, WeightFormat

OPERATORS_RUN = sorted(set(OPERATORS) - {"sample"})
DTYPES: tuple[DType, ...] = ("f32", "bf16", "f16")


def agree(case: Case, *, num_threads: int = 2) -> None:
    opened = CpuDriver().open(DEVICE_ID, num_threads=num_threads)
    sequences = sequences_for(case)
    with bench(opened, case) as ready:
        expect_close(case, ready.play(sequences, together(sequences)), right(case, sequences))


def test_every_operator_has_cases() -> None:
    assert operator_names() == OPERATORS_RUN


def test_every_operator_but_sample_is_native(build: str) -> None:
    levels = CpuDriver().open(DEVICE_ID, num_threads=1).support.levels
    assert levels == dict.fromkeys(OPERATORS_RUN, "L3")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS_RUN)
def test_an_operator_is_what_the_reference_says(build: str, operator: str, dtype: DType) -> None:
    for case in operator_cases(operator, dtype=dtype):
        agree(case)


@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "f16", "i8"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_whole_models_are_what_the_reference_says(build: str, dtype: DType, kv_dtype: DType) -> None:
    for seed in range(4):
        agree(tiny_model(seed, dtype=dtype, kv_dtype=kv_dtype))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_whole_numbers_are_what_the_reference_says(build: str, weight_format: WeightFormat, dtype: DType) -> None:
    models = [tiny_model(seed, dtype=dtype, weight_format=weight_format) for seed in range(3)]
    for case in [*whole_number_cases(weight_format, dtype=dtype), *models]:
        agree(case)
        agree(arrived_whole(case))


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
@pytest.mark.parametrize("inputs", [32, 64, 160, 1024])
def test_whole_products_of_any_shape(build: str, inputs: int, weight_format: WeightFormat) -> None:
    """Every remainder of panels against every number of rows a tile may have, and some of several tiles."""
    for width in (1, 16, 33, 130):
        builder = ProgramBuilder()
        x = builder.embedding("embedding", vocab_size=61, width=inputs)
        builder.pool(builder.linear(x, "matrix", width=width, bias="bias"), normalise=False)
        program = builder.build()
        case = Case(name="linear.whole", program=program, weights=make_weights(program, 3), weight_format=weight_format)
        for some in (case, arrived_whole(case)):
            with bench(CpuDriver().open(DEVICE_ID, num_threads=2), some) as ready:
                for num_rows in (*range(1, 14), 25, 40):
                    rng = np.random.default_rng(num_rows)
                    sequences = make_sequences((num_rows,), rng, vocab_size=61, num_blocks=NUM_BLOCKS)
                    expect_close(some, ready.play(sequences, together(sequences)), right(some, sequences))


def relative_error(weight_format: WeightFormat, spread: np.ndarray) -> tuple[float, float]:
    """Of one product against f32, over the largest result: ours, and with the same weights but exact activations."""
    inputs, width = 512, 256
    builder = ProgramBuilder()
    x = builder.embedding("embedding", vocab_size=61, width=inputs)
    builder.pool(builder.linear(x, "matrix", width=width), normalise=False)
    program = builder.build()
    weights = make_weights(program, 6)
    weights["embedding"] = Tensor("f32", weights["embedding"].to_f32() * spread.astype(np.float32))
    plain = Case(name="linear.plain", program=program, weights=weights)
    whole = dataclasses.replace(plain, weight_format=weight_format)
    sequences = sequences_for(plain)
    wanted, exact = (np.concatenate(right(case, sequences)) for case in (plain, whole))
    with bench(CpuDriver().open(DEVICE_ID, num_threads=1), whole) as ready:
        found = np.concatenate(ready.play(sequences, together(sequences)))
    size = np.sqrt((wanted**2).mean())
    return tuple(float(np.sqrt(((one - wanted) ** 2).mean()) / size) for one in (found, exact))  # type: ignore[return-value]


@pytest.mark.parametrize(("weight_format", "most"), [("int8", 0.012), ("int4", 0.12)])
@pytest.mark.parametrize("channels", [0, 3])
def test_a_few_channels_that_are_far_larger_cost_no_accuracy(
    build: str, weight_format: WeightFormat, most: float, channels: int
) -> None:
    """Activations have a scale for every 32; with one for each row, 3 channels of 512 that are 50 times larger would
    cost five times as much as Gaussian ones (docs/decisions/0007)."""
    spread = np.ones(512)
    spread[np.random.default_rng(1).choice(512, channels, replace=False)] = 50
    ours, exact = relative_error(weight_format, spread)
    assert exact <= ours * 1.01
    assert ours < most * (1.6 if channels else 1.0)


@pytest.mark.slow  # ten seconds a build; the contract tests run it on the one that this processor runs
def test_the_conformance_kit_passes(build: str) -> None:
    report = run_conformance(CpuDriver(), DEVICE_ID, manifest=DRIVER.manifest)
    assert report.passed, str(report)


ODD_WIDTHS = (1, 15, 16, 17, 33, 127, 130)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("inputs", ODD_WIDTHS)
def test_products_of_any_shape(build: str, inputs: int, dtype: DType) -> None:
    """Remainders of panels, pairs and tiles: every width against every number of rows."""
    for width in ODD_WIDTHS:
        builder = ProgramBuilder()
        x = builder.embedding("embedding", vocab_size=61, width=inputs)
        builder.pool(builder.linear(x, "matrix", width=width, bias="bias"), normalise=False)
        program = builder.build()
        case = Case(name="linear.odd", program=program, weights=make_weights(program, 3, dtype))
        with bench(CpuDriver().open(DEVICE_ID, num_threads=2), case) as ready:
            for num_rows in (1, 2, 3, 4, 6, 7, 13):
                rng = np.random.default_rng(num_rows)
                sequences = make_sequences((num_rows,), rng, vocab_size=61, num_blocks=NUM_BLOCKS)
                expect_close(case, ready.play(sequences, together(sequences)), right(case, sequences))


@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "f16", "i8"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 1), (7, 1), (8, 2), (9, 3)])
@pytest.mark.parametrize("head_size", [1, 16, 33, 64, 80])
def test_attention_of_any_shape(build: str, heads: int, kv_heads: int, head_size: int, kv_dtype: DType) -> None:
    builder = ProgramBuilder()
    x = builder.embedding("embedding", vocab_size=61, width=48)
    q = builder.linear(x, "q", width=heads * head_size)
    k = builder.linear(x, "k", width=kv_heads * head_size)
    v = builder.linear(x, "v", width=kv_heads * (head_size + 3))
    attended = builder.paged_attention(
        q, k, v, num_heads=heads, num_kv_heads=kv_heads, head_size=head_size, value_size=head_size + 3
    )
    builder.pool(attended, normalise=False)
    program = builder.build()
    agree(Case(name="paged_attention.odd", program=program, weights=make_weights(program, 5), kv_dtype=kv_dtype))


def first_token(program: Program, weights: dict[str, Tensor], kv_dtype: DType) -> np.ndarray:
    """What the program gives for one sequence of one token, (width,): attention over it alone gives its values."""
    case = Case(name="one", program=program, weights=weights, kv_dtype=kv_dtype)
    with bench(CpuDriver().open(DEVICE_ID, num_threads=1), case) as ready:
        sequences = make_sequences((1,), np.random.default_rng(0), vocab_size=1, num_blocks=NUM_BLOCKS)
        return ready.play(sequences, together(sequences))[0][0]


def test_f16_keeps_numbers_of_every_size(build: str) -> None:
    """Small ones as multiples of 2^-24, large ones cut off, and what is no number still none: as the reference does."""
    values = np.zeros((1, 16), np.float32)
    values[0, :10] = [1.0, -65504.0, 65520.0, -1e30, 6.1e-5, 5.9e-8, -3e-6, np.inf, -np.inf, np.nan]
    builder = ProgramBuilder()
    q, v = builder.embedding("plain", vocab_size=1, width=16), builder.embedding("values", vocab_size=1, width=16)
    attended = builder.paged_attention(q, q, v, num_heads=1, num_kv_heads=1, head_size=16)
    builder.pool(attended, normalise=False)
    weights = {"plain": Tensor("f32", np.ones((1, 16), np.float32)), "values": Tensor("f32", values)}
    found = first_token(builder.build(), weights, "f16")
    wanted = np.array([1.0, -65504.0, 65504.0, -65504.0, *np.float16([6.1e-5, 5.9e-8, -3e-6]), np.inf, -np.inf, np.nan])
    assert np.array_equal(found[:10], wanted.astype(np.float32), equal_nan=True)


def test_shared_keys_and_values_are_made_of_unrounded_inputs(build: str) -> None:
    """On builds with products of bf16 pairs the other matrices take theirs in bf16."""
    rng = np.random.default_rng(4)
    weights = {
        "table": Tensor("f32", rng.standard_normal((1, 64), np.float32)),
        **{name: Tensor("bf16", bf16_from_f32(rng.standard_normal((32, 64), np.float32))) for name in "qkv"},
    }
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=1, width=64)
    q, k, v = builder.linear(x, "q", width=32), builder.linear(x, "k", width=16), builder.linear(x, "v", width=16)
    builder.pool(builder.paged_attention(q, k, v, num_heads=2, num_kv_heads=1, head_size=16), normalise=False)
    weights |= {name: Tensor("bf16", weights[name].data[:16]) for name in "kv"}
    found = first_token(builder.build(), weights, "f32")
    exact = weights["v"].to_f32().astype(np.float64) @ weights["table"].data[0]
    assert np.abs(found - np.tile(exact, 2)).max() < 1e-5  # rounded to bf16 it would be some 1e-2


def test_whole_numbers_and_floats_that_read_the_same_rows(build: str) -> None:
    """Queries in 8 bits beside shared keys and values that stay in 16."""
    for seed in range(8):
        agree(tiny_model(seed, dtype="bf16", weight_format="int8"))


def test_builds_are_listed_best_first() -> None:
    assert builds.NAMES
