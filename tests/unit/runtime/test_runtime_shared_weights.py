"""What a worker inherits: taken out of sight, waited for while another fills it, let go when nothing comes of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from thaloom.base import memory_files
from thaloom.work.runtime.worker import shared_weights
from thaloom.work.runtime.worker.shared_weights import BLANK, READER, InheritedMemory

GOING = threading.Event()


class Daemon:
    """Who made the memory, and holds it."""

    def __init__(self) -> None:
        self.blank = memory_files.create("thaloom-test")
        assert memory_files.lock(self.blank)
        self.reader = memory_files.reader(self.blank)

    def environment(self, *, fill: bool) -> dict[str, str]:
        """As a child inherits it: descriptors of its own."""
        told = {READER: str(os.dup(self.reader)), "PATH": "/bin"}
        return told | ({BLANK: str(os.dup(self.blank))} if fill else {})

    def let_go(self) -> None:
        os.close(self.blank)
        self.blank = -1


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    for descriptor in (made.blank, made.reader):
        if descriptor >= 0:
            os.close(descriptor)


@pytest.mark.parametrize("environment", [{}, {READER: "x"}, {READER: "-1"}, {READER: "9999"}, {BLANK: ""}])
def test_a_process_that_was_given_nothing_has_none(environment: dict[str, str]) -> None:
    memory = InheritedMemory(environment)
    assert environment == {}
    assert memory.shared(GOING) is None
    memory.loaded(used=False)


def test_no_child_of_ours_finds_it(daemon: Daemon) -> None:
    environment = daemon.environment(fill=True)
    number = int(environment[READER])
    os.set_inheritable(number, True)
    InheritedMemory(environment)
    assert set(environment) == {"PATH"}
    assert not os.get_inheritable(number)


def test_who_is_to_fill_it_waits_for_nobody(daemon: Daemon) -> None:
    memory = InheritedMemory(daemon.environment(fill=True))
    shared = memory.shared(GOING)
    assert shared is not None
    assert shared.blank is not None


def test_who_reads_waits_until_it_is_sealed(daemon: Daemon) -> None:
    memory = InheritedMemory(daemon.environment(fill=False))
    threading.Timer(0.05, lambda: memory_files.seal(daemon.blank)).start()
    shared = memory.shared(GOING)
    assert shared is not None
    assert shared.blank is None
    assert memory_files.is_sealed(shared.reader)


def test_who_reads_waits_no_longer_than_the_writer_lives(daemon: Daemon) -> None:
    memory = InheritedMemory(daemon.environment(fill=False))
    threading.Timer(0.05, daemon.let_go).start()
    shared = memory.shared(GOING)
    assert shared is not None
    assert not memory_files.is_sealed(shared.reader)


def test_what_others_have_put_there_is_there(daemon: Daemon) -> None:
    assert InheritedMemory({}).there_bytes() == 0
    os.write(daemon.blank, bytes(4096))
    assert InheritedMemory(daemon.environment(fill=False)).there_bytes() == 4096


def test_who_is_told_to_end_waits_no_longer(daemon: Daemon) -> None:
    memory = InheritedMemory(daemon.environment(fill=False))
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    assert memory.shared(stop) is None


def test_nobody_waits_for_ever(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "PATIENCE_S", 0.05)
    shared = InheritedMemory(daemon.environment(fill=False)).shared(GOING)
    assert shared is not None
    assert not memory_files.is_sealed(shared.reader)


def test_what_is_used_stays_open_for_a_later_daemon_to_find(daemon: Daemon) -> None:
    environment = daemon.environment(fill=True)
    reader, blank = int(environment[READER]), int(environment[BLANK])
    memory = InheritedMemory(environment)
    memory.loaded(used=True)
    memory.loaded(used=True)
    assert memory_files.name_of(reader) == "thaloom-test"
    assert memory_files.name_of(blank) is None
    os.close(reader)


def test_what_is_not_used_is_let_go(daemon: Daemon) -> None:
    environment = daemon.environment(fill=True)
    numbers = int(environment[READER]), int(environment[BLANK])
    memory = InheritedMemory(environment)
    memory.given_up()
    assert memory_files.name_of(numbers[1]) is None
    memory.loaded(used=False)
    assert memory_files.name_of(numbers[0]) is None
