"""Putting a backup back: built beside the node's folder, proved whole, and exchanged with it in one step.

    <home>.restore-<pid>      being built; nobody's, and cleared away by the next restore
    RENAME_EXCHANGE           the one moment: before it the old folder is the node's, after it the new one
    <home>.before-<time>      the old folder, kept: a restore deletes nothing

Source: renameat2(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from thaloom.base.errors import AlreadyRunning, CorruptObject, NameTaken, StateUnusable
from thaloom.base.files import FolderLock, remove, require_space, sync_folder
from thaloom.base.procs import ProcessIdentity
from thaloom.init.backup.archive import open_backup, read_manifest, verify
from thaloom.init.backup.contents import BackupManifest, Entry
from thaloom.init.backup.taking import Tell
from thaloom.kernel.state.kept.migrations import STEPS as KEPT_STEPS
from thaloom.kernel.state.migrations import LATEST, version_of

_KNOWN = {"state.db": LATEST, "kept/kept.db": KEPT_STEPS[-1].version}
"""Of databases whose versions we know: the latest that this Thaloom opens."""
_EXCHANGE = 2
_AT_FDCWD = -100
_MODELS_KEPT = ("objects", "aliases", "manifests", "packed")
Step = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    manifest: BackupManifest
    before: str | None
    """Where the folder is that was there before."""
    models_kept: bool
    """Whether the models are those that were there, because the backup has none."""


def restore(
    home: Path,
    source: Path,
    *,
    replace: bool,
    tell: Tell,
    step: Step = lambda _: None,
    now: Callable[[], float] = time.time,
) -> Restored:
    """`step` is told of each point of the way.

    Raises CorruptObject (damaged, or no backup), StateUnusable (newer; or this file system cannot exchange folders),
    AlreadyRunning, NameTaken (something is there and `replace` is false), DiskFull.
    """
    step("begin")
    manifest = read_manifest(open_backup(source))
    for entry in manifest.entries:
        _require_known(entry)
    with _held(home) as there:
        if there and not replace:
            raise NameTaken(f"{str(home)!r} is not empty; say --replace to put it aside", param="home")
        _clear_leftovers(home)
        require_space(home.parent, manifest.num_bytes)
        building = home.with_name(f"{home.name}.restore-{os.getpid()}")
        building.mkdir(mode=0o700)
        try:
            step("building")
            _unpack(source, manifest, building, tell)
            step("unpacked")
            for entry in manifest.entries:
                if entry.kind == "database":
                    _prove(building / entry.path, entry)
            kept = there and not manifest.models and _keep_models(home, building)
            for path in home.glob("master.key*"):  # no backup has it
                os.link(path, building / path.name)
            _take_over_owner(home, building)
            _sync_all(building)
            step("proved")
        except BaseException:
            remove(building)
            raise
        before = None
        if there:
            _exchange(building, home)
            step("exchanged")
            before = home.with_name(f"{home.name}.before-{int(now())}")
            while before.exists():
                before = before.with_name(f"{before.name}x")
            building.rename(before)
        else:
            building.rename(home)  # over nothing, or over an empty folder
        sync_folder(home.parent)
        step("end")
    return Restored(manifest=manifest, before=None if before is None else str(before), models_kept=kept)


def _require_known(entry: Entry) -> None:
    latest = _KNOWN.get(entry.path)
    if latest is not None and entry.schema > latest:
        raise StateUnusable(
            f"{entry.path!r} of the backup has version {entry.schema}; this Thaloom knows versions up to {latest}",
            version=entry.schema,
            latest=latest,
        )


@contextlib.contextmanager
def _held(home: Path) -> Iterator[bool]:
    """Keep a node from starting there; whether anything is there. Raises AlreadyRunning."""
    if not home.exists() or not any(home.iterdir()):
        home.parent.mkdir(parents=True, exist_ok=True)
        yield False
        return
    lock = FolderLock.take(home)
    if lock is None:
        raise AlreadyRunning(f"a node is running in {str(home)!r}: thaloom down first")
    with contextlib.closing(lock):
        if alive := _still_running(home):
            raise AlreadyRunning(
                f"{alive} processes of {str(home)!r} go on without their daemon: thaloom up, then thaloom down",
                processes=alive,
            )
        yield True


def _still_running(home: Path) -> int:
    """Workers and doors of a daemon that was killed. None where the database cannot say: it may be why one restores."""
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(
            sqlite3.connect(f"{(home / 'state.db').absolute().as_uri()}?mode=ro", uri=True)
        ) as connection,
    ):
        rows = connection.execute("SELECT pid, start_ticks FROM leases").fetchall()
        return sum(ProcessIdentity(pid=pid, start_ticks=ticks).alive() for pid, ticks in rows)
    return 0


def _unpack(source: Path, manifest: BackupManifest, building: Path, tell: Tell) -> None:
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        tell("restoring", done, manifest.num_bytes)

    def keep(name: str) -> IO[bytes]:
        target = building / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = target.open("xb")
        os.fchmod(file.fileno(), 0o600)
        return file

    verify(open_backup(source), manifest, keep, count)


def _prove(path: Path, entry: Entry) -> None:
    """The database is sound and of the version the manifest says. Raises CorruptObject."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            version = version_of(connection)
    except sqlite3.DatabaseError as error:
        problem, version = str(error), entry.schema
    if problem != "ok" or version != entry.schema:
        raise CorruptObject(f"{entry.path!r} of the backup is damaged: {problem}", file=entry.path)


