"""Memory files: whole once sealed, and then beyond everybody's reach; a lock that ends with who holds it."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from thaloom.base import memory_files


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = memory_files.create("thaloom-test")
    yield descriptor
    os.close(descriptor)


def test_a_new_one_is_empty_named_and_not_sealed(file: int) -> None:
    assert os.fstat(file).st_size == 0
    assert memory_files.name_of(file) == "thaloom-test"
    assert not memory_files.is_sealed(file)
    assert not os.get_inheritable(file)


def test_nobody_changes_lengthens_or_shortens_a_sealed_one(file: int) -> None:
    os.write(file, b"weights")
    memory_files.seal(file)
    assert memory_files.is_sealed(file)
    for change in (
        lambda: os.pwrite(file, b"x", 0),
        lambda: os.ftruncate(file, 0),
        lambda: os.ftruncate(file, 1 << 20),
        lambda: mmap.mmap(file, 7, prot=mmap.PROT_READ | mmap.PROT_WRITE).close(),
        lambda: os.close(os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_TRUNC)),
    ):
        with pytest.raises(OSError):
            change()
    assert os.pread(file, 10, 0) == b"weights"


def test_one_that_is_mapped_for_writing_is_not_sealed(file: int) -> None:
    os.ftruncate(file, 4096)
    with mmap.mmap(file, 4096) as view:
        view[0] = 1
        with pytest.raises(OSError) as refusal:
            memory_files.seal(file)
    assert refusal.value.errno == errno.EBUSY
    assert not memory_files.is_sealed(file)


def test_a_reader_sees_what_is_written_and_cannot_write(file: int) -> None:
    reader = memory_files.reader(file)
    os.write(file, b"weights")
    assert os.pread(reader, 10, 0) == b"weights"
    with pytest.raises(OSError):
        os.write(reader, b"x")
    os.close(reader)


def test_other_files_are_no_memory_files() -> None:
    descriptor = os.open("/proc/self/stat", os.O_RDONLY)
    assert not memory_files.is_sealed(descriptor)
    assert memory_files.name_of(descriptor) is None
    os.close(descriptor)
    assert memory_files.name_of(descriptor) is None
    assert not memory_files.is_sealed(descriptor)


def test_a_lock_lasts_as_long_as_any_heir_of_the_descriptor(file: int) -> None:
    reader = memory_files.reader(file)
    assert not memory_files.is_locked(reader)
    assert memory_files.lock(file)
    other = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
    assert not memory_files.lock(other)
    os.close(other)
    own = os.dup(file)
    os.close(own)
    assert memory_files.is_locked(reader)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(file,)) as heir:
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, file)
        os.close(nothing)
        assert memory_files.is_locked(reader)
        heir.kill()
    assert not memory_files.is_locked(reader)
    os.close(reader)


def test_its_pages_are_counted(file: int) -> None:
    os.ftruncate(file, 1 << 20)
    assert memory_files.held_bytes(file) == 0
    os.pwrite(file, bytes(8192), 0)
    assert memory_files.held_bytes(file) == 8192


def test_a_host_that_knows_no_seal_against_running_has_memory_files_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = os.memfd_create, []

    def older(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & memory_files._NOEXEC_SEAL:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(name, flags)

    monkeypatch.setattr(os, "memfd_create", older)
    os.close(memory_files.create("thaloom-test"))
    assert len(asked) == 2
