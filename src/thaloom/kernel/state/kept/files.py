"""Files of clients: a row from before the first byte until after the last, so that no byte lies about unaccounted."""

from __future__ import annotations

import os
import secrets
import sqlite3
from typing import IO, Any

from thaloom.base.errors import DiskFull, FileInUse, NotKept, TooLarge
from thaloom.base.files import PARTIAL, disk_errors, sync_folder
from thaloom.base.units import MIB, format_bytes
from thaloom.kernel.state.kept.ledger import KeptLedger, num_rows, owner_lives, owner_now
from thaloom.kernel.state.types import KeptFile

_STEP_BYTES = 8 * MIB
"""Room is taken in steps of so much while a file comes in whose length nobody knows."""


class Upload:
    """A file coming in. End it with `finish` or `abort`; one whose process dies is swept away by another.

    One thread at a time."""

    def __init__(self, ledger: KeptLedger, file_id: str, *, reserved_bytes: int, replaced: str) -> None:
        self._ledger = ledger
        self.id = file_id
        self._replaced = replaced
        self._reserved = reserved_bytes
        self._num_bytes = 0
        self._path = ledger.files / file_id
        self._partial = ledger.files / f"{file_id}{PARTIAL}"
        self._file: IO[bytes] = self._partial.open("xb")

    def write(self, data: bytes) -> None:
        """Raises TooLarge, DiskFull."""
        self._num_bytes += len(data)
        if self._num_bytes > self._ledger.limits.max_file_bytes:
            raise TooLarge(
                f"the file has more than the {format_bytes(self._ledger.limits.max_file_bytes)} a file may have"
            )
        if self._num_bytes > self._reserved:
            try:
                self._reserve(self._num_bytes + _STEP_BYTES)
            except DiskFull:
                self._reserve(self._num_bytes)
        with disk_errors(self._path):
            self._file.write(data)

    def finish(self, *, filename: str, purpose: str, expires_after_s: float | None = None) -> KeptFile:
        """The whole file, on the disk and kept. Raises DiskFull."""
        self.seal()
        with self._ledger.database.write() as connection:
            return self.commit(connection, filename=filename, purpose=purpose, expires_after_s=expires_after_s)

    def seal(self) -> None:
        """All bytes on the disk, under the name they will have. Raises DiskFull."""
        with disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self._path)
            sync_folder(self._path.parent)

    def commit(
        self, connection: sqlite3.Connection, *, filename: str, purpose: str, expires_after_s: float | None = None
    ) -> KeptFile:
        """A sealed file becomes one of those that are kept, together with whatever else is in the transaction."""
        now = self._ledger.clock.now()
        kept = KeptFile(
            id=self.id,
            filename=filename,
            purpose=purpose,
            num_bytes=self._num_bytes,
            created_at=now,
            expires_at=None if expires_after_s is None else now + expires_after_s,
        )
        connection.execute(
            "UPDATE files SET filename = ?, purpose = ?, num_bytes = ?, created_at = ?, expires_at = ?,"
            " state = 'ready', owner = '' WHERE id = ?",
            (kept.filename, kept.purpose, kept.num_bytes, kept.created_at, kept.expires_at, kept.id),
        )
        return kept

    def abort(self) -> None:
        """Leave nothing behind, unless the file is kept already."""
        self._file.close()
        remove(self._ledger, self.id, state="writing")  # a row that is `ready` stays, and its bytes with it

    def _reserve(self, num_bytes: int) -> None:
        with self._ledger.database.write() as connection:
            replaced = _lines_bytes(connection, self._replaced)
            self._ledger.make_room(connection, num_bytes - self._reserved, replaced_bytes=replaced)
            connection.execute("UPDATE files SET num_bytes = ? WHERE id = ?", (num_bytes, self.id))
        self._reserved = num_bytes


