"""A job's log as it grows, over the seam between its two files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from thaloom.base.clock import SystemClock
from thaloom.init.jobs.files import JobFiles
from thaloom.init.jobs.logs import follow_job_log
from thaloom.init.jobs.reaper.log import BoundedLog


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    found = JobFiles(tmp_path / "a")
    found.create()
    return found


async def said(files: JobFiles, tail: int) -> bytes:
    return b"".join([block async for block in follow_job_log(files, tail, SystemClock(), lambda: False)])


def test_the_last_lines_come_from_both_files(files: JobFiles) -> None:
    log = BoundedLog(str(files.log), 40)
    for number in range(8):
        log.write(b"line %d\n" % number)
    log.close()
    assert asyncio.run(said(files, 100)).endswith(b"line 6\nline 7\n")
    assert asyncio.run(said(files, 4)) == b"line 4\nline 5\nline 6\nline 7\n"
    assert asyncio.run(said(files, 0)) == b""


def test_there_may_be_none(files: JobFiles) -> None:
    assert asyncio.run(said(files, 10)) == b""


def test_what_comes_is_followed_over_the_seam(files: JobFiles) -> None:
    async def follow() -> bytes:
        log = BoundedLog(str(files.log), 200)
        going_on, got = True, b""
        stream = follow_job_log(files, 10, SystemClock(), lambda: going_on)
        for number in range(24):
            log.write(b"line %02d\n" % number)
            got += await anext(stream)
        going_on = False
        async for block in stream:
            got += block
        log.close()
        return got

    assert asyncio.run(follow()) == b"".join(b"line %02d\n" % number for number in range(24))


def test_a_log_that_cannot_be_written_counts_what_it_lost(files: JobFiles) -> None:
    log = BoundedLog(str(files.log), 100)
    log._descriptor = -1
    log.write(b"x" * 70)
    assert log.lost_bytes == 70


def test_it_goes_on_where_an_earlier_attempt_ended(files: JobFiles) -> None:
    for _ in range(2):
        log = BoundedLog(str(files.log), 1000)
        log.write(b"again\n")
        log.close()
    assert files.log.read_bytes() == b"again\nagain\n"
