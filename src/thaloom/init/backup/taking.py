"""Taking a backup while the node runs: each database by SQLite's own backup, immutable files as they are.

Two databases are each a moment of their own. Files that a row of `kept.db` names are copied before and after its
snapshot, so that the snapshot names none that is missing. Nothing is at the target until all was read back.
Source: sqlite.org/backup.html.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from thaloom import __version__
from thaloom.base import config
from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, NameTaken, StateUnusable
from thaloom.base.files import PARTIAL, disk_errors, remove, require_space, sync_folder
from thaloom.init.backup.archive import (
    FolderWriter,
    OnBytes,
    TarWriter,
    Writer,
    open_backup,
    read_manifest,
    verify,
)
from thaloom.init.backup.contents import BackupManifest, Entry, is_database, model_files, size_of, small_files
from thaloom.init.boot import NodeConfig
from thaloom.init.layout import Layout
from thaloom.kernel.models.locks import share
from thaloom.kernel.state.migrations import version_of

Tell = Callable[[str, int, int | None], None]
_BUSY_TIMEOUT_S = 10.0
_PAGES_AT_ONCE = 256
"""Of a database: the node writes in between."""
_OF_PROGRAMS = ("jobs", "workspaces")
"""Folders in which jobs write what they like."""


def back_up(layout: Layout, target: Path, clock: Clock, *, models: bool, tell: Tell) -> BackupManifest:
    """Write the backup to `target`: one file if its name ends in `.tar`, else a folder.

    Raises NameTaken (something is there), BadParameter (no node, or the target lies in it), DiskFull, StateUnusable.
    """
    home = layout.home
    if not layout.state.exists():
        raise BadParameter(f"{str(home)!r} is not the folder of a node: nothing was ever kept there", param="home")
    if target.exists() or target.is_symlink():
        raise NameTaken(f"{str(target)!r} is there already; a backup replaces nothing", param="target")
    if target.resolve().is_relative_to(home.resolve()):
        raise BadParameter("a backup does not go into the folder it is taken of", param="target")
    _clear_partials(target)
    key_file = config.read_toml(NodeConfig, layout.config).master_key_file
    total = size_of(small_files(home, None)) if not models else None
    with contextlib.ExitStack() as stack:
        if models:
            stack.enter_context(share(layout.models / "lock"))  # nobody sweeps
            total = size_of([*small_files(home, None), *model_files(home)])
        assert total is not None
        require_space(target.parent, total)
        done = 0

        def count(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            tell("backing_up", min(done, total), total)

        partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL}")
        scratch = target.with_name(f"{target.name}.{os.getpid()}.snapshot{PARTIAL}")
        try:
            with _writer(partial, as_file=target.suffix == ".tar", on_bytes=count) as writer:
                taking = _Taking(home, writer, Path(key_file) if key_file else None, scratch)
                manifest = BackupManifest(
                    thaloom=__version__,
                    taken_at=clock.now(),
                    models=models,
                    entries=tuple(taking.take(models=models)),
                )
                writer.finish(manifest)
            _read_back(partial, manifest, tell)
            partial.rename(target)
            sync_folder(target.parent)
        except BaseException:
            remove(partial)
            raise
    return manifest


class _Taking:
    def __init__(self, home: Path, writer: Writer, key_file: Path | None, scratch: Path) -> None:
        self._home = home
        self._scratch = scratch
        self._writer = writer
        self._key_file = key_file
        self._taken: dict[str, Entry] = {}

    def take(self, *, models: bool) -> list[Entry]:
        self._files()
        self._databases()
        self._files()  # what came meanwhile, and may be named by a snapshot
        ring = self._home / "models" / "keyring.json"
        for path in model_files(self._home) if models else [ring] if ring.exists() else []:
            self._file(path)
        return list(self._taken.values())

    def _files(self) -> None:
        for path in small_files(self._home, self._key_file):
            if not is_database(path):
                self._file(path)

    def _file(self, path: Path) -> None:
        name = str(path.relative_to(self._home))
        if name in self._taken:
            return
        try:
            num_bytes, sha256 = self._read(path, name)
        except FileNotFoundError:
            return  # deleted since it was listed: no snapshot that comes later names it
        self._taken[name] = Entry(path=name, kind="file", num_bytes=num_bytes, sha256=sha256)

    def _read(self, path: Path, name: str) -> tuple[int, str]:
        with path.open("rb") as file:  # replaced by renaming, if at all: what is open stays as it is
            num_bytes = os.fstat(file.fileno()).st_size
            try:
                return num_bytes, self._writer.add(name, file, num_bytes)
            except EOFError:  # became shorter meanwhile: a log that was cut, a file that a job writes
                file.seek(0)
                return self._add_what_is_left(file, name)

    def _add_what_is_left(self, file: IO[bytes], name: str) -> tuple[int, str]:
        """By a copy, which holds still."""
        with tempfile.TemporaryFile(dir=self._scratch.parent) as copy:
            with disk_errors(self._scratch):
                shutil.copyfileobj(file, copy)
            num_bytes = copy.tell()
            copy.seek(0)
            return num_bytes, self._writer.add(name, copy, num_bytes)

    def _databases(self) -> None:
        for path in small_files(self._home, self._key_file):
            if is_database(path):
                self._database(path)

    def _database(self, path: Path) -> None:
        name = str(path.relative_to(self._home))
        copy = self._scratch
        copy.unlink(missing_ok=True)
        try:
            try:
                schema = snapshot(path, copy)
            except StateUnusable:
                if path.relative_to(self._home).parts[0] not in _OF_PROGRAMS:
                    raise
                self._file(path)  # what a job keeps is its own affair, and no reason to have no backup of the node
                return
            with copy.open("rb") as file:
                num_bytes = copy.stat().st_size
                sha256 = self._writer.add(name, file, num_bytes)
        finally:
            copy.unlink(missing_ok=True)
        self._taken[name] = Entry(path=name, kind="database", num_bytes=num_bytes, sha256=sha256, schema=schema)


def snapshot(path: Path, copy: Path) -> int:
    """One moment of a database, while others write it; its schema version. Raises StateUnusable, DiskFull."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            target.execute("PRAGMA journal_mode = OFF")  # who is killed here leaves one file, and not two
            source.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}")
            source.execute("BEGIN")  # one moment: a backup in steps begins anew whenever somebody writes
            source.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            source.backup(target, pages=_PAGES_AT_ONCE)
            source.execute("ROLLBACK")
            target.execute("PRAGMA journal_mode = DELETE")  # whole in its one file
            problem = target.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if problem != "ok":
                raise StateUnusable(f"the node's database {str(path)!r} is damaged: {problem}")
            return version_of(target)
    except sqlite3.DatabaseError as error:
        with disk_errors(copy):
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(28, "no space left") from error
        raise StateUnusable(f"the node's database {str(path)!r} cannot be backed up: {error}") from error


@contextlib.contextmanager
def _writer(partial: Path, *, as_file: bool, on_bytes: OnBytes) -> Iterator[Writer]:
    try:
        if as_file:
            with partial.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                yield TarWriter(file, on_bytes)
        else:
            partial.mkdir(mode=0o700)
            yield FolderWriter(partial, on_bytes)
    except FileNotFoundError as error:
        if error.filename != str(partial):
            raise
        raise BadParameter(f"there is no folder {str(partial.parent)!r} for the backup", param="target") from error


def _read_back(partial: Path, manifest: BackupManifest, tell: Tell) -> None:
    """What was written, from the disk as far as the system lets us. Raises CorruptObject."""
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        tell("verifying", done, manifest.num_bytes)

    reader = open_backup(partial)
    verify(reader, read_manifest(reader), lambda _: None, count)


def _clear_partials(target: Path) -> None:
    """What a backup to the same place left that was killed."""
    for path in target.parent.glob(f"{target.name}.*{PARTIAL}"):
        pid = path.name.removeprefix(f"{target.name}.").partition(".")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove(path)
