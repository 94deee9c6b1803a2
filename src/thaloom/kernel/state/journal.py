"""The journal: what was about to be done, what came of it, and who wished it. A chain, so that no entry can be changed.

Every entry carries a seal, made with the node's key over the seal before it and its own words. Two marks, sealed too,
say where the chain begins (what is older was dropped behind that mark, or written before there was a chain) and where
it ends, so that cutting off either end shows as well. What no chain can show is a whole database put back as it was
earlier: for that a `Checkpoint` is kept elsewhere, and the chain must lead through it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Literal

from thaloom.base.clock import Clock
from thaloom.base.errors import StateUnusable
from thaloom.kernel.state.database import Database
from thaloom.kernel.state.rows import decode, encode, read
from thaloom.kernel.state.types import Checkpoint, JournalEntry, JournalFault, JournalReport

Seal = Callable[[bytes], str]
"""A text that nobody can make for other words who has not the node's key."""
FIRST = ""
"""Before the first link."""

_MOST_FAULTS = 1000
_PRUNED_AT_ONCE = 100


class Journal:
    """Of one database, whose only writer this is. Safe from several threads."""

    def __init__(self, database: Database, clock: Clock, seal: Seal, *, limit: int, is_new: bool = False) -> None:
        """Keeps the latest `limit` entries, and up to 100 more. `is_new`: whether the key of `seal` was made just now,
        so that entries without any seal are older than it, and not stripped."""
        self._database = database
        self._clock = clock
        self._seal = seal
        self._limit = limit
        with database.write() as connection:
            if connection.execute("SELECT 1 FROM journal_marks LIMIT 1").fetchone() is None:
                stripped = not is_new and _last(connection) > 0
                sealed = connection.execute("SELECT 1 FROM journal WHERE seal != '' LIMIT 1").fetchone() is not None
                if stripped or sealed:
                    self._note_broken(connection)
                self._begin(connection)

    def append(
        self,
        kind: str,
        data: Mapping[str, Any],
        *,
        phase: Literal["intent", "outcome"] = "outcome",
        action: str | None = None,
        by: str = "",
    ) -> JournalEntry:
        """Returns when it is on the disk. `data`: JSON values only; `by`: who wished it. Without `action` the entry
        begins a new one."""
        data = dict(data)
        text = encode(data)
        time = self._clock.now()
        with self._database.write() as connection:
            last, before = self._end(connection)
            entry = JournalEntry(
                id=last + 1, time=time, action=action or new_action_id(), kind=kind, phase=phase, data=data, by=by
            )
            seal = self._link(before, entry, text)
            connection.execute(
                "INSERT INTO journal (id, time, action, kind, phase, data, by, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (entry.id, time, entry.action, kind, phase, text, by, seal),
            )
            self._put_mark(connection, "head", entry.id, seal)
            self._prune(connection, entry.id)
        return entry

    def latest(
        self, limit: int = 100, *, action: str | None = None, kind: str | None = None, before: int | None = None
    ) -> list[JournalEntry]:
        """Newest first; only those of `action` or `kind` where one is given, only those older than entry `before`."""
        conditions = {"action = ?": action, "kind = ?": kind, "id < ?": before}
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        rows = self._database.read(f"SELECT * FROM journal {where} ORDER BY id DESC LIMIT ?", (*given.values(), limit))
        return [_entry(row) for row in rows]

    def unfinished(self) -> list[JournalEntry]:
        """Intents without an outcome, oldest first."""
        rows = self._database.read(
            "SELECT * FROM journal AS intent WHERE phase = 'intent' AND NOT EXISTS"
            " (SELECT 1 FROM journal WHERE action = intent.action AND phase = 'outcome' AND id > intent.id) ORDER BY id"
        )
        return [_entry(row) for row in rows]

    def checkpoint(self) -> Checkpoint:
        """Where the chain ends now: to be kept where who can write to this node cannot."""
        row = self._database.read("SELECT * FROM journal_marks WHERE name = 'head'")[0]
        return Checkpoint(entry=row["entry"], seal=row["link"])

    def verify(self, through: Checkpoint | None = None) -> JournalReport:
        """Every entry against its seal. `through`: where the chain ended once, and must still lead through."""
        with self._database.snapshot() as connection:
            rows = connection.execute("SELECT * FROM journal_marks").fetchall()
            faults = [
                JournalFault(entry=row["entry"], problem="mark")
                for row in rows
                if row["name"] not in ("start", "head") or not self._bears_seal(row)
            ]
            marks = {row["name"]: (int(row["entry"]), str(row["link"])) for row in rows}
            start, head = marks.get("start", (0, FIRST)), marks.get("head", (0, FIRST))
            walk = _Walk(start, through)
            for row in connection.execute("SELECT * FROM journal ORDER BY id"):
                walk.step(row, lambda row, before: self._sound(row, before))
        faults += walk.end(head)
        return JournalReport(
            first=start[0] + 1,
            last=head[0],
            num_checked=walk.num_checked,
            num_unsealed=walk.num_unsealed,
            faults=tuple(faults[:_MOST_FAULTS]),
        )

    def _sound(self, row: sqlite3.Row, before: str) -> bool:
        try:
            return secrets.compare_digest(self._link(before, _entry(row), row["data"]), row["seal"])
        except (StateUnusable, TypeError, ValueError):  # nothing of ours, whatever it is
            return False

    def _link(self, before: str, entry: JournalEntry, text: str) -> str:
        words = [before, entry.id, entry.time, entry.action, entry.kind, entry.phase, entry.by, text]
        return self._seal(json.dumps(words, separators=(",", ":")).encode())

    def _prune(self, connection: sqlite3.Connection, last: int) -> None:
        start = _mark(connection, "start")
        if start is None or last - start["entry"] < self._limit + min(_PRUNED_AT_ONCE, self._limit):
            return
        new_start = last - self._limit
        row = connection.execute("SELECT seal FROM journal WHERE id = ?", (new_start,)).fetchone()
        connection.execute("DELETE FROM journal WHERE id <= ?", (new_start,))
        if row is not None:
            self._put_mark(connection, "start", new_start, row[0])
        else:  # somebody took it away
            self._note_broken(connection)
            self._begin(connection)

    def _begin(self, connection: sqlite3.Connection) -> None:
        """A chain from here on."""
        for name in ("start", "head"):
            self._put_mark(connection, name, _last(connection), FIRST)

    def _note_broken(self, connection: sqlite3.Connection) -> None:
        """For good: that up to here there was a chain, and that it was broken."""
        last = _last(connection)
        self._put_mark(connection, f"broken at {last}", last, FIRST)

    def _end(self, connection: sqlite3.Connection) -> tuple[int, str]:
        """The last entry and its seal. A chain that somebody else has changed is left as it is and another begun: a
        node whose journal was tampered with must still be able to act, and that it was stays to be seen."""
        start, head = _mark(connection, "start"), _mark(connection, "head")
        sound = start is not None and head is not None and self._bears_seal(start) and self._bears_seal(head)
        if head is None or not sound or head["entry"] != _last(connection):
            self._note_broken(connection)
            self._begin(connection)
            head = _mark(connection, "head")
            assert head is not None, "it was put just now"
        return head["entry"], head["link"]

    def _put_mark(self, connection: sqlite3.Connection, name: str, entry: int, link: str) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO journal_marks (name, entry, link, seal) VALUES (?, ?, ?, ?)",
            (name, entry, link, self._mark_seal(name, entry, link)),
        )

    def _bears_seal(self, mark: sqlite3.Row) -> bool:
        wanted = self._mark_seal(mark["name"], mark["entry"], mark["link"])
        return secrets.compare_digest(str(mark["seal"]).encode(), wanted.encode())

    def _mark_seal(self, name: str, entry: int, link: str) -> str:
        return self._seal(json.dumps(["mark", name, entry, link], separators=(",", ":")).encode())


