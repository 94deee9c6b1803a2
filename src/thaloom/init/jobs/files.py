"""The files of a job: what its reaper writes, and what can be read from it by whoever comes later."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.files import sync_folder
from thaloom.base.ids import JobName
from thaloom.base.procs import ProcessIdentity, identify
from thaloom.init.layout import WALLS

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid. Source: fcntl(2)."""
_OF_ATTEMPT = (".plan", ".claim", ".ended", ".ended.partial", ".failure", WALLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who keeps an attempt; `program` is there as soon as one was let go."""

    reaper: ProcessIdentity
    program: ProcessIdentity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the reaper wrote of an end."""

    by: str
    exit_code: int | None
    signal: int | None
    ended_at: float
    log_lost_bytes: int = 0


@dataclass(frozen=True, slots=True)
class JobFiles:
    """One job's, all in its own folder."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def earlier_log(self) -> Path:
        """What came before `log` (init.jobs.reaper.log)."""
        return self.folder / "log.1"

    @property
    def reaper_log(self) -> Path:
        """Empty, unless the reaper itself went wrong."""
        return self.folder / "reaper.log"

    @property
    def work(self) -> Path:
        """A place of its own to work in."""
        return self.folder / "work"

    @property
    def disk(self) -> Path:
        """The file system that lies at `work` for a job whose bytes are limited."""
        return self.folder / "disk.img"

    def of(self, attempt: int, suffix: str) -> Path:
        return self.folder / f"{attempt}{suffix}"

    def plan(self, attempt: int) -> Path:
        return self.of(attempt, ".plan")

    def claim_file(self, attempt: int) -> Path:
        return self.of(attempt, ".claim")

    def ended_file(self, attempt: int) -> Path:
        return self.of(attempt, ".ended")

    def failure(self, attempt: int) -> Path:
        """Why its launcher could not build a wall, or start it."""
        return self.of(attempt, ".failure")

    def walls(self, attempt: int) -> Path:
        return self.of(attempt, WALLS)

    def create(self) -> None:
        """On the disk before anything runs: a claim in a folder that the disk forgets would be no claim."""
        for folder in (self.folder, self.work):
            folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self.folder.parent)

    def keeper(self) -> ProcessIdentity | None:
        """The reaper that holds the lock now."""
        try:
            with self.lock.open("rb+") as file:
                before = _holder(file.fileno())
                found = None if before is None else identify(before)
                return found if before is not None and _holder(file.fileno()) == before else None
        except FileNotFoundError:
            return None

    def claim(self, attempt: int) -> Claim | None:
        """None: nobody has made this attempt."""
        try:
            lines = self.claim_file(attempt).read_text().splitlines()
        except FileNotFoundError:
            return None
        found = {what: ProcessIdentity(pid=int(pid), start_ticks=int(ticks)) for what, pid, ticks in _words(lines)}
        return Claim(reaper=found["reaper"], program=found.get("program")) if "reaper" in found else None

    def ended(self, attempt: int) -> Written | None:
        """None: it has not ended, or whoever was to write so was killed."""
        try:
            facts = json.loads(self.ended_file(attempt).read_bytes())
            return Written(
                by=facts["by"],
                exit_code=facts["exit_code"],
                signal=facts["signal"],
                ended_at=facts["ended_at"],
                log_lost_bytes=facts["log_lost_bytes"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def attempts(self) -> set[int]:
        """Those that have left a file."""
        try:
            names = [path.name.split(".", 1)[0] for path in self.folder.iterdir()]
        except FileNotFoundError:
            return set()
        return {int(name) for name in names if name.isdigit()}

    def forget(self, attempt: int) -> None:
        """What only mattered while it was kept. Logs stay."""
        for suffix in _OF_ATTEMPT:
            self.of(attempt, suffix).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def job_folders(jobs: Path) -> Iterator[tuple[JobName, JobFiles]]:
    """Of all jobs that have one."""
    for path in sorted(jobs.iterdir()):
        if path.is_dir():
            yield JobName(path.name), JobFiles(path)


def _words(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Whole lines only: a reaper may have been killed within one."""
    for line in lines:
        words = line.split("\t")
        if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
            yield words[0], words[1], words[2]


def _holder(descriptor: int) -> int | None:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK or pid <= 0 else int(pid)
