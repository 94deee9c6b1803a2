"""Weights in memory that processes share: filled once, known whole by its seal, and done without wherever it fails."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.hal_cpu.test_cpu_packed_file import CASE, Keeper, answer
from thaloom.base import memory_files
from thaloom.hal.driver import Shared
from thaloom.hal.drivers.cpu import packed_file, shared_memory, weights
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.memory import ALIGNMENT
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.drivers.cpu.shared_memory import SharedMemory
from thaloom.hal.testing.bench import LIMITS


class Sharer(Keeper):
    """A source with memory as well. `given`: what it was given."""

    def __init__(self, folder: Path, given: Shared | None) -> None:
        super().__init__(folder)
        self.given = given
        self.told: list[str] = []

    def shared(self) -> Shared | None:
        return self.given

    def not_shared(self, reason: str) -> None:
        self.told.append(reason)


class Memory:
    """A memory file as the daemon makes it."""

    def __init__(self) -> None:
        self.blank = memory_files.create("thaloom-test")
        self.reader = memory_files.reader(self.blank)

    def to_fill(self) -> Shared:
        return Shared(reader=self.reader, blank=self.blank)

    def to_read(self) -> Shared:
        return Shared(reader=self.reader)

    def close(self) -> None:
        for descriptor in (self.blank, self.reader):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture(autouse=True)
def _any_size_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WORTH_KEEPING", 0)


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


@pytest.fixture
def wanted(build: str, tmp_path: Path) -> bytes:
    """The answer, and `tmp_path` has the packed file from then on."""
    return answer(Keeper(tmp_path))


def test_the_first_packs_and_fills_and_the_second_needs_neither_tensors_nor_file(
    build: str, tmp_path: Path, memory: Memory
) -> None:
    first = Sharer(tmp_path, memory.to_fill())
    told = answer(first)
    assert (first.told, first.lost) == ([], [])
    assert memory_files.is_sealed(memory.reader)
    (tmp_path / "weights.packed").unlink()
    second = Sharer(tmp_path, memory.to_read())
    assert answer(second) == told
    assert (second.reads, second.told, second.lost) == (0, [], [])


def test_what_is_packed_already_is_only_copied(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    sharer = Sharer(tmp_path, memory.to_fill())
    assert answer(sharer) == wanted
    assert (sharer.reads, sharer.told) == (0, [])


def test_all_of_its_weights_are_told_as_shared_and_given_back(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    driver = CpuDriver()
    executable = driver.open(DEVICE_ID, num_threads=1).compile(CASE.program, Sharer(tmp_path, memory.to_fill()), LIMITS)
    assert executable.shared_weight_bytes == executable.weight_bytes == os.fstat(memory.reader).st_size  # type: ignore[attr-defined]
    executable.close()
    assert driver.used_bytes == 0


def test_without_memory_nothing_is_shared(wanted: bytes, tmp_path: Path) -> None:
    sharer = Sharer(tmp_path, None)
    assert answer(sharer) == wanted
    assert sharer.told == []


def test_one_whose_writer_was_killed_is_told_and_not_used(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    whole = Memory()
    answer(Sharer(tmp_path, whole.to_fill()))
    size = os.fstat(whole.reader).st_size
    os.ftruncate(memory.blank, size)
    os.sendfile(memory.blank, whole.reader, 0, size)  # every byte is there; only its word that they are is missing
    whole.close()
    sharer = Sharer(tmp_path, memory.to_read())
    assert answer(sharer) == wanted
    assert sharer.told == ["it is not sealed"]


@pytest.mark.parametrize("content", [b"", b"x" * 100, packed_file.MAGIC + b"\x40" + bytes(200)])
def test_a_sealed_one_that_holds_something_else_is_not_used(
    wanted: bytes, tmp_path: Path, memory: Memory, content: bytes
) -> None:
    os.write(memory.blank, content)
    memory_files.seal(memory.blank)
    sharer = Sharer(tmp_path, memory.to_read())
    assert answer(sharer) == wanted
    assert len(sharer.told) == 1


def test_one_of_another_layout_or_length_is_not_used(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    answer(Sharer(tmp_path, memory.to_fill()))
    backend = CpuDriver().open(DEVICE_ID, num_threads=1)
    with pytest.raises(packed_file.Unusable, match="other weights"):
        packed_file.attach(memory.reader, CASE.program.weights, "another", backend.map_shared)  # type: ignore[attr-defined]
    longer = Memory()
    size = os.fstat(memory.reader).st_size
    os.ftruncate(longer.blank, size + ALIGNMENT)
    os.sendfile(longer.blank, memory.reader, 0, size)
    memory_files.seal(longer.blank)
    sharer = Sharer(tmp_path, longer.to_read())
    assert answer(sharer) == wanted
    assert sharer.told == ["it is not as long as it should be"]
    longer.close()


def test_a_damaged_file_is_made_again_and_only_then_shared(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "weights.packed"
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    sharer = Sharer(tmp_path, memory.to_fill())
    assert answer(sharer) == wanted
    assert sharer.told == []
    assert "made again" in sharer.lost[0]
    assert answer(Sharer(tmp_path, memory.to_read())) == wanted


def test_two_writers_at_once_fill_one_each(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    other = Memory()
    for each in (memory, other):
        assert answer(Sharer(tmp_path, each.to_fill())) == wanted
    assert os.pread(memory.reader, 1 << 22, 0) == os.pread(other.reader, 1 << 22, 0)
    other.close()


def test_a_second_writer_of_the_same_one_does_it_no_harm(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    answer(Sharer(tmp_path, memory.to_fill()))
    late = Sharer(tmp_path, memory.to_fill())
    assert answer(late) == wanted
    assert len(late.told) == 1
    assert answer(Sharer(tmp_path, memory.to_read())) == wanted


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOMEM])
def test_a_kernel_without_huge_pages_to_share_is_told_and_the_weights_are_private(
    wanted: bytes, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(_: SharedMemory) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(SharedMemory, "make_huge", refused)
    sharer = Sharer(tmp_path, memory.to_fill())
    assert answer(sharer) == wanted
    assert len(sharer.told) == 1
    assert not memory_files.is_sealed(memory.reader)


def test_no_space_for_it_is_told(
    wanted: bytes, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_file, "whole_pages", lambda _: 1 << 62)
    sharer = Sharer(tmp_path, memory.to_fill())
    assert answer(sharer) == wanted
    assert len(sharer.told) == 1


def test_no_place_on_disk_leaves_the_memory_alone(
    build: str, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_file, "free_bytes", lambda _: 1000)
    sharer = Sharer(tmp_path, memory.to_fill())
    answer(sharer)
    assert "more than half" in sharer.lost[0]
    assert not memory_files.is_sealed(memory.reader)


def test_a_packed_file_that_vanishes_in_between_costs_a_second_packing(
    wanted: bytes, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = packed_file.write

    def written_and_gone(path: Path, *rest: object) -> None:
        real(path, *rest)  # type: ignore[arg-type]
        path.unlink()

    (tmp_path / "weights.packed").unlink()
    monkeypatch.setattr(packed_file, "write", written_and_gone)
    sharer = Sharer(tmp_path, memory.to_fill())
    assert answer(sharer) == wanted
    assert sharer.reads == 2 * len(CASE.program.weights)


def test_what_was_refused_once_is_not_touched_again(
    wanted: bytes, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another file's by then."""
    path = tmp_path / "weights.packed"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.write(other, b"somebody's")

    def refused(*_: object) -> None:
        os.dup2(other, memory.blank)
        raise OSError(errno.ENOMEM, "no huge pages")

    monkeypatch.setattr(packed_file, "share", refused)
    monkeypatch.setattr(packed_file, "read", lambda *_: (_ for _ in ()).throw(packed_file.Unusable("damaged")))
    sharer = Sharer(tmp_path, memory.to_fill())
    assert answer(sharer) == wanted
    assert len(sharer.told) == 1
    assert (tmp_path / "other").read_bytes() == b"somebody's"
    os.close(other)