class _Walk:
    """Along the chain, from its start: what was found wrong so far."""

    def __init__(self, start: tuple[int, str], through: Checkpoint | None) -> None:
        self.num_checked = self.num_unsealed = 0
        self._start = self._last = start
        self._faults: list[JournalFault] = []
        self._wanted = None if through is None else (through.entry, through.seal)
        self._passed = self._wanted in (None, start)

    def step(self, row: sqlite3.Row, sound: Callable[[sqlite3.Row, str], bool]) -> None:
        if row["id"] <= self._start[0]:
            self.num_unsealed += 1
            return
        self.num_checked += 1
        if row["id"] > self._last[0] + 1:  # whether this one is sound cannot be told: the seal before it is gone
            self._faults.append(JournalFault(entry=self._last[0] + 1, problem="missing"))
        elif not sound(row, self._last[1]):
            self._faults.append(JournalFault(entry=row["id"], problem="altered"))
        self._last = (row["id"], row["seal"])
        self._passed = self._passed or self._last == self._wanted

    def end(self, head: tuple[int, str]) -> list[JournalFault]:
        if self._last[0] < head[0]:
            self._faults.append(JournalFault(entry=self._last[0] + 1, problem="missing"))
        elif self._last != head:
            self._faults.append(JournalFault(entry=max(head[0], self._start[0]) + 1, problem="added"))
        if self._wanted is not None and not self._passed:
            dropped = self._wanted[0] < self._start[0]
            self._faults.append(JournalFault(entry=self._wanted[0], problem="dropped" if dropped else "not_through"))
        return self._faults


def unkeyed(words: bytes) -> str:
    """A seal that anybody can make."""
    return hashlib.sha256(words).hexdigest()


def new_action_id() -> str:
    return f"a-{secrets.token_hex(6)}"


def _entry(row: sqlite3.Row) -> JournalEntry:
    facts = dict(row) | {"data": decode(row["data"])}
    del facts["seal"]
    return read(JournalEntry, facts)


def _last(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0])


def _mark(connection: sqlite3.Connection, name: str) -> sqlite3.Row | None:
    found: sqlite3.Row | None = connection.execute("SELECT * FROM journal_marks WHERE name = ?", (name,)).fetchone()
    return found
