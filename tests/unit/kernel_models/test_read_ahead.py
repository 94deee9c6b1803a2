"""Chunks fetched ahead by several threads: the same bytes, each checked, whatever the order and the file system."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thaloom.base.ids import Digest
from thaloom.kernel.models import direct
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.read_ahead import AHEAD, ReadAhead
from thaloom.kernel.models.trees import Chunk

SIZES = [1, 4095, 4096, 4097, 20_000, 8192] * 8


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "objects")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as made:
        yield made


def content(i: int) -> bytes:
    return random.Random(i).randbytes(SIZES[i])


def stored(objects: Objects) -> list[Chunk]:
    chunks = []
    for i in range(len(SIZES)):
        chunk = Chunk(digest=Digest(hashlib.sha256(content(i)).hexdigest()), num_bytes=SIZES[i])
        objects.put(chunk.digest, content(i))
        chunks.append(chunk)
    return chunks


def test_in_any_order_the_bytes_are_right(objects: Objects, threads: ThreadPoolExecutor) -> None:
    ahead = ReadAhead(objects, stored(objects), threads)
    order = [*range(len(SIZES)), *random.Random(0).sample(range(len(SIZES)), len(SIZES))]
    for i in order:
        ahead.fetch(range(i, min(len(SIZES), i + 3 * AHEAD)))
        assert ahead.take(i) == content(i)


def test_what_was_damaged_is_told_when_it_is_taken_and_not_before(
    objects: Objects, threads: ThreadPoolExecutor
) -> None:
    chunks = stored(objects)
    path = objects.path(chunks[2].digest)
    path.write_bytes(bytes(SIZES[2]))
    ahead = ReadAhead(objects, chunks, threads)
    for _ in range(2):
        ahead.fetch(range(6))
        assert ahead.take(1) == content(1)
        with pytest.raises(BadObject, match="does not have the bytes"):
            ahead.take(2)
    path.write_bytes(content(2))
    ahead.fetch([2])
    assert ahead.take(2) == content(2)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
@pytest.mark.parametrize("i", [1, 2, 4])
def test_another_length_is_never_taken(objects: Objects, change: object, i: int) -> None:
    chunk = stored(objects)[i]
    objects.path(chunk.digest).write_bytes(change(content(i)))  # type: ignore[operator]
    with pytest.raises(BadObject) as told:
        objects.read_direct(chunk.digest, direct.aligned(SIZES[4]), chunk.num_bytes)
    assert told.value.problem in ("truncated", "altered")


def test_one_that_is_missing_is_told(objects: Objects) -> None:
    chunk = stored(objects)[3]
    objects.path(chunk.digest).unlink()
    with pytest.raises(BadObject, match="missing"):
        objects.read_direct(chunk.digest, direct.aligned(5000), chunk.num_bytes)


@pytest.fixture
def _nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_cached", lambda *_: None)


@pytest.mark.usefixtures("_nothing_is_cached")
@pytest.mark.parametrize("when", ["open", "read", "never"])
def test_a_file_system_without_direct_reads_is_read_through_the_page_cache(
    objects: Objects, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    chunk = stored(objects)[4]
    opened, read, direct_ones = os.open, os.preadv, set[int]()

    def picky_open(path: Path, flags: int, *rest: int) -> int:
        if when == "open" and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        file = opened(path, flags, *rest)
        direct_ones.update({file} if flags & os.O_DIRECT else set())
        return file

    def picky_read(file: int, *rest: object) -> int:
        if when == "read" and file in direct_ones:
            raise OSError(errno.EINVAL, "Invalid argument")
        return read(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", picky_open)
    monkeypatch.setattr(os, "preadv", picky_read)
    room = direct.aligned(SIZES[4])
    objects.read_direct(chunk.digest, room, chunk.num_bytes)
    assert room[: SIZES[4]] == content(4)


def test_what_is_cached_is_not_read_from_the_disk_again(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = stored(objects)[4]
    objects.read(chunk.digest)
    opened, flags_seen = os.open, []

    def noting(path: Path, flags: int, *rest: int) -> int:
        flags_seen.append(bool(flags & os.O_DIRECT))
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", noting)
    room = direct.aligned(SIZES[4])
    objects.read_direct(chunk.digest, room, chunk.num_bytes)
    assert room[: SIZES[4]] == content(4)
    assert flags_seen == [False]


@pytest.mark.usefixtures("_nothing_is_cached")
def test_a_disk_that_fails_is_told_and_not_asked_again(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = stored(objects)[4]

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(BadObject, match="Input/output error"):
        objects.read_direct(chunk.digest, direct.aligned(SIZES[4]), chunk.num_bytes)
