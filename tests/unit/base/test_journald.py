"""Events in the journal: each fact a field; what the journal does not take goes to the stream."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.events import Event, at_level
from thaloom.base.journald import JournalWriter, is_journal, log_to
from thaloom.base.log import LogWriter


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class Happened(Event):
    service: str
    count: int
    detail: str | None = None


@pytest.fixture
def journal(short_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(short_path / "socket"))
        made.settimeout(5)
        yield made


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def writer(journal: socket.socket, stream: io.StringIO) -> Iterator[JournalWriter]:
    with contextlib.closing(JournalWriter(ManualClock(), stream, path=Path(journal.getsockname()))) as made:
        yield made


def parsed(message: bytes) -> dict[str, str]:
    """Source: systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    found = {}
    while message:
        line, _, rest = message.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value.decode()
        message = rest
    return found


def test_each_fact_is_a_field(journal: socket.socket, writer: JournalWriter) -> None:
    writer(Happened(service="聊天", count=3))
    assert parsed(journal.recv(65536)) == {
        "MESSAGE": "Happened service='聊天' count=3 detail=None",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "thaloomd",
        "THALOOM_EVENT": "Happened",
        "THALOOM_SERVICE": "聊天",
        "THALOOM_COUNT": "3",
    }


def test_a_value_with_lines_cannot_pass_for_a_field(journal: socket.socket, writer: JournalWriter) -> None:
    writer(Happened(service="a\nPRIORITY=0\nUNIT=x", count=1))
    found = parsed(journal.recv(65536))
    assert found["PRIORITY"] == "4"
    assert found["THALOOM_SERVICE"] == "a\nPRIORITY=0\nUNIT=x"
    assert "UNIT" not in found


def test_more_than_a_datagram_goes_as_a_file(journal: socket.socket, writer: JournalWriter) -> None:
    writer(Happened(service="x", count=1, detail="y" * 1_000_000))
    _, rights, _, _ = socket.recv_fds(journal, 65536, 1)
    with open(rights[0], "rb") as file:  # noqa: PTH123
        file.seek(0)
        assert parsed(file.read())["THALOOM_DETAIL"] == "y" * 1_000_000


def test_without_a_journal_lines_have_their_priority_in_front(writer: JournalWriter, stream: io.StringIO) -> None:
    writer.close()
    writer(Happened(service="x", count=1))
    assert stream.getvalue().startswith('<4>{"event": "Happened", "service": "x"')


def test_only_what_is_asked_for_is_written_and_that_may_change(journal: socket.socket, writer: JournalWriter) -> None:
    writer.level = "error"
    writer(Happened(service="x", count=1))
    writer.level = "info"
    writer(Happened(service="x", count=2))
    assert parsed(journal.recv(65536))["THALOOM_COUNT"] == "2"


def test_only_a_stream_that_is_the_journals_is_taken_for_one(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        status = os.fstat(stream.fileno())
        ours = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(stream, ours)
        assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not is_journal(stream, {})
        written = log_to(ManualClock(), stream, level="info", environment=ours)
        assert isinstance(written, JournalWriter)
        written.close()
        assert isinstance(log_to(ManualClock(), stream, level="info", environment={}), LogWriter)
    no_file: TextIO = io.StringIO()
    assert not is_journal(no_file, {"JOURNAL_STREAM": "1:2"})
