"""The bound on all that is kept, and the database it is counted in."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, DiskFull, StateUnusable
from thaloom.base.files import free_bytes
from thaloom.base.procs import ProcessIdentity, identify
from thaloom.base.units import GIB, MIB, format_bytes
from thaloom.kernel.state.database import Database
from thaloom.kernel.state.kept.migrations import STEPS
from thaloom.kernel.state.reserve import GIVEN_UP_BYTES

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepLimits:
    """How much the door keeps. When it is full, the responses not used for longest make room; files and batches never
    do: what does not fit is refused."""

    disk_share: float = 0.1
    """Of the bytes that would be free on the disk if nothing were kept: what is kept never fills a disk. On a disk that
    is full nothing new is kept, and nothing is dropped for it."""
    max_bytes: int = 100 * GIB
    """Whatever the disk has."""
    max_responses: int = 100_000
    response_days: float = 30.0
    """Unused for so long, a response is dropped; as long as OpenAI promises to keep one."""
    max_files: int = 10_000
    """OpenAI's own bound on one page of a list."""
    max_file_bytes: int = 512 * MIB
    """OpenAI's own bound on one file."""
    max_batches: int = 10_000
    """Those that are over make room, oldest first."""

    def __post_init__(self) -> None:
        if not 0.0 < self.disk_share <= 1.0:
            raise BadParameter("disk_share must be above 0 and at most 1", param="disk_share")
        if not 0.0 < self.response_days <= 36_500.0:
            raise BadParameter("response_days must be above 0 and at most 36500", param="response_days")
        for name in ("max_bytes", "max_responses", "max_files", "max_file_bytes", "max_batches"):
            if getattr(self, name) < 1:
                raise BadParameter(f"{name} must be at least 1", param=name)


class KeptLedger:
    """The open database and the bound. Opened at the first use; what cannot be opened is tried again at the next."""

    def __init__(self, folder: Path, clock: Clock, limits: KeepLimits) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.clock = clock
        self.limits = limits
        self._lock = threading.Lock()
        self._database: Database | None = None

    @property
    def database(self) -> Database:
        """Raises StateUnusable."""
        with self._lock:
            if self._database is None:
                self._database = self._open()
            return self._database

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def allowed_bytes(self, used_bytes: int) -> int:
        """Raises DiskFull where somebody else has filled the disk: what is still free is for stopping, healing and the
        journal, and dropping what is kept would not help."""
        free = free_bytes(self.folder)
        if free < GIVEN_UP_BYTES:
            raise DiskFull(
                f"nothing more can be kept: {format_bytes(free)} are free on the disk of {str(self.folder)!r}",
                free_bytes=free,
            )
        share = self.limits.disk_share * (free - GIVEN_UP_BYTES + used_bytes)
        return min(self.limits.max_bytes, int(share))

    def make_room(self, connection: sqlite3.Connection, num_bytes: int, *, replaced_bytes: int = 0) -> None:
        """Drop responses, the longest unused first, until `num_bytes` more fit. Within a transaction: if they cannot,
        DiskFull is raised and nothing is dropped. `replaced_bytes`: what will go in their stead."""
        used = used_bytes(connection)
        allowed = self.allowed_bytes(used)
        while used - replaced_bytes + num_bytes > allowed:
            row = connection.execute(
                "SELECT seq FROM responses WHERE id NOT IN (SELECT id FROM jobs) ORDER BY used_at, seq LIMIT 1"
            ).fetchone()
            if row is None:
                raise DiskFull(
                    f"{format_bytes(num_bytes)} more do not fit: of the {format_bytes(allowed)} the door may keep here,"
                    f" {format_bytes(used)} are taken (delete files, or raise [keep] in config.toml)",
                    needed_bytes=num_bytes,
                    allowed_bytes=allowed,
                    used_bytes=used,
                )
            connection.execute("DELETE FROM responses WHERE seq = ?", (row["seq"],))
            used = used_bytes(connection)  # what was told of it went with it

    def check(self) -> None:
        """What is counted is what is there."""
        for table in ("responses", "files", "lines", "events"):
            (row,) = self.database.read(f"SELECT count(*) AS n, coalesce(sum(num_bytes), 0) AS b FROM {table}")
            (total,) = self.database.read("SELECT * FROM totals WHERE name = ?", (table,))
            assert (row["n"], row["b"]) == (total["num_rows"], total["num_bytes"]), table

    def _open(self) -> Database:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # what people said is theirs alone
            self.files.mkdir(exist_ok=True, mode=0o700)
            with _alone(self.folder / "opening"):  # switching to WAL and migrating want nobody beside them
                return Database(self.folder / "kept.db", self.clock, steps=STEPS, thorough=False)
        except OSError as error:
            raise StateUnusable(f"the door cannot keep anything in {str(self.folder)!r}: {error.strerror}") from error


def used_bytes(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT sum(num_bytes) FROM totals").fetchone()[0])


def num_rows(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute("SELECT num_rows FROM totals WHERE name = ?", (table,)).fetchone()[0])


def owner_now() -> str:
    """This process, in a form that says of a row whether who works on it still lives."""
    me = identify(os.getpid())
    assert me is not None, "a process that runs has an identity"
    return f"{me.pid}:{me.start_ticks}"


def owner_lives(owner: str) -> bool:
    if not owner:
        return False
    pid, _, ticks = owner.partition(":")
    return ProcessIdentity(pid=int(pid), start_ticks=int(ticks)).alive()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time. Waits for the others, which have an instant's work."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
