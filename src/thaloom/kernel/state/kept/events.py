"""What is told of a response as it is made: events in order, appended in batches, each a row of its own.

An event's number is its place, from 0: it is given here, once, so that nobody tells two events of one number.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from thaloom.base.errors import WrongState
from thaloom.kernel.state.database import Database
from thaloom.kernel.state.types import ToldEvents

ROWS_OF_A_PAGE = 64
"""Read at once; a row has what a model said in an instant, and three of all have a whole response in them."""


def as_text(events: Sequence[dict[str, Any]]) -> str:
    """One in a line. In ASCII: what a model writes may hold half characters, and SQLite takes none."""
    return "\n".join(json.dumps(event, separators=(",", ":"), allow_nan=False) for event in events)


def num_told(connection: sqlite3.Connection, response_id: str) -> int:
    row = connection.execute("SELECT max(last) AS last FROM events WHERE response = ?", (response_id,)).fetchone()
    return 0 if row["last"] is None else int(row["last"]) + 1


def append(connection: sqlite3.Connection, response_id: str, text: str, *, after: int) -> None:
    """`after`: how many its writer knows of. Raises WrongState where another writer was there meanwhile."""
    told = num_told(connection, response_id)
    if told != after:
        raise WrongState(f"of response {response_id!r} {told} events are told, not {after}: another door makes it")
    last = told + text.count("\n")
    values = (response_id, last, text, len(text))
    connection.execute("INSERT INTO events (response, last, text, num_bytes) VALUES (?, ?, ?, ?)", values)


def page(database: Database, response_id: str, *, after: int) -> ToldEvents:
    """Those behind number `after`, and no more than a page of them."""
    # In this order: who finds that it is made finds its last event, too.
    is_made = not database.read("SELECT 1 FROM jobs WHERE id = ?", (response_id,))
    rows = database.read(
        "SELECT last, text FROM events WHERE response = ? AND last > ? ORDER BY last LIMIT ?",
        (response_id, after, ROWS_OF_A_PAGE),
    )
    lines = [line for row in rows for line in row["text"].split("\n")]
    known = len(lines) - (rows[-1]["last"] - after) if rows else 0
    return ToldEvents(
        first=after + 1,
        events=tuple(json.loads(line) for line in lines[known:]),
        is_all=is_made and len(rows) < ROWS_OF_A_PAGE,
    )
