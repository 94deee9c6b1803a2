"""A process that ends itself, as by a power switch, at a named write of the node's journal, or of all its writes.

python -m tests.system.killing NUMBER before|after [what thaloom.daemon takes]
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from thaloom import daemon
from thaloom.kernel.state.database import Database


def points(num_writes: int, *, some: int = 8) -> list[tuple[int, str]]:
    """(number of a write, before or after it): all of them where THALOOM_ALL_POINTS is set (make crash-points), else so
    many, evenly spread."""
    every = [(number, when) for number in range(1, num_writes + 1) for when in ("before", "after")]
    if os.environ.get("THALOOM_ALL_POINTS"):
        return every
    return every[:: len(every) // some | 1]  # odd: before some, after others


def kill_at(
    number: int, *, after: bool, writes: Literal["journal", "all"] = "journal", calls: Sequence[tuple[Any, str]] = ()
) -> None:
    """End this process at the point of that number (the first is 1): before it is in the file, or after.

    Points are the writes of every database there is or will be (`journal`: only those that add to the journal), and
    the calls of these functions, each a module and a name in it.
    """
    num_seen = 0
    write = Database.write

    def pass_by(*, done: bool) -> None:
        nonlocal num_seen
        num_seen += not done
        if num_seen == number and done == after:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def counted(database: Database) -> Iterator[sqlite3.Connection]:
        with write(database) as connection:
            last = _last_entry(connection)
            yield connection
            is_point = writes == "all" or _last_entry(connection) > last
            if is_point:
                pass_by(done=False)
        if is_point:
            pass_by(done=True)

    def passing(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def passed(*given: Any, **more: Any) -> Any:
            pass_by(done=False)
            came = call(*given, **more)
            pass_by(done=True)
            return came

        return passed

    Database.write = counted  # type: ignore[method-assign]
    for module, name in calls:
        setattr(module, name, passing(getattr(module, name)))


def _last_entry(connection: sqlite3.Connection) -> int:
    try:
        return int(connection.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0])
    except sqlite3.OperationalError:  # another database, or the first moments of this one
        return 0


if __name__ == "__main__":
    kill_at(int(sys.argv[1]), after=sys.argv[2] == "after")
    sys.exit(daemon.main(sys.argv[3:]))
