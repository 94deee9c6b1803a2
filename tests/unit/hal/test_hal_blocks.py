"""Keys and values as the reference keeps them."""

from __future__ import annotations

import numpy as np
import pytest

from thaloom.hal.blocks import BlockStore, block_bytes
from thaloom.hal.ops import BLOCK_TOKENS, Program, ProgramBuilder, Step
from thaloom.hal.quantise import quantise_kv
from thaloom.hal.types import DType


def program(*, values: bool = True) -> Program:
    """Two heads of 6 columns; values of 4, or the first 4 of the keys."""
    builder = ProgramBuilder()
    q, k = (builder.embedding(name, vocab_size=9, width=12) for name in "qk")
    v = builder.embedding("v", vocab_size=9, width=8) if values else None
    attended = builder.paged_attention(q, k, v, num_heads=2, num_kv_heads=2, head_size=6, value_size=4)
    builder.pool(attended, normalise=False)
    return builder.build()


def step(num_rows: int) -> Step:
    numbers = np.arange(num_rows, dtype=np.int32)
    return Step(
        tokens=numbers % 9,
        positions=numbers,
        sequences=np.zeros(num_rows, np.int32),
        block_tables=np.array([[2, 0]], np.int32),
        outputs=numbers,
    )


@pytest.mark.parametrize(("dtype", "worst"), [("f32", 0.0), ("bf16", 2**-8), ("f16", 2**-11), ("i8", 0.5 / 127)])
def test_what_is_kept_is_read_back_in_order(dtype: DType, worst: float) -> None:
    made = program()
    store = BlockStore(made, dtype, np.zeros(3 * block_bytes(made, dtype) + 5, np.uint8))
    rng = np.random.default_rng(3)
    k, v = (rng.standard_normal((20, width), dtype=np.float32) for width in (12, 8))
    store.write(0, step(20), k, v)
    store.copy_block(2, 1)
    for table in ([2, 0], [1, 0]):
        keys, values = store.read(0, np.array(table, np.int32), 20)
        for found, wanted in ((keys, k.reshape(20, 2, 6)), (values, v.reshape(20, 2, 4))):
            allowed = worst * np.abs(wanted).max(axis=-1, keepdims=True)  # a scale serves one head of one token
            assert (np.abs(found - wanted) <= allowed).all()


def test_f16_cuts_off_what_is_too_large_and_keeps_what_is_no_number() -> None:
    made = program()
    store = BlockStore(made, "f16", np.zeros(3 * block_bytes(made, "f16"), np.uint8))
    k = np.array([[1e30, -65520.0, 65504.0, 5.9e-8, np.inf, -np.inf, np.nan, 0, 0, 0, 0, 0]], np.float32)
    store.write(0, step(1), k, np.zeros((1, 8), np.float32))
    keys, _ = store.read(0, np.array([2], np.int32), 1)
    wanted = [65504.0, -65504.0, 65504.0, 2.0**-24, np.inf, -np.inf, np.nan]
    assert np.array_equal(keys.reshape(-1)[:7], np.array(wanted, np.float32), equal_nan=True)


def test_a_block_in_whole_numbers_holds_a_scale_for_each_token_and_head() -> None:
    numbers, scales = 2 * (6 + 4) * BLOCK_TOKENS, 2 * 2 * BLOCK_TOKENS
    assert block_bytes(program(), "i8") == numbers + 4 * scales
    assert block_bytes(program(values=False), "i8") == 2 * 6 * BLOCK_TOKENS + 4 * scales // 2


def test_whole_numbers_of_a_head_share_the_scale_of_its_largest() -> None:
    whole, scales = quantise_kv(np.array([[254.0, -254.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]], np.float32))
    assert whole.tolist() == [[127, -127, 0, 2], [0, 0, 0, 0]]  # halves go to the even number
    assert scales.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_head_that_is_not_finite_has_no_value_and_spoils_no_other(bad: float) -> None:
    whole, scales = quantise_kv(np.array([[1.0, bad], [3.0, 1.5]], np.float32))
    assert np.isnan(scales[0])
    assert (whole[1] * scales[1]).tolist() == pytest.approx([3.0, 1.5], abs=0.02)