def test_descriptors_that_are_gone_are_told(wanted: bytes, tmp_path: Path, memory: Memory) -> None:
    given = memory.to_fill()
    memory.close()
    sharer = Sharer(tmp_path, given)
    assert answer(sharer) == wanted
    assert len(sharer.told) == 1


def test_mapped_memory_is_aligned_read_only_and_used_no_more_once_freed(memory: Memory) -> None:
    os.ftruncate(memory.blank, ALIGNMENT)
    os.pwrite(memory.blank, b"weights", 0)
    given_back: list[int] = []
    mapped = SharedMemory(memory.reader, given_back.append)
    assert mapped.address % ALIGNMENT == 0
    assert mapped.data[:7].tobytes() == b"weights"
    with pytest.raises(ValueError, match="read-only"):
        mapped.data[0] = 1
    view = mapped.data
    mapped.free()
    mapped.free()
    assert given_back == [ALIGNMENT]
    for use in (lambda: mapped.data, lambda: mapped.address):
        with pytest.raises(ValueError, match="freed"):
            use()
    assert np.array_equal(view[:7], np.frombuffer(b"weights", np.uint8))  # an older view still has its pages


def test_huge_pages_are_tried_again_and_then_refused(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    os.ftruncate(memory.blank, ALIGNMENT)
    mapped = SharedMemory(memory.blank, lambda _: None, write=True)
    monkeypatch.setattr(shared_memory, "_COLLAPSE", 9999)
    with pytest.raises(OSError, match="huge pages") as refusal:
        mapped.make_huge()
    assert refusal.value.errno == errno.EINVAL
    mapped.free()
