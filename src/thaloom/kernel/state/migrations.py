"""How the database came to look as it does: one numbered step after another, forward only.

A step that was ever released is never changed; a new one is added below. For each version the tests keep a database
as that version wrote it, and open it with this one.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from thaloom.base.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """From version - 1 to version. Each statement runs by itself, all in one transaction."""

    version: int
    summary: str
    statements: tuple[str, ...]


MIGRATIONS = (
    Migration(
        version=1,
        summary="what is wished for, and which processes we started",
        statements=(
            """CREATE TABLE services (
                name TEXT PRIMARY KEY NOT NULL,
                spec TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            )""",
            """CREATE TABLE leases (
                id TEXT PRIMARY KEY NOT NULL,
                role TEXT NOT NULL,
                service TEXT,
                pid INTEGER NOT NULL,
                start_ticks INTEGER NOT NULL,
                socket TEXT NOT NULL,
                started_at REAL NOT NULL,
                revision INTEGER NOT NULL
            )""",
        ),
    ),
    Migration(
        version=2,
        summary="the journal of actions",
        statements=(
            """CREATE TABLE journal (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                time REAL NOT NULL,
                action TEXT NOT NULL,
                kind TEXT NOT NULL,
                phase TEXT NOT NULL CHECK (phase IN ('intent', 'outcome')),
                data TEXT NOT NULL
            )""",
            "CREATE INDEX journal_by_action ON journal (action)",
        ),
    ),
    Migration(
        version=3,
        summary="names that stand for services",
        statements=(
            """CREATE TABLE aliases (
                name TEXT PRIMARY KEY NOT NULL,
                alias TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            )""",
        ),
    ),
    Migration(
        version=4,
        summary="keys that let clients in, and what their holders may do",
        statements=(
            """CREATE TABLE access_keys (
                name TEXT PRIMARY KEY NOT NULL,
                id TEXT NOT NULL UNIQUE,
                digest TEXT NOT NULL,
                limits TEXT NOT NULL,
                created_at REAL NOT NULL,
                expires_at REAL
            )""",
        ),
    ),
    Migration(
        version=5,
        summary="the journal is a chain, and names who wished what",
        statements=(
            "ALTER TABLE journal ADD COLUMN by TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE journal ADD COLUMN seal TEXT NOT NULL DEFAULT ''",
            """CREATE TABLE journal_marks (
                name TEXT PRIMARY KEY NOT NULL,
                entry INTEGER NOT NULL,
                link TEXT NOT NULL,
                seal TEXT NOT NULL
            )""",
        ),
    ),
    Migration(
        version=6,
        summary="tenants, and what each key may do beside asking models, which is all that those of old may",
        statements=(
            """CREATE TABLE tenants (
                name TEXT PRIMARY KEY NOT NULL,
                quota TEXT NOT NULL,
                created_at REAL NOT NULL
            )""",
            "ALTER TABLE access_keys ADD COLUMN role TEXT NOT NULL DEFAULT 'user'",
            "ALTER TABLE access_keys ADD COLUMN tenant TEXT",
            "ALTER TABLE access_keys ADD COLUMN scopes TEXT",
            "ALTER TABLE access_keys ADD COLUMN parent TEXT",
            """UPDATE access_keys SET scopes = '{"scopes":["infer"]}'""",
        ),
    ),
    Migration(
        version=7,
        summary="jobs: programs that are to run to their end",
        statements=(
            """CREATE TABLE jobs (
                name TEXT PRIMARY KEY NOT NULL,
                spec TEXT NOT NULL,
                state TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            )""",
        ),
    ),
    Migration(
        version=8,
        summary="documents of the kinds that have no table of their own",
        statements=(
            """CREATE TABLE documents (
                kind TEXT NOT NULL,
                name TEXT NOT NULL,
                labels TEXT NOT NULL,
                spec TEXT NOT NULL,
                created_at REAL NOT NULL,
                PRIMARY KEY (kind, name)
            )""",
        ),
    ),
    Migration(
        version=9,
        summary="services that are idle, and for how long who asked wants them kept",
        statements=(
            "ALTER TABLE services ADD COLUMN idle_since REAL",
            "ALTER TABLE services ADD COLUMN waking INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE services ADD COLUMN asked_keep_alive_s REAL",
        ),
    ),
)

_VERSIONS = """CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER PRIMARY KEY NOT NULL,
    applied_at REAL NOT NULL
)"""

LATEST = MIGRATIONS[-1].version


def version_of(connection: sqlite3.Connection) -> int:
    """The version a database has; 0 for an empty one."""
    found = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"
    ).fetchone()
    if found is None:
        return 0
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()[0])


def migrate(
    connection: sqlite3.Connection,
    clock: Clock,
    *,
    upto: int | None = None,
    steps: tuple[Migration, ...] | None = None,
) -> None:
    """Take the steps (None: the node's own) that are missing, each whole or not at all, and none twice if several
    processes do so at once. `upto` lets tests make a database of old."""
    for migration in (MIGRATIONS if steps is None else steps)[version_of(connection) : upto]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(_VERSIONS)
            if version_of(connection) >= migration.version:  # another process was faster
                connection.execute("COMMIT")
                continue
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute("INSERT INTO schema_version VALUES (?, ?)", (migration.version, clock.now()))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