def _keep_models(home: Path, building: Path) -> bool:
    """The models that are there, as further names of the same bytes: what is stored is never changed in its place.
    The key ring is the backup's, if it has one."""
    old, new = home / "models", building / "models"
    for folder in _MODELS_KEPT:
        for path in sorted((old / folder).rglob("*")):
            target = new / path.relative_to(old)
            if path.is_dir():
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif path.is_file() and not path.is_symlink():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.link(path, target)
    ring = old / "keyring.json"
    if ring.exists():  # what lies there is opened by this one
        new.mkdir(mode=0o700, exist_ok=True)
        (new / "keyring.json").unlink(missing_ok=True)
        os.link(ring, new / "keyring.json")
    return old.is_dir()


def _take_over_owner(home: Path, building: Path) -> None:
    """Root restores for the service's user."""
    model = home if home.exists() else home.parent
    status = model.stat()
    if os.geteuid() != 0 or not home.exists():
        return
    for folder, _, names in os.walk(building):
        os.chown(folder, status.st_uid, status.st_gid)
        for name in names:
            os.chown(Path(folder) / name, status.st_uid, status.st_gid, follow_symlinks=False)


def _sync_all(building: Path) -> None:
    for folder, _, _ in os.walk(building):
        sync_folder(Path(folder))


def _exchange(one: Path, other: Path) -> None:
    """Raises StateUnusable where the file system cannot, and nothing was done."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    remove(one)
    if code == errno.EBUSY:
        why = "it is a mount point: restore into an empty folder of it, and move that"
    else:
        why = f"{os.strerror(code)}: move the old folder away, then restore without --replace"
    raise StateUnusable(f"{str(other)!r} cannot be exchanged in one step: {why}")


def _clear_leftovers(home: Path) -> None:
    """Of restores that were killed: before the exchange what they had built, after it the old folder, which is kept."""
    for path in home.parent.glob(f"{home.name}.restore-*"):
        pid = path.name.rpartition("-")[2]
        if not pid.isdigit() or Path(f"/proc/{pid}").exists():
            continue
        if (path / "lock").exists():  # a folder that a node has lived in: the one that was exchanged
            path.rename(home.with_name(f"{home.name}.before-{int(path.stat().st_mtime)}-{pid}"))
        else:
            remove(path)
