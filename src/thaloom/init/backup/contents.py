"""What a backup holds of a node's folder, and its manifest: the list of everything with its length and SHA-256.

In: whatever lies in the folder and is not left out by name, so that what a later room keeps there is not forgotten.
Out: what means nothing without the running processes (`run/`, `lock`, logs, half-written files, unfinished pulls, what
can be made again), and the master key: a backup that held it would open itself.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, CorruptObject, StateUnusable
from thaloom.base.files import PARTIAL

VERSION = 1
"""Of the backup's own form. A newer one is refused."""
MANIFEST = "BACKUP.json"
MAX_MANIFEST_BYTES = 256 * 1024 * 1024
SQLITE = b"SQLite format 3\0"
_OUT = ("lock", "run", "logs", "refused-calls.jsonl")
_MODELS_OUT = ("lock", "manifests.lock", "staging", "packed", "pulls")
_SIDES = ("-wal", "-shm", "-journal")
"""Of a database: what its snapshot has taken in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file. `path` is relative to the node's folder."""

    path: str
    kind: Literal["file", "database"]
    num_bytes: int
    sha256: str
    schema: int = 0
    """Of a database: its version, which a node that restores it must know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupManifest:
    thaloom: str
    taken_at: float
    models: bool
    """Whether the models are in it too."""
    entries: tuple[Entry, ...]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)


def encode(manifest: BackupManifest) -> bytes:
    return (
        json.dumps({"version": VERSION} | asdict(manifest), separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
    )


def decode(text: bytes) -> BackupManifest:
    """Raises CorruptObject, StateUnusable for a newer one."""
    try:
        data: dict[str, Any] = json.loads(text)
        version = data.pop("version")
        if isinstance(version, int) and version > VERSION:
            raise StateUnusable(
                f"the backup has version {version}; this Thaloom knows versions up to {VERSION}",
                version=version,
                latest=VERSION,
            )
        manifest = from_mapping(BackupManifest, data)
    except (ValueError, KeyError, AttributeError, RecursionError, BadParameter) as error:
        raise CorruptObject(f"the backup's manifest is damaged: {error}", file=MANIFEST) from error
    for entry in manifest.entries:
        parts = entry.path.split("/")
        if entry.path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in entry.path:
            raise CorruptObject(f"the backup names a path that leaves the folder: {entry.path!r}", file=MANIFEST)
    if len({entry.path for entry in manifest.entries}) != len(manifest.entries):
        raise CorruptObject("the backup names a path twice", file=MANIFEST)
    return manifest


def small_files(home: Path, key_file: Path | None) -> Iterator[Path]:
    """Everything but the models: ordinary files, in an order of their own. `key_file`: the master key."""
    for path in sorted(_files(home)):
        parts = path.relative_to(home).parts
        if parts[0] in (*_OUT, "models") or _is_left_out(path, home, key_file):
            continue
        yield path


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of all that are still there."""
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def model_files(home: Path) -> Iterator[Path]:
    """Manifests first: what they name is there until somebody sweeps, which the store's lock keeps away."""
    root = home / "models"
    found = [path for path in _files(root) if path.relative_to(root).parts[0] not in _MODELS_OUT]
    manifests = root / "manifests"
    yield from (path for path in sorted(found) if path.is_relative_to(manifests))
    yield from (path for path in sorted(found) if not path.is_relative_to(manifests))


def _files(folder: Path) -> Iterator[Path]:
    """What goes meanwhile (a job's, say) is left out, folders too."""
    try:
        paths = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in paths:
        if path.is_symlink():
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file() and not path.name.endswith(PARTIAL):
            yield path


def _is_left_out(path: Path, home: Path, key_file: Path | None) -> bool:
    if path.parent == home and path.name.startswith("master.key"):
        return True
    if (
        key_file is not None
        and path.name in (key_file.name, f"{key_file.name}.next")
        and path.parent == key_file.parent
    ):
        return True
    side = next((side for side in _SIDES if path.name.endswith(side)), None)
    return side is not None and is_database(path.with_name(path.name.removesuffix(side)))


def is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False
