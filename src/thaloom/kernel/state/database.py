"""The database file: opened only when it is sound and not newer than we are, written by one writer, flushed each time.

WAL with `synchronous=FULL`: a transaction that returned is on the disk.
Source: sqlite.org/pragma.html#pragma_synchronous.
One connection serves all threads of the process under a lock. Other processes are kept out of the node's own database
by the daemon's FolderLock; what the doors keep is written by several, each in transactions of its own.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.errors import DiskFull, StateUnusable
from thaloom.base.files import free_bytes, sync_folder
from thaloom.kernel.state.migrations import MIGRATIONS, Migration, migrate, version_of
from thaloom.kernel.state.reserve import Reserve

_BUSY_TIMEOUT_S = 5.0
"""How long another connection's transaction is waited for: another door's, or that of a person's `sqlite3` shell."""


class Database:
    """An open database of the latest version. Raises StateUnusable instead of opening; never deletes or repairs.

    `steps`: how it came to look as it does; None: the node's own. Without `thorough` it is not read through when it is
    opened: for one that may be large, where damage shows when it is met. `reserve`: space that is given up when the
    disk is full, so that this database can still be written.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        steps: tuple[Migration, ...] | None = None,
        thorough: bool = True,
        reserve: Reserve | None = None,
    ) -> None:
        self.path = path
        self._reserve = reserve
        self._lock = threading.RLock()
        with self._named_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            if reserve is not None:
                reserve.keep()
            if path.exists() and path.stat().st_size:
                _inspect(path, latest=(steps or MIGRATIONS)[-1].version, thorough=thorough)
            self._connection = _connect(path, "rwc")
            try:
                _configure(self._connection)
                migrate(self._connection, clock, steps=steps)
                sync_folder(path.parent)
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk when the block has ended, or none of it. One within another is part
        of that one. Raises DiskFull."""
        with self._lock, self._named_errors():
            if self._writing():  # this thread: it holds the lock
                yield self._connection
                return
            if self._reserve is not None:
                self._reserve.keep()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._reserve is not None and _is_full(error):
                    self._reserve.release()  # this one failed; the next one finds room
                if self._writing():  # a full disk has rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    def with_room(self, work: Callable[[], None]) -> None:
        """Do it, again with a piece of the reserve if the disk is full, and with a second one. Raises DiskFull."""
        for _ in range(2):
            try:
                return work()
            except DiskFull:
                with self._lock:
                    if self._reserve is None or not self._reserve.make_room():
                        raise
        return work()

    def _writing(self) -> bool:
        return self._connection.in_transaction

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock, self._named_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """All as it is at one moment, on a connection of its own: a long look keeps nobody from writing."""
        with self._named_errors():
            connection = _connect(self.path, "ro")
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # our own mistake, not the file's
        except sqlite3.DatabaseError as error:
            if _is_full(error):
                raise DiskFull(
                    f"no space left on the disk of {str(self.path)!r}", free_bytes=free_bytes(self.path)
                ) from error
            raise StateUnusable(f"the node's database {str(self.path)!r} cannot be used: {error}") from error
        except OSError as error:  # of its folder
            raise StateUnusable(f"the node's database {str(self.path)!r} cannot be used: {error.strerror}") from error


def _is_full(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _inspect(path: Path, *, latest: int, thorough: bool) -> None:
    """Look at a database without changing it, but for what SQLite takes back by itself: the power went while the file
    was made, before it was in WAL mode, and its rollback journal lies beside it."""
    connection = _connect(path, "rw" if path.with_name(f"{path.name}-journal").exists() else "ro")
    try:
        problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0] if thorough else "ok"
        if problem != "ok":
            raise StateUnusable(f"the node's database {str(path)!r} is damaged: {problem}")
        version = version_of(connection)
        if version == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
            raise StateUnusable(f"{str(path)!r} is the database of another program")
        if version > latest:
            raise StateUnusable(
                f"the node's database {str(path)!r} has version {version}; this Thaloom knows versions up to {latest}",
                version=version,
                latest=latest,
            )
    finally:
        connection.close()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,  # we say BEGIN and COMMIT ourselves
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
