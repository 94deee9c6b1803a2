"""A process that ends itself, as by a power switch, at a named write of the node's journal.

python -m tests.system.killing NUMBER before|after [what thaloom.daemon takes]
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator

from thaloom import daemon
from thaloom.kernel.state.database import Database


def points(num_writes: int, *, some: int = 8) -> list[tuple[int, str]]:
    """(number of a write, before or after it): all of them where THALOOM_ALL_POINTS is set (make crash-points), else so
    many, evenly spread."""
    every = [(number, when) for number in range(1, num_writes + 1) for when in ("before", "after")]
    if os.environ.get("THALOOM_ALL_POINTS"):
        return every
    return every[:: len(every) // some | 1]  # odd: before some, after others


def kill_at(number: int, *, after: bool) -> None:
    """End this process at that write (the first is 1): before it is in the file, or after. For all databases that are
    opened from now on; other writes than the journal's do not count."""
    written = 0
    write = Database.write

    @contextlib.contextmanager
    def counted(database: Database) -> Iterator[sqlite3.Connection]:
        nonlocal written
        with write(database) as connection:
            last = _last_entry(connection)
            yield connection
            is_entry = _last_entry(connection) > last
            written += is_entry
            if is_entry and written == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
        if is_entry and written == number and after:
            os.kill(os.getpid(), signal.SIGKILL)

    Database.write = counted  # type: ignore[method-assign]


def _last_entry(connection: sqlite3.Connection) -> int:
    try:
        return int(connection.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0])
    except sqlite3.OperationalError:  # another database, or the first moments of this one
        return 0


if __name__ == "__main__":
    kill_at(int(sys.argv[1]), after=sys.argv[2] == "after")
    sys.exit(daemon.main(sys.argv[3:]))
