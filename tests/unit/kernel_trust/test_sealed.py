"""A sealed object reads back from any place, and nothing of it can be changed unnoticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thaloom.base.errors import EncryptionKeyWrong
from thaloom.kernel.trust.sealed import HEAD_BYTES, SEGMENT, Damaged, StoreKey, open_sealed, seal, sealed_bytes

NAME, OTHER = bytes(range(32)), bytes(32)
WHOLE = SEGMENT + 16
"""A segment and its tag."""


@pytest.fixture
def key() -> StoreKey:
    return make_key(b"r" * 16)


def make_key(ring: bytes) -> StoreKey:
    made = StoreKey.empty(ring)
    with made.secret as secret:
        secret[:] = os.urandom(32)
    return made


def written(folder: Path, data: bytes, key: StoreKey, name: bytes = NAME) -> Path:
    path = folder / "object"
    path.write_bytes(b"".join(seal(name, data, key)))
    return path


def read(path: Path, key: StoreKey, offset: int = 0, length: int | None = None, name: bytes = NAME) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sealed = open_sealed(descriptor, name, key)
        target = bytearray(sealed.num_bytes - offset if length is None else length)
        sealed.read_into(offset, memoryview(target))
        return bytes(target)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("num_bytes", [1, 1000, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT + 5])
def test_what_is_sealed_reads_back_and_is_as_long_as_told(num_bytes: int, tmp_path: Path, key: StoreKey) -> None:
    data = os.urandom(num_bytes)
    path = written(tmp_path, data, key)
    assert path.stat().st_size == sealed_bytes(num_bytes)
    assert read(path, key) == data
    if num_bytes > 100:
        assert data[:64] not in path.read_bytes()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (5, 10), (SEGMENT - 3, 6), (SEGMENT, SEGMENT), (SEGMENT - 1, SEGMENT + 2), (2 * SEGMENT, 7), (7, 0)],
)
def test_any_part_reads_alone(offset: int, length: int, tmp_path: Path, key: StoreKey) -> None:
    data = os.urandom(2 * SEGMENT + 7)
    assert read(written(tmp_path, data, key), key, offset, length) == data[offset : offset + length]


def test_the_same_bytes_never_look_the_same_twice(key: StoreKey) -> None:
    first, second = (b"".join(seal(NAME, b"x" * 100, key)) for _ in range(2))
    assert first[24 + 16 :] != second[24 + 16 :]


def test_every_byte_counts(tmp_path: Path, key: StoreKey) -> None:
    """Each byte of a small object changed, head and tag included: none is taken."""
    path = written(tmp_path, b"some weights", key)
    sound = path.read_bytes()
    for i in range(len(sound)):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 1]) + sound[i + 1 :])
        with pytest.raises((Damaged, EncryptionKeyWrong)):
            read(path, key)
    path.write_bytes(sound)
    assert read(path, key) == b"some weights"


@pytest.mark.parametrize(
    "harm", ["swapped", "repeated", "dropped", "last dropped", "cut", "longer", "another's", "empty"]
)
def test_segments_cannot_be_moved(harm: str, tmp_path: Path, key: StoreKey) -> None:
    path = written(tmp_path, os.urandom(3 * SEGMENT), key)
    sound = path.read_bytes()
    head, first, second, third = (
        sound[:HEAD_BYTES],
        *(sound[HEAD_BYTES + i * WHOLE : HEAD_BYTES + (i + 1) * WHOLE] for i in range(3)),
    )
    other = b"".join(seal(NAME, os.urandom(3 * SEGMENT), key))[HEAD_BYTES : HEAD_BYTES + WHOLE]
    path.write_bytes(
        {
            "swapped": head + second + first + third,
            "repeated": head + first + first + third,
            "dropped": head + first + third,
            "last dropped": head + first + second,
            "cut": sound[:-1],
            "longer": sound + b"x",
            "another's": head + other + second + third,
            "empty": b"",
        }[harm]
    )
    with pytest.raises(Damaged):
        read(path, key)


def test_a_length_that_is_not_true_is_found(tmp_path: Path, key: StoreKey) -> None:
    """Two segments made to look like a whole object: length and file agree, and the tags do not."""
    path = written(tmp_path, os.urandom(2 * SEGMENT), key)
    sound = path.read_bytes()
    path.write_bytes(sound[:28] + SEGMENT.to_bytes(8, "big") + sound[36 : HEAD_BYTES + WHOLE])
    with pytest.raises(Damaged):
        read(path, key)


def test_an_object_is_read_only_as_what_it_was_sealed_as(tmp_path: Path, key: StoreKey) -> None:
    path = written(tmp_path, b"weights", key)
    with pytest.raises(Damaged):
        read(path, key, name=OTHER)


def test_another_ring_is_named_and_another_key_of_that_id_is_refused(tmp_path: Path, key: StoreKey) -> None:
    path = written(tmp_path, b"weights", key)
    with pytest.raises(EncryptionKeyWrong, match="72727272"):
        read(path, make_key(b"s" * 16))
    with pytest.raises(Damaged):
        read(path, make_key(b"r" * 16))
