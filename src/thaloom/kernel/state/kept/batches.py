"""Batches and the answers they have so far. Each answer has its place by the line it belongs to: whatever is killed
and done again, a line is answered once."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Collection, Iterator
from typing import Any

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, DiskFull, NotKept, StateUnusable
from thaloom.kernel.state.kept.files import Upload
from thaloom.kernel.state.kept.ledger import KeptLedger, owner_lives, owner_now
from thaloom.kernel.state.types import BATCH_OVER, BatchLine, BatchStatus, KeptBatch, KeptFile

_PAGE = 200


class KeptBatches:
    """Safe from several threads and processes.

    `holder`: the name of the key that somebody comes with, None for nobody's. What is kept for one is there for no
    other."""

    def __init__(self, ledger: KeptLedger) -> None:
        self._ledger = ledger

    def create(self, batch: KeptBatch) -> KeptBatch:
        """Raises NotKept if its input is gone, DiskFull if too many are not over, StateUnusable."""
        with self._ledger.database.write() as connection:
            file = connection.execute(
                "SELECT 1 FROM files WHERE id = ? AND holder IS ? AND state = 'ready'", (batch.input_file, batch.key)
            ).fetchone()
            if file is None:
                raise NotKept(f"no file {batch.input_file!r} is kept here", param="input_file_id")
            self._forget_the_oldest(connection)
            connection.execute(
                "INSERT INTO batches (id, over, input_file, holder, facts, owner) VALUES (?, 0, ?, ?, ?, '')",
                (batch.id, batch.input_file, batch.key, _encode(batch)),
            )
        return batch

    def get(self, batch_id: str, *, holder: str | None = None) -> KeptBatch:
        """Raises NotKept."""
        rows = self._ledger.database.read(_FOUND, (batch_id, holder))
        if not rows:
            raise _not_kept(batch_id)
        return self._read(rows[0])

    def page(self, *, limit: int, after: str | None = None, holder: str | None = None) -> tuple[list[KeptBatch], bool]:
        """Batches, newest first, those behind `after`, and whether there are more. Raises NotKept."""
        where, values = "holder IS ?", [holder]
        if after is not None:
            rows = self._ledger.database.read("SELECT seq FROM batches WHERE id = ? AND holder IS ?", (after, holder))
            if not rows:
                raise NotKept(f"no batch {after!r} is kept here", param="after")
            where, values = f"{where} AND seq < ?", [*values, rows[0]["seq"]]
        rows = self._ledger.database.read(
            f"SELECT * FROM batches WHERE {where} ORDER BY seq DESC LIMIT ?", (*values, limit + 1)
        )
        return [self._read(row) for row in rows[:limit]], len(rows) > limit

    def change(
        self, batch_id: str, *, when: Collection[BatchStatus], holder: str | None = None, **changes: Any
    ) -> KeptBatch | None:
        """Change its facts if it is in one of these states, else None. Raises NotKept."""
        with self._ledger.database.write() as connection:
            batch = self._of(connection, batch_id)
            if batch.key != holder:
                raise _not_kept(batch_id)
            if batch.status not in when:
                return None
            return self._write(connection, dataclasses.replace(batch, **changes))

    # -- the work

    def claim(self, *, beside: Collection[str] = ()) -> KeptBatch | None:
        """The oldest batch that is not over and that no living process works on, but none of `beside`: from now on
        this process's, until it releases it or dies."""
        if not self._ledger.database.read("SELECT 1 FROM batches WHERE over = 0 LIMIT 1"):
            return None  # as nearly always: no need to keep other writers waiting
        with self._ledger.database.write() as connection:
            for row in connection.execute("SELECT * FROM batches WHERE over = 0 ORDER BY seq").fetchall():
                if row["id"] not in beside and not owner_lives(row["owner"]):
                    connection.execute("UPDATE batches SET owner = ? WHERE id = ?", (owner_now(), row["id"]))
                    return _decode(row)
        return None

    def release(self, batch_id: str) -> None:
        with self._ledger.database.write() as connection:
            connection.execute("UPDATE batches SET owner = '' WHERE id = ? AND owner = ?", (batch_id, owner_now()))

    def put_line(self, batch_id: str, line: BatchLine) -> None:
        """One more is answered; the first answer of a line stays. Raises DiskFull."""
        num_bytes = len(line.text)
        with self._ledger.database.write() as connection:
            self._ledger.make_room(connection, num_bytes)
            connection.execute(
                "INSERT OR IGNORE INTO lines (batch, line, failed, text, num_bytes) VALUES (?, ?, ?, ?, ?)",
                (batch_id, line.line, line.failed, line.text, num_bytes),
            )

    def answered(self, batch_id: str) -> set[int]:
        """The lines that have their answer."""
        rows = self._ledger.database.read("SELECT line FROM lines WHERE batch = ?", (batch_id,))
        return {row["line"] for row in rows}

    def lines(self, batch_id: str, *, failed: bool) -> Iterator[BatchLine]:
        """In their order, read a page at a time."""
        last = 0
        while rows := self._ledger.database.read(
            "SELECT line, failed, text FROM lines WHERE batch = ? AND failed = ? AND line > ? ORDER BY line LIMIT ?",
            (batch_id, failed, last, _PAGE),
        ):
            yield from (BatchLine(line=row["line"], failed=bool(row["failed"]), text=row["text"]) for row in rows)
            last = rows[-1]["line"]

    def finish(
        self,
        batch_id: str,
        status: BatchStatus,
        *,
        when: Collection[BatchStatus],
        output: Upload | None,
        errors: Upload | None,
        **changes: Any,
    ) -> KeptBatch | None:
        """The end: output files appear, the batch is over and its lines go, all at once; None if it is in another
        state. Raises DiskFull."""
        for upload in (output, errors):
            if upload is not None:
                upload.seal()
        with self._ledger.database.write() as connection:
            batch = self._of(connection, batch_id)
            if batch.status not in when:
                return None
            over = dataclasses.replace(
                batch,
                status=status,
                output_file=_commit(connection, batch, output, "output"),
                error_file=_commit(connection, batch, errors, "error"),
                **changes,
            )
            self._write(connection, over)
            connection.execute("UPDATE batches SET owner = '' WHERE id = ?", (batch_id,))
            connection.execute("DELETE FROM lines WHERE batch = ?", (batch_id,))
            return over

    def _of(self, connection: sqlite3.Connection, batch_id: str) -> KeptBatch:
        row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
        if row is None:
            raise _not_kept(batch_id)
        return _counted(_decode(row), _count(connection.execute(_COUNT, (batch_id,)).fetchall()))

    def _read(self, row: sqlite3.Row) -> KeptBatch:
        batch = _decode(row)
        return batch if row["over"] else _counted(batch, _count(self._ledger.database.read(_COUNT, (batch.id,))))

    def _write(self, connection: sqlite3.Connection, batch: KeptBatch) -> KeptBatch:
        connection.execute(
            "UPDATE batches SET facts = ?, over = ? WHERE id = ?",
            (_encode(batch), batch.status in BATCH_OVER, batch.id),
        )
        return batch

    def _forget_the_oldest(self, connection: sqlite3.Connection) -> None:
        limit = self._ledger.limits.max_batches
        excess = connection.execute("SELECT count(*) FROM batches").fetchone()[0] - limit + 1
        if excess > 0:
            connection.execute(
                "DELETE FROM batches WHERE seq IN (SELECT seq FROM batches WHERE over = 1 ORDER BY seq LIMIT ?)",
                (excess,),
            )
            if connection.execute("SELECT count(*) FROM batches").fetchone()[0] >= limit:
                raise DiskFull(f"{limit} batches wait or are worked on, as many as may be; try again later")


