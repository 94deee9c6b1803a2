"""Floats in whole numbers: what each format keeps, what it must not touch, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.hal.ops import ProgramBuilder
from thaloom.hal.quantise import convert, convertible, formats, quantise, quantise_as
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.testing.programs import tiny_model, whole_number_cases


def random(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "group"), [(8, 32), (8, 96), (4, 32)])
def test_numbers_come_back_within_half_a_step(bits: int, group: int) -> None:
    values = random((3, 7, 96))
    kept = quantise(values, bits, group)  # type: ignore[arg-type]
    assert (kept.shape, kept.group, kept.bits) == (values.shape, group, bits)
    step = np.abs(kept.scales).repeat(group, axis=-1)
    inside = np.abs(values) < step * (127 if bits == 8 else 7)
    assert (np.abs(kept.to_f32() - values)[inside] <= 0.5001 * step[inside]).all()
    assert inside.mean() > 0.9


def test_eight_bits_reach_the_largest_of_each_row() -> None:
    kept = quantise(random((5, 64)), 8, 64)
    assert (np.abs(kept.data).max(axis=1) == 127).all()


def test_four_bits_err_less_than_the_plain_choice_of_a_scale() -> None:
    """The plain one: the largest magnitude becomes -8, as in the common formats."""
    values = random((400, 32))
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    plain = np.clip(np.rint(values / (-largest / 8)), -8, 7) * (-largest / 8)
    ours = quantise(values, 4).to_f32()
    assert ((ours - values) ** 2).sum() < 0.9 * ((plain - values) ** 2).sum()


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-30, 1), bits=st.sampled_from([4, 8]), whole_row=st.booleans())
def test_every_result_is_one_that_the_type_allows(seed: int, exponent: int, bits: int, whole_row: bool) -> None:
    """QuantTensor checks itself; zeros, denormals and outliers among the values."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_t(2, (4, 64)) * 10.0**exponent).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = 0
    values[0] = 0
    kept = quantise(values, bits, 64 if bits == 8 and whole_row else 32)  # type: ignore[arg-type]
    assert not kept.to_f32()[0].any()


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_has_no_scale_is_refused(spoiled: float, bits: int) -> None:
    values = random((2, 64))
    values[1, 40] = spoiled
    with pytest.raises(ValueError, match=r"not finite|too large"):
        quantise(values, bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "columns", "group"), [(4, 64, 64), (8, 64, 16), (8, 40, 40), (4, 16, 32)])
def test_groups_that_no_format_has_are_refused(bits: int, columns: int, group: int) -> None:
    with pytest.raises(ValueError, match="columns cannot be"):
        quantise(random((2, columns)), bits, group)  # type: ignore[arg-type]


WHOLE, SCALES = np.zeros((2, 64), np.int8), np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("bits", "data", "scales"),
    [
        (5, WHOLE, SCALES),
        (8, WHOLE.astype(np.int16), SCALES),
        (8, WHOLE, SCALES.astype(np.float64)),
        (8, WHOLE[:, :40], SCALES[:, :1]),
        (4, WHOLE, SCALES[:, :1]),
        (8, WHOLE, np.zeros((2, 3), np.float32)),
        (8, WHOLE, SCALES[:1]),
        (8, WHOLE[0], SCALES[0]),
        (8, WHOLE[:0], SCALES[:0]),
        (8, WHOLE | -128, SCALES),
        (4, WHOLE | 8, SCALES),
        (4, WHOLE | -9, SCALES),
        (8, WHOLE, SCALES + np.float32(np.nan)),
        (8, WHOLE, SCALES + np.float32(1e6)),
        (8, WHOLE, SCALES + np.float32(1.0001)),
    ],
)
def test_a_matrix_that_breaks_the_rules_cannot_be_made(bits: int, data: np.ndarray, scales: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"whole numbers|outside|scale is not"):
        QuantTensor(bits, data, scales)  # type: ignore[arg-type]


def test_one_scale_a_row_is_any_float() -> None:
    kept = QuantTensor(8, np.ones((1, 64), np.int8), np.full((1, 1), 1.0001, np.float32))
    assert kept.to_f32()[0, 63] == np.float32(1.0001)


def test_products_heads_tied_tables_and_experts_are_converted_and_nothing_else() -> None:
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=50, width=64)
    x = builder.rmsnorm(x, "norm", eps=1e-5)
    y = builder.linear(x, "product", width=64, bias="bias")
    y = builder.lora(x, y, a="a", b="b", rank=32, scale=1.0, adapter=0)
    y = builder.moe(y, "moe", num_experts=4, expert_width=32, top_k=2)
    z = builder.linear(builder.linear(y, "narrow", width=40), "odd", width=64)
    builder.logits(z, "head", vocab_size=50)
    wanted = {"product", "narrow", "head", "moe.gate", "moe.up", "moe.down"}
    assert convertible(builder.build()) == wanted
    tied = next(case for case in whole_number_cases("int8") if case.name.startswith("logits.tied"))
    assert convertible(tied.program) == {"embedding"}


def test_what_is_whole_already_and_what_is_not_concerned_stay_as_they_are() -> None:
    case = tiny_model(3, weight_format="int4")
    first = convert(case.program, case.weights, "int4")
    again = convert(case.program, first, "int8")
    assert all(again[name] is first[name] for name in first)
    kinds = {name: isinstance(tensor, QuantTensor) for name, tensor in first.items()}
    assert {name for name, is_whole in kinds.items() if is_whole} == convertible(case.program)
    assert convert(case.program, case.weights, "stored") == case.weights


def test_sixteen_bits_are_converted_like_the_numbers_they_hold() -> None:
    values = random((4, 64)).astype(np.float16)
    found = quantise_as(Tensor("f16", values), "int8")
    assert np.array_equal(found.data, quantise(values.astype(np.float32), 8, 64).data)


@pytest.mark.parametrize("is_adapted", [False, True])
@pytest.mark.parametrize("num_heads", [2, 4])
def test_what_decides_more_than_its_share_keeps_more(num_heads: int, is_adapted: bool) -> None:
    """Values, and in 8 bits keys, if heads share them; around attention and in the head, 8 bits have finer scales."""
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=50, width=64)
    q, k, v = (builder.linear(x, name, width=width) for name, width in (("q", 16 * num_heads), ("k", 32), ("v", 32)))
    if is_adapted:
        v = builder.lora(x, v, a="a", b="b", rank=32, scale=1.0, adapter=0)
    k = builder.rope(builder.rmsnorm(k, "norm", eps=1e-6, group=16), head_size=16, rotary_size=16, base=1e4)
    y = builder.paged_attention(q, k, v, num_heads=num_heads, num_kv_heads=2, head_size=16)
    y = builder.linear(builder.linear(y, "o", width=64), "plain", width=64)
    builder.logits(y, "head", vocab_size=50)
    program = builder.build()
    are_shared = num_heads > 2
    four = dict.fromkeys(("q", "k", "o", "plain", "head"), "int4")
    assert formats(program, "int4") == four | {"v": "int8" if are_shared else "int4"}
    fine = dict.fromkeys(("q", "o", "head") if are_shared else ("q", "k", "v", "o", "head"), "int8_groups")
    assert formats(program, "int8") == fine | {"plain": "int8"}
    assert formats(program, "stored") == {}
