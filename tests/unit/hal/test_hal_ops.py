"""Programs as data, and what the builder refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from thaloom.hal.ops import OPERATORS, ProgramBuilder, Slot
from thaloom.hal.tensors import Tensor, bf16_from_f32
from thaloom.hal.testing.programs import operator_names, tiny_model
from thaloom.hal.types import Device, Reading, Slice


def test_equal_programs_have_equal_digests() -> None:
    first, second, other = tiny_model(1).program, tiny_model(1).program, tiny_model(2).program
    assert first.digest() == second.digest() != other.digest()
    assert first.to_json() == second.to_json()


def test_a_program_can_be_read() -> None:
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=4, width=8)
    builder.logits(builder.rmsnorm(x, "norm", eps=1e-5), "table", vocab_size=4)
    assert str(builder.build()).splitlines() == [
        "%0 = embedding weight=table",
        "%1 = rmsnorm x=%0 weight=norm eps=1e-05",
        "%2 = logits x=%1 weight=table",
    ]


def test_stores_are_counted() -> None:
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=4, width=24)
    for _ in range(2):
        x = builder.paged_attention(x, x, x, num_heads=3, num_kv_heads=3, head_size=8)
    assert builder.build().kv_values_per_token() == 2 * 3 * (8 + 8)


def test_every_operator_but_sample_is_in_the_kit() -> None:
    assert set(operator_names()) == set(OPERATORS) - {"sample"}


def _attention(builder: ProgramBuilder, x: Slot, **changes: int) -> None:
    builder.paged_attention(x, x, x, **({"num_heads": 2, "num_kv_heads": 2, "head_size": 4} | changes))


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (lambda b, x: b.linear(x, "w", width=0), "at least one column"),
        (lambda b, x: b.linear(b.linear(x, "w", width=8), "w", width=9), "is used as"),
        (lambda b, x: b.add(x, b.linear(x, "w", width=3)), "differ in width"),
        (lambda b, x: b.gated(x, b.linear(x, "w", width=3)), "differ in width"),
        (lambda b, x: b.rmsnorm(x, "n", eps=1e-6, group=3), "whole groups"),
        (lambda b, x: b.rope(x, head_size=4, base=10.0, rotary_size=3), "rotary size"),
        (lambda b, x: b.rope(x, head_size=4, base=10.0, rotary_size=6), "rotary size"),
        (lambda b, x: _attention(b, x, num_heads=3, num_kv_heads=2), "share"),
        (lambda b, x: _attention(b, x, head_size=5), "columns"),
    ],
)
def test_nonsense_is_refused_when_it_is_written(
    record: Callable[[ProgramBuilder, Slot], object], complaint: str
) -> None:
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=4, width=8)
    with pytest.raises(ValueError, match=complaint):
        record(builder, x)


def test_bf16_rounds_to_nearest_even_and_keeps_what_is_special() -> None:
    one = 1.0
    values = np.array([one, one + 2**-8, one + 3 * 2**-8, -0.0, np.inf, np.nan, 3.4e38], np.float32)
    found = Tensor("bf16", bf16_from_f32(values)).to_f32()
    assert found[:3].tolist() == [1.0, 1.0, one + 2**-6]
    assert np.signbit(found[3])
    assert np.isinf(found[4])
    assert np.isnan(found[5])
    assert np.isinf(found[6])


def test_facts_check_themselves() -> None:
    facts = dict(driver="d", kind="cpu", name="n", vendor="v", num_cores=1, dtypes=frozenset(), isolation="none")
    with pytest.raises(ValueError):
        Device(id="", memory_bytes=1, **facts)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        Device(id="x", memory_bytes=-1, **facts)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        Slice(device="x", memory_bytes=1, compute_permille=0)  # type: ignore[arg-type]
    assert Reading(device="x", health="healthy").power_mw is None  # type: ignore[arg-type]
