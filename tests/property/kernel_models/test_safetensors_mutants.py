"""Whatever bytes a file has: it is read as it was written, or refused with MalformedFile. Nothing else ever happens."""

from __future__ import annotations

import contextlib
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import encode_safetensors
from thaloom.base.errors import MalformedFile
from thaloom.hal.tensors import Tensor
from thaloom.hal.types import DType
from thaloom.kernel.models.safetensors import DTYPES, Header, read_header

NUMPY: dict[DType, str] = {"f32": "<f4", "f16": "<f2", "bf16": "<u2", "i8": "i1", "i32": "<i4"}
NUM_MUTANTS = 2000


def parse(data: bytes) -> Header:
    return read_header("w.safetensors", len(data), lambda at, length: data[at : at + length])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(NUMPY)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    count = int(np.prod(shape))
    width = np.dtype(NUMPY[dtype]).itemsize
    data = np.frombuffer(draw(st.binary(min_size=count * width, max_size=count * width)), NUMPY[dtype])
    return Tensor(dtype, data.reshape(shape))


names = st.text(max_size=20).filter(lambda name: name != "__metadata__")


@given(st.dictionaries(names, tensors(), max_size=8), st.none() | st.dictionaries(st.text(), st.text(), max_size=3))
@settings(max_examples=200)
def test_what_is_written_is_read(weights: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    data = encode_safetensors(weights, metadata)
    header = parse(data)
    assert header.metadata == (metadata or {})
    assert {place.name for place in header.tensors} == set(weights)
    for place in header.tensors:
        tensor = weights[place.name]
        assert DTYPES[place.dtype] == tensor.dtype
        assert place.shape == tensor.shape
        assert data[place.start : place.end] == tensor.data.tobytes()


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedFile):
        parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "F4", "x"]) | json_values},
    optional={
        "shape": st.lists(st.integers(-1, 2**64), max_size=4) | json_values,
        "data_offsets": st.lists(st.integers(-1, 2**64), min_size=2, max_size=2) | json_values,
    },
)


@given(st.dictionaries(st.text(max_size=12) | st.just("__metadata__"), entries | json_values, max_size=4), st.binary())
@settings(max_examples=300)
def test_any_json_is_read_or_refused(header: dict[str, object], data: bytes) -> None:
    text = json.dumps(header).encode()
    with contextlib.suppress(MalformedFile):
        parsed = parse(len(text).to_bytes(8, "little") + text + data)
        assert sum(place.num_bytes for place in parsed.tensors) == len(data)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to four small harms, most of them in the header where they matter."""
    result = bytearray(data)
    header_end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(result), header_end) or 1) if chance.random() < 0.9 else len(result) - 1
        harm = chance.randrange(6)
        if harm == 0 and result:
            result[at] ^= 1 << chance.randrange(8)
        elif harm == 1:
            result[at : at + chance.randint(1, 8)] = b""
        elif harm == 2:
            result[at:at] = chance.randbytes(chance.randint(1, 8))
        elif harm == 3:
            result[at : at + 1] = chance.choice(
                [b"9", b"0", b"-", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"e"]
            )
        elif harm == 4:
            del result[at:]
        else:
            start = chance.randrange(len(result) or 1)
            result[at:at] = result[start : start + chance.randint(1, 60)]
    return bytes(result)


@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_mutants_are_read_or_refused(seed: int) -> None:
    weights = {
        "model.a": Tensor("f32", np.arange(12, dtype=np.float32).reshape(3, 4)),
        "model.b": Tensor("bf16", np.arange(7, dtype=np.uint16)),
        "model.c": Tensor("i8", np.arange(5, dtype=np.int8)),
    }
    data = encode_safetensors(weights, {"format": "pt"})
    chance = random.Random(seed)
    refused = 0
    for _ in range(NUM_MUTANTS // 4):
        mutant = mutate(data, chance)
        try:
            header = parse(mutant)
        except MalformedFile:
            refused += 1
            continue
        at = header.tensors[0].start if header.tensors else len(mutant)
        for place in header.tensors:
            assert place.start == at
            at = place.end
        assert at == len(mutant)
    assert refused > NUM_MUTANTS // 8