class KeptFiles:
    """Safe from several threads and processes.

    `holder`: the name of the key that somebody comes with, None for nobody's. What is kept for one is there for no
    other."""

    def __init__(self, ledger: KeptLedger) -> None:
        self._ledger = ledger

    def begin(self, *, expected_bytes: int = 0, in_stead_of_lines: str = "", holder: str | None = None) -> Upload:
        """Take room for a new file. Raises DiskFull, TooLarge, StateUnusable.

        `in_stead_of_lines`: of this batch; they are deleted when the file is there, so their room counts for it.
        """
        limits = self._ledger.limits
        if expected_bytes > limits.max_file_bytes + MIB:  # what a form adds to its file is less
            raise TooLarge(
                f"the file has {format_bytes(expected_bytes)}, at most {format_bytes(limits.max_file_bytes)} are kept"
            )
        file_id = f"file-{secrets.token_hex(12)}"
        reserved = min(expected_bytes, limits.max_file_bytes)
        self.sweep()
        with self._ledger.database.write() as connection:
            if num_rows(connection, "files") >= limits.max_files:
                raise DiskFull(f"{limits.max_files} files are kept, as many as may be; delete some")
            replaced = _lines_bytes(connection, in_stead_of_lines)
            self._ledger.make_room(connection, reserved, replaced_bytes=replaced)
            connection.execute(
                "INSERT INTO files (id, filename, purpose, holder, num_bytes, created_at, state, owner)"
                " VALUES (?, '', '', ?, ?, ?, 'writing', ?)",
                (file_id, holder, reserved, self._ledger.clock.now(), owner_now()),
            )
        try:
            with disk_errors(self._ledger.files):
                return Upload(self._ledger, file_id, reserved_bytes=reserved, replaced=in_stead_of_lines)
        except BaseException:
            remove(self._ledger, file_id, state="writing")
            raise

    def get(self, file_id: str, *, holder: str | None = None) -> KeptFile:
        """Raises NotKept."""
        rows = self._ledger.database.read(_FOUND, (file_id, holder))
        if not rows or self._over(rows[0]):
            raise NotKept(f"no file {file_id!r} is kept here", param="file_id")
        return _read(rows[0])

    def open(self, file_id: str, *, holder: str | None = None) -> tuple[KeptFile, IO[bytes]]:
        """The file, open to be read; whoever deletes it meanwhile takes nothing from its reader. Raises NotKept."""
        kept = self.get(file_id, holder=holder)
        return kept, self.reopen(kept.id)

    def reopen(self, file_id: str) -> IO[bytes]:
        """The bytes of a file that somebody holds on to, as a batch that is not over does to its input even when that
        has expired. Raises NotKept."""
        try:
            return (self._ledger.files / file_id).open("rb")
        except FileNotFoundError as error:  # deleted since we looked
            raise NotKept(f"no file {file_id!r} is kept here", param="file_id") from error

    def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        descending: bool = True,
        purpose: str | None = None,
        holder: str | None = None,
    ) -> tuple[list[KeptFile], bool]:
        """Files by age, those behind `after`, and whether there are more. Raises NotKept for an unknown `after`."""
        where = ["state = 'ready'", "holder IS ?", "(expires_at IS NULL OR expires_at > ?)"]
        values: list[Any] = [holder, self._ledger.clock.now()]
        if purpose is not None:
            where.append("purpose = ?")
            values.append(purpose)
        if after is not None:
            rows = self._ledger.database.read("SELECT seq FROM files WHERE id = ? AND holder IS ?", (after, holder))
            if not rows:
                raise NotKept(f"no file {after!r} is kept here", param="after")
            where.append("seq < ?" if descending else "seq > ?")
            values.append(rows[0]["seq"])
        rows = self._ledger.database.read(
            f"SELECT * FROM files WHERE {' AND '.join(where)} ORDER BY seq {'DESC' if descending else 'ASC'} LIMIT ?",
            (*values, limit + 1),
        )
        return [_read(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, file_id: str, *, holder: str | None = None) -> None:
        """Raises NotKept; FileInUse while a batch that is not over reads it."""
        with self._ledger.database.write() as connection:
            row = connection.execute(_FOUND, (file_id, holder)).fetchone()
            if row is None or self._over(row):
                raise NotKept(f"no file {file_id!r} is kept here", param="file_id")
            batch = _reader_of(connection, file_id)
            if batch is not None:
                raise FileInUse(f"file {file_id!r} is the input of {batch!r}, which is not over; cancel that first")
            connection.execute("UPDATE files SET state = 'leaving' WHERE id = ?", (file_id,))
        remove(self._ledger, file_id, state="leaving")

    def sweep(self) -> None:
        """Remove what expired, what processes left half written when they died, and what was half deleted."""
        with self._ledger.database.write() as connection:
            gone = [
                row["id"]
                for row in connection.execute("SELECT id, owner, state FROM files WHERE state != 'ready'").fetchall()
                if row["state"] == "leaving" or not owner_lives(row["owner"])
            ]
            expired = connection.execute(
                "SELECT id FROM files WHERE state = 'ready' AND expires_at <= ?", (self._ledger.clock.now(),)
            ).fetchall()
            gone += [row["id"] for row in expired if _reader_of(connection, row["id"]) is None]
            for file_id in gone:
                connection.execute("UPDATE files SET state = 'leaving' WHERE id = ?", (file_id,))
        for file_id in gone:
            remove(self._ledger, file_id, state="leaving")

    def _over(self, row: sqlite3.Row) -> bool:
        expires_at = row["expires_at"]
        return expires_at is not None and bool(expires_at <= self._ledger.clock.now())


_FOUND = "SELECT * FROM files WHERE id = ? AND holder IS ? AND state = 'ready'"


def remove(ledger: KeptLedger, file_id: str, *, state: str) -> None:
    """First the bytes, then the row: cut in between, the next sweep goes on. Nothing where the row is in no such
    state."""
    if not ledger.database.read("SELECT 1 FROM files WHERE id = ? AND state = ?", (file_id, state)):
        return
    for name in (file_id, f"{file_id}{PARTIAL}"):
        (ledger.files / name).unlink(missing_ok=True)
    with ledger.database.write() as connection:
        connection.execute("DELETE FROM files WHERE id = ? AND state = ?", (file_id, state))


def _reader_of(connection: sqlite3.Connection, file_id: str) -> str | None:
    row = connection.execute("SELECT id FROM batches WHERE over = 0 AND input_file = ?", (file_id,)).fetchone()
    return None if row is None else str(row["id"])


def _lines_bytes(connection: sqlite3.Connection, batch: str) -> int:
    row = connection.execute("SELECT coalesce(sum(num_bytes), 0) FROM lines WHERE batch = ?", (batch,)).fetchone()
    return int(row[0])


def _read(row: sqlite3.Row) -> KeptFile:
    return KeptFile(**{name: row[name] for name in KeptFile.__slots__})
