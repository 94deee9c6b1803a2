"""The strict parser: each rule of the format has a file that breaks it."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from tests.models import encode_safetensors
from thaloom.base.errors import MalformedFile
from thaloom.hal.tensors import Tensor
from thaloom.kernel.models.safetensors import MAX_HEADER_BYTES, Header, read_header


def parse(data: bytes) -> Header:
    return read_header("w.safetensors", len(data), lambda at, length: data[at : at + length])


def file_of(header: Any, data: bytes = b"", *, text: bytes | None = None) -> bytes:
    text = json.dumps(header).encode() if text is None else text
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: list[Any] | None = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def refused(data: bytes) -> str:
    with pytest.raises(MalformedFile) as caught:
        parse(data)
    assert "'w.safetensors'" in caught.value.message
    assert caught.value.details["file"] == "w.safetensors"
    return caught.value.message


def test_a_file_reads_back_with_places_of_its_tensors() -> None:
    tensors = {
        "b": Tensor("f32", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "a": Tensor("bf16", np.arange(4, dtype=np.uint16)),
        "scalar": Tensor("f16", np.array(2.0, np.float16)),
        "empty": Tensor("f32", np.zeros((0, 5), np.float32)),
    }
    data = encode_safetensors(tensors, {"format": "pt"})
    header = parse(data)
    assert header.metadata == {"format": "pt"}
    assert [(place.name, place.dtype, place.shape) for place in header.tensors if place.num_bytes] == [
        ("b", "F32", (2, 3)),
        ("a", "BF16", (4,)),
        ("scalar", "F16", ()),
    ]
    for place in header.tensors:
        assert data[place.start : place.end] == tensors[place.name].data.tobytes()
        assert place.num_elements == tensors[place.name].data.size


def test_a_file_of_no_tensors_is_sound() -> None:
    assert parse(file_of({})).tensors == ()


def test_dtypes_of_less_than_a_byte_are_known() -> None:
    assert parse(file_of({"a": entry(0, 2, [4], "F4")}, b"xy")).tensors[0].num_bytes == 2
    assert "takes 1.5 bytes" in refused(file_of({"a": entry(0, 2, [3], "F4")}, b"xy"))


@pytest.mark.parametrize("num_bytes", [0, 1, 7])
def test_a_file_too_short_for_a_length_is_refused(num_bytes: int) -> None:
    assert "too short" in refused(b"\0" * num_bytes)


def test_a_header_length_beyond_the_bound_is_refused_before_it_is_read() -> None:
    def read_at(at: int, length: int) -> bytes:
        assert length <= 8, "the header must not be read"
        return struct.pack("<Q", MAX_HEADER_BYTES + 1)[at : at + length]

    with pytest.raises(MalformedFile, match="at most"):
        read_header("w.safetensors", 2**40, read_at)
    assert "at most" in refused(struct.pack("<Q", 2**64 - 1) + b"{}")


def test_a_header_longer_than_the_file_is_refused() -> None:
    assert "truncated" in refused(struct.pack("<Q", 10) + b"{}")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" {}",
        b"[]",
        b"{",
        b"{}{}",
        b"{}\0\0",
        b'{"a":NaN}',
        b'{"a":1.0}',
        b'{"a":1e999}',
        b"{'a':1}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000 + b"}",
        b'{"\xff":1}',
    ],
)
def test_a_header_that_is_not_json_of_this_format_is_refused(text: bytes) -> None:
    assert "header" in refused(file_of(None, text=text))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}',
        b'{"__metadata__":{"k":"1","k":"2"}}',
    ],
)
def test_a_name_that_comes_twice_is_refused(text: bytes) -> None:
    assert "comes twice" in refused(file_of(None, text=text))


@pytest.mark.parametrize("metadata", [[], "x", {"k": 1}, {"k": None}, {"k": {}}])
def test_metadata_other_than_texts_is_refused(metadata: Any) -> None:
    assert "__metadata__" in refused(file_of({"__metadata__": metadata}))


@pytest.mark.parametrize(
    "value",
    [None, 1, [], {}, {"dtype": "U8", "shape": [0]}, entry(0, 0) | {"extra": 1}],
)
def test_an_entry_with_other_keys_is_refused(value: Any) -> None:
    assert "exactly dtype, shape and data_offsets" in refused(file_of({"a": value}))


@pytest.mark.parametrize("dtype", ["F128", "f32", "", None, 4, ["F32"], {}])
def test_an_unknown_dtype_is_refused(dtype: Any) -> None:
    assert "unknown dtype" in refused(file_of({"a": entry(0, 0, dtype=dtype)}))


@pytest.mark.parametrize("shape", [None, 4, "4", [-1], [True], ["4"], [None], [2**60], [1] * 17, {"0": 1}])
def test_an_impossible_shape_is_refused(shape: Any) -> None:
    header = {"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, 1]}}
    assert "impossible shape" in refused(file_of(header, b"x"))


def test_a_shape_whose_product_is_beyond_any_memory_is_refused() -> None:
    assert "takes" in refused(file_of({"a": entry(0, 1, [2**47] * 16, "F64")}, b"x"))


@pytest.mark.parametrize("offsets", [None, [], [0], [0, 1, 2], [-1, 0], ["0", "1"], [0, 2**64], [0, True], 1])
def test_offsets_that_are_none_are_refused(offsets: Any) -> None:
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": offsets}}
    assert "data_offsets" in refused(file_of(header, b"x"))


def test_offsets_in_the_wrong_order_are_refused() -> None:
    assert "before it starts" in refused(file_of({"a": entry(1, 0, [1])}, b"x"))


def test_a_size_that_is_not_shape_times_dtype_is_refused() -> None:
    assert "takes 8 bytes, not 4" in refused(file_of({"a": entry(0, 4, [2], "F32")}, b"1234"))


def test_an_overlap_is_refused() -> None:
    assert "overlaps" in refused(file_of({"a": entry(0, 4), "b": entry(3, 7)}, b"1234567"))


def test_a_gap_is_refused() -> None:
    assert "gap of 2 bytes" in refused(file_of({"a": entry(0, 4), "b": entry(6, 8)}, b"12345678"))
    assert "gap of 1 bytes" in refused(file_of({"a": entry(1, 4)}, b"1234"))


def test_a_truncated_file_is_refused() -> None:
    assert "is truncated" in refused(file_of({"a": entry(0, 4)}, b"123"))


def test_bytes_that_belong_to_no_tensor_are_refused() -> None:
    assert "belong to none" in refused(file_of({"a": entry(0, 4)}, b"12345"))


def test_tensors_may_be_listed_in_any_order() -> None:
    header = parse(file_of({"b": entry(2, 4), "a": entry(0, 2)}, b"1234"))
    assert [place.name for place in header.tensors] == ["a", "b"]


def test_a_reader_that_gives_less_than_the_file_has_is_refused() -> None:
    data = file_of({"a": entry(0, 0)})
    with pytest.raises(MalformedFile, match="truncated"):
        read_header("w.safetensors", len(data), lambda at, length: data[at : at + length][:9])
