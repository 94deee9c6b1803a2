"""GGUF headers: what is written is read, and each rule that can be broken is named when it is."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from tests.gguf_files import Blocks, Typed, encode_gguf, f32, text, value
from thaloom.base.errors import MalformedFile, NotServable
from thaloom.kernel.models.gguf import BLOCK_TYPES, GgufHeader, read_gguf

A, B = f32(np.arange(8, dtype=np.float32).reshape(2, 4)), Blocks(1, (3,), bytes(6))


def parse(data: bytes) -> GgufHeader:
    return read_gguf("m.gguf", len(data), lambda at, length: data[at : at + length])


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_written_is_read(version: int) -> None:
    metadata = {
        "a": "text", "b": 7, "c": 0.5, "d": True, "e": ["x", "yy", ""], "f": Typed("i32", [-1, 2]),
        "g": Typed("u64", 2**63), "h": Typed("f64", 0.1), "i": Typed("bool", [1, 0]), "j": [],
    }  # fmt: skip
    data = encode_gguf(metadata, {"a.weight": A, "b.weight": B}, version=version)
    header = parse(data)
    assert header.version == version
    assert header.metadata["a"] == "text"
    assert header.metadata["b"] == 7
    assert header.metadata["c"] == 0.5
    assert header.metadata["d"] is True
    assert header.metadata["e"] == ("x", "yy", "")
    assert np.array_equal(header.metadata["f"], [-1, 2])
    assert header.metadata["g"] == 2**63
    assert header.metadata["h"] == 0.1
    assert np.array_equal(header.metadata["i"], [True, False])
    assert header.metadata["j"] == ()
    first, second = header.tensors
    assert (first.name, first.block.name, first.shape) == ("a.weight", "F32", (2, 4))
    assert data[first.start : first.end] == A.data
    assert (second.shape, second.num_bytes) == ((3,), 6)


def test_alignment_may_be_another() -> None:
    data = encode_gguf({"general.alignment": 64}, {"a": A, "b": B}, alignment=64)
    assert all(tensor.start % 64 == 0 for tensor in parse(data).tensors)


def test_padding_after_the_last_tensor_is_allowed() -> None:
    data = encode_gguf({}, {"b": B})
    assert parse(data + b"\0" * 26).tensors
    with pytest.raises(MalformedFile, match="belong to none"):
        parse(data + b"\0" * 27)


def tensor(name: str | bytes, shape: list[int], number: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)


def file(*, keys: list[bytes] | None = None, tensors: list[bytes] | None = None, body: bytes = b"") -> bytes:
    """Sound counts around whatever is given."""
    keys, tensors = keys or [], tensors or []
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + body


def key(name: str, item: Any) -> bytes:
    return text(name) + value(item)


REFUSED = {
    "magic": (b"GGML" + bytes(60), "does not begin"),
    "empty": (b"", "truncated"),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "claims 4611686018427387904 tensors"),
    "more keys than bytes": (b"GGUF" + struct.pack("<IQQ", 3, 0, 60) + bytes(200), "claims 60 metadata keys"),
    "long key": (file(keys=[struct.pack("<Q", 2**60)]) + bytes(64), "truncated"),
    "key not utf-8": (file(keys=[key("x", 1).replace(b"x", b"\xff")]), "not UTF-8"),
    "empty key": (file(keys=[key("", 1)]), "which is none"),
    "key twice": (file(keys=[key("x", 1), key("x", 2)]), "twice"),
    "unknown value type": (file(keys=[text("x") + struct.pack("<I", 13) + bytes(8)]), "unknown type 13"),
    "unknown element type": (file(keys=[text("x") + struct.pack("<IIQ", 9, 77, 0) + bytes(8)]), "element type 77"),
    "array of arrays": (file(keys=[text("x") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)]), "array of arrays"),
    "huge array": (file(keys=[text("x") + struct.pack("<IIQ", 9, 6, 2**60)]), "truncated"),
    "huge array of texts": (file(keys=[text("x") + struct.pack("<IIQ", 9, 8, 2**61)]), "2305843009213693952 texts"),
    "truth value 2": (file(keys=[text("x") + struct.pack("<IB", 7, 2)]), "neither 0 nor 1"),
    "alignment 0": (file(keys=[key("general.alignment", 0)]), "alignment '0'"),
    "alignment 48": (file(keys=[key("general.alignment", 48)]), "alignment '48'"),
    "alignment of text": (file(keys=[key("general.alignment", "x")]), "alignment 'x'"),
    "empty name": (file(tensors=[tensor("", [4], 0, 0)], body=bytes(16)), "its name is empty"),
    "long name": (file(tensors=[tensor("n" * 64, [4], 0, 0)], body=bytes(16)), "over 63 bytes"),
    "rank 0": (file(tensors=[tensor("a", [], 0, 0)], body=bytes(32)), "0 dimensions"),
    "rank 5": (file(tensors=[tensor("a", [1] * 5, 0, 0)], body=bytes(32)), "5 dimensions"),
    "dimension 0": (file(tensors=[tensor("a", [4, 0], 0, 0)], body=bytes(32)), "impossible shape"),
    "dimensions that overflow": (
        file(tensors=[tensor("a", [2**47, 2**47, 2**47, 2**47], 0, 0)], body=bytes(32)), "truncated"
    ),
    "negative dimension": (file(tensors=[tensor("a", [2**64 - 4], 0, 0)], body=bytes(32)), "impossible shape"),
    "not whole blocks": (file(tensors=[tensor("a", [33], 8, 0)], body=bytes(64)), "not whole blocks of 32"),
    "offset not aligned": (file(tensors=[tensor("a", [4], 0, 4)], body=bytes(32)), "not a multiple"),
    "huge offset": (file(tensors=[tensor("a", [4], 0, 2**63)], body=bytes(32)), "gap"),
    "tensor twice": (file(tensors=[tensor("a", [8], 0, 0), tensor("a", [8], 0, 32)], body=bytes(64)), "comes twice"),
    "overlap": (file(tensors=[tensor("a", [16], 0, 0), tensor("b", [8], 0, 32)], body=bytes(96)), "overlaps"),
    "gap": (file(tensors=[tensor("a", [8], 0, 0), tensor("b", [8], 0, 64)], body=bytes(96)), "leaves a gap"),
    "short": (file(tensors=[tensor("a", [8], 0, 0)], body=bytes(31)), "ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_rule_is_named(case: str) -> None:
    data, rule = REFUSED[case]
    with pytest.raises(MalformedFile, match=rule) as refused:
        parse(data)
    assert refused.value.details["file"] == "m.gguf"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
        (file(keys=[key("split.count", Typed("u16", 3))]), "one of 3 files"),
        (file(tensors=[tensor("a", [32], 199, 0)], body=bytes(64)), "type 199"),
    ],
)
def test_what_is_not_read_is_refused_by_name(data: bytes, what: str) -> None:
    with pytest.raises(NotServable, match=what):
        parse(data)


def test_reading_a_header_reads_no_tensor() -> None:
    data = encode_gguf({}, {"a": f32(np.zeros((1024, 1024), np.float32))})
    read = 0

    def read_at(at: int, length: int) -> bytes:
        nonlocal read
        read += length
        return data[at : at + length]

    read_gguf("m.gguf", len(data), read_at)
    assert read <= 1024 * 1024


def test_every_block_type_is_the_size_the_format_says() -> None:
    import gguf

    for kind, (elements, num_bytes) in gguf.GGML_QUANT_SIZES.items():
        ours = BLOCK_TYPES.get(int(kind.value))
        if ours is not None:
            assert (ours.name, ours.elements, ours.num_bytes) == (kind.name, elements, num_bytes)
