"""How kept.db came to look as it does; the rules are those of the node's own database (`state/migrations.py`)."""

from __future__ import annotations

from thaloom.kernel.state.migrations import Migration


def _counted(table: str) -> tuple[str, ...]:
    """Triggers that keep a table's rows and bytes in `totals`, whatever statement changes them."""
    add = "UPDATE totals SET num_rows = num_rows + 1, num_bytes = num_bytes + new.num_bytes WHERE name = '{0}'; "
    take = "UPDATE totals SET num_rows = num_rows - 1, num_bytes = num_bytes - old.num_bytes WHERE name = '{0}'; "
    change = "UPDATE totals SET num_bytes = num_bytes + new.num_bytes - old.num_bytes WHERE name = '{0}'; "
    return (
        f"INSERT INTO totals VALUES ('{table}', 0, 0)",
        f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN {add.format(table)} END",
        f"CREATE TRIGGER {table}_taken AFTER DELETE ON {table} BEGIN {take.format(table)} END",
        f"CREATE TRIGGER {table}_changed AFTER UPDATE OF num_bytes ON {table} BEGIN {change.format(table)} END",
    )


STEPS = (
    Migration(
        version=1,
        summary="responses, files and batches",
        statements=(
            """CREATE TABLE totals (
                name TEXT PRIMARY KEY NOT NULL,
                num_rows INTEGER NOT NULL CHECK (num_rows >= 0),
                num_bytes INTEGER NOT NULL CHECK (num_bytes >= 0)
            )""",
            """CREATE TABLE responses (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT UNIQUE NOT NULL,
                previous TEXT,
                holder TEXT,
                created_at REAL NOT NULL,
                used_at REAL NOT NULL,
                input TEXT NOT NULL,
                body TEXT NOT NULL,
                num_bytes INTEGER NOT NULL
            )""",
            "CREATE INDEX responses_by_use ON responses (used_at, seq)",
            """CREATE TABLE jobs (
                id TEXT PRIMARY KEY NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
                request TEXT NOT NULL,
                owner TEXT NOT NULL
            )""",
            """CREATE TABLE files (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT UNIQUE NOT NULL,
                filename TEXT NOT NULL,
                purpose TEXT NOT NULL,
                holder TEXT,
                num_bytes INTEGER NOT NULL,
                created_at REAL NOT NULL,
                expires_at REAL,
                state TEXT NOT NULL CHECK (state IN ('writing', 'ready', 'leaving')),
                owner TEXT NOT NULL
            )""",
            "CREATE INDEX files_by_state ON files (state, expires_at)",
            """CREATE TABLE batches (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT UNIQUE NOT NULL,
                over INTEGER NOT NULL,
                input_file TEXT NOT NULL,
                holder TEXT,
                facts TEXT NOT NULL,
                owner TEXT NOT NULL
            )""",
            "CREATE INDEX batches_by_state ON batches (over, seq)",
            """CREATE TABLE lines (
                batch TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
                line INTEGER NOT NULL,
                failed INTEGER NOT NULL,
                text TEXT NOT NULL,
                num_bytes INTEGER NOT NULL,
                PRIMARY KEY (batch, line)
            )""",
            *_counted("responses"),
            *_counted("files"),
            *_counted("lines"),
        ),
    ),
    Migration(
        version=2,
        summary="what was told of a response as it was made",
        statements=(
            """CREATE TABLE events (
                response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
                last INTEGER NOT NULL,
                text TEXT NOT NULL,
                num_bytes INTEGER NOT NULL,
                PRIMARY KEY (response, last)
            )""",
            *_counted("events"),
        ),
    ),
)