_FOUND = "SELECT * FROM batches WHERE id = ? AND holder IS ?"
_COUNT = "SELECT failed, count(*) AS num FROM lines WHERE batch = ? GROUP BY failed"


def _not_kept(batch_id: str) -> NotKept:
    return NotKept(f"no batch {batch_id!r} is kept here", param="batch_id")


def _count(rows: list[sqlite3.Row]) -> tuple[int, int]:
    found = {bool(row["failed"]): int(row["num"]) for row in rows}
    return found.get(False, 0), found.get(True, 0)


def _counted(batch: KeptBatch, counts: tuple[int, int]) -> KeptBatch:
    return dataclasses.replace(batch, completed=counts[0], failed=counts[1])


def _commit(connection: sqlite3.Connection, batch: KeptBatch, upload: Upload | None, kind: str) -> str | None:
    if upload is None:
        return None
    kept: KeptFile = upload.commit(
        connection,
        filename=f"{batch.id}_{kind}.jsonl",
        purpose="batch_output",
        expires_after_s=batch.output_expires_after_s,
    )
    return kept.id


def _encode(batch: KeptBatch) -> str:
    return json.dumps(dataclasses.asdict(batch), separators=(",", ":"), allow_nan=False)


def _decode(row: sqlite3.Row) -> KeptBatch:
    try:
        return from_mapping(KeptBatch, json.loads(row["facts"]))
    except (BadParameter, ValueError) as error:
        raise StateUnusable(f"the door's database holds a batch we cannot read: {error}") from error
