"""What is there of models that are being pulled, on disk: it survives us, a kill, and a change at the hub.

<pulls>/<key>/pull.json     what was asked, the commit, and the digest and length of every file
<pulls>/<key>/<digest>.data bytes as they come, at their places in the file
<pulls>/<key>/<digest>.marks  how far each segment is: 8 bytes for the segments' size, then 8 for each segment
<pulls>/<key>/ready/<path>  files that are whole and have their digest
<pulls>/<key>/lock          held by whoever works on it

A part's name is the digest of what it will be, so bytes of two versions are never mixed. A mark is written after the
bytes it counts; should a power loss keep the mark and lose the bytes, the digest tells, and the file is fetched anew.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter
from thaloom.base.files import disk_errors, write_atomic
from thaloom.kernel.models.pulling.listing import RemoteFile, is_plain_path
from thaloom.kernel.models.types import HubModel, UnfinishedPull

VERSION = 1
SEGMENT_BYTES = 32 * 1024 * 1024
"""Of a file, fetched over one connection. Large enough that asking costs nothing beside it."""
_MARK = struct.Struct("<Q")
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """pull.json."""

    source: str
    endpoint: str
    commit: str
    begun_at: float
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Bytes `start` to `stop` of a file that are still to come."""

    index: int
    start: int
    stop: int


class PartialFile:
    """One file on its way. For one process, and one task a segment."""

    def __init__(self, folder: Path, file: RemoteFile, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.file = file
        self._data = folder / f"{file.digest}.data"
        self._marks_path = folder / f"{file.digest}.marks"
        self._segment_bytes = segment_bytes
        self._marks = self._read_marks()
        self.resumed = self.done_bytes > 0
        """Whether some of it came before we did, and was not seen coming."""

    @property
    def done_bytes(self) -> int:
        return sum(self._marks)

    def missing(self) -> list[Segment]:
        found = []
        for index, done in enumerate(self._marks):
            start = index * self._segment_bytes
            stop = min(start + self._segment_bytes, self.file.num_bytes)
            if start + done < stop:
                found.append(Segment(index=index, start=start + done, stop=stop))
        return found

    def at(self, index: int) -> int:
        """Where the next byte of that segment belongs."""
        return index * self._segment_bytes + self._marks[index]

    def write(self, index: int, data: bytes) -> None:
        """The next bytes of a segment. Raises DiskFull."""
        with disk_errors(self._data):
            _write_at(self._data, self.at(index), data)
            self._marks[index] += len(data)
            if not self._marks_path.exists():
                _write_at(self._marks_path, 0, _MARK.pack(self._segment_bytes) + bytes(8 * len(self._marks)))
            _write_at(self._marks_path, 8 * (1 + index), _MARK.pack(self._marks[index]))

    def is_sound(self) -> bool:
        """Whether the bytes have the digest they must have. Reads them all."""
        algorithm = (
            hashlib.sha256() if self.file.sha256 is not None else hashlib.sha1(b"blob %d\0" % self.file.num_bytes)
        )
        num_bytes = 0
        if self.file.num_bytes:
            with self._data.open("rb", buffering=0) as data:
                while piece := data.read(_READ_BYTES):
                    algorithm.update(piece)
                    num_bytes += len(piece)
        return num_bytes == self.file.num_bytes and algorithm.hexdigest() == (self.file.sha256 or self.file.git_sha1)

    def clear(self) -> None:
        """Back to nothing."""
        self._data.unlink(missing_ok=True)
        self._marks_path.unlink(missing_ok=True)
        self._marks = [0] * len(self._marks)
        self.resumed = False

    def move_to(self, target: Path) -> None:
        """To its own name, when it is sound."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.file.num_bytes == 0:
            self._data.touch()
        with self._data.open("rb") as data:
            os.fsync(data.fileno())  # what is ready is not looked at again
        self._data.replace(target)
        self._marks_path.unlink(missing_ok=True)

    def _read_marks(self) -> list[int]:
        num_segments = -(-self.file.num_bytes // self._segment_bytes)
        nothing = [0] * num_segments
        try:
            text = self._marks_path.read_bytes()
            size = self._data.stat().st_size
        except FileNotFoundError:
            return nothing
        if len(text) != 8 * (1 + num_segments):
            return nothing
        segment_bytes, *marks = (value[0] for value in _MARK.iter_unpack(text))
        places = [index * self._segment_bytes for index in range(num_segments)]
        sound = segment_bytes == self._segment_bytes and all(
            mark <= min(self._segment_bytes, self.file.num_bytes - place) and (mark == 0 or place + mark <= size)
            for place, mark in zip(places, marks, strict=True)
        )
        return marks if sound else nothing


class PartialPull:
    """The folder of one pull, held for this process alone until closed."""

    def __init__(self, folder: Path, lock: int, segment_bytes: int) -> None:
        self.folder = folder
        self.ready = folder / "ready"
        self._lock = lock
        self._segment_bytes = segment_bytes

    @classmethod
    def take(cls, root: Path, key: str, *, segment_bytes: int = SEGMENT_BYTES) -> PartialPull | None:
        """None if another process works on it."""
        folder = root / key
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            inode = (folder / "lock").stat().st_ino  # of a folder that was deleted meanwhile, the lock is no lock
        except (BlockingIOError, FileNotFoundError):
            os.close(lock)
            return None
        if inode != os.fstat(lock).st_ino:
            os.close(lock)
            return None
        return cls(folder, lock, segment_bytes)

    def begin(self, record: Record) -> list[PartialFile]:
        """Go on with what is there of these very files, forget the rest; gives those that are not ready."""
        earlier = read_record(self.folder)
        wanted = {file.path: file for file in record.files}
        ready = {
            file.path
            for file in (earlier.files if earlier is not None else ())
            if wanted.get(file.path) == file and self._is_ready(file)
        }
        for path in _files_in(self.ready):
            if path.relative_to(self.ready).as_posix() not in ready:
                path.unlink()
        kept = {f"{file.digest}{ending}" for file in record.files for ending in (".data", ".marks")}
        for path in list(self.folder.glob("*.data")) + list(self.folder.glob("*.marks")):
            if path.name not in kept:
                path.unlink()
        write_atomic(self.folder / "pull.json", _encode(record))
        self.ready.mkdir(exist_ok=True)
        missing: dict[str, RemoteFile] = {}
        for file in record.files:
            if file.path not in ready:
                missing.setdefault(file.digest, file)
        return [PartialFile(self.folder, file, self._segment_bytes) for file in missing.values()]

    def finish(self, part: PartialFile, files: Sequence[RemoteFile]) -> None:
        """Give a sound part the names of all files that have these bytes."""
        first, *others = [self.ready / file.path for file in files if file.digest == part.file.digest]
        part.move_to(first)
        for other in others:
            other.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first, other)

    def delete(self) -> None:
        """All of it, while it is held."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _is_ready(self, file: RemoteFile) -> bool:
        try:
            return (self.ready / file.path).stat().st_size == file.num_bytes
        except OSError:
            return False


def key_of(model: HubModel, endpoint: str) -> str:
    """The folder's name: one for each thing somebody may ask for, whatever commit it is at now."""
    return hashlib.sha256(json.dumps([endpoint, str(model)]).encode()).hexdigest()[:32]


def read_record(folder: Path) -> Record | None:
    """None if there is none that can be read: then nothing in the folder counts."""
    try:
        data = json.loads((folder / "pull.json").read_bytes())
        if not isinstance(data, dict) or data.pop("version", None) != VERSION:
            return None
        record = from_mapping(Record, data)
    except (OSError, ValueError, RecursionError, BadParameter):
        return None
    return record if all(is_plain_path(file.path) for file in record.files) else None


def unfinished(root: Path) -> list[tuple[str, UnfinishedPull]]:
    """Every pull that did not come to its end, with its folder's name; the oldest first."""
    found = []
    for folder in sorted(root.glob("*")) if root.is_dir() else []:
        record = read_record(folder)
        if record is not None:
            done = sum(_done_bytes(folder, file) for file in record.files)
            total = sum(file.num_bytes for file in record.files)
            found.append(
                (
                    folder.name,
                    UnfinishedPull(
                        source=record.source,
                        commit=record.commit,
                        done_bytes=done,
                        total_bytes=total,
                        begun_at=record.begun_at,
                    ),
                )
            )
    return sorted(found, key=lambda pair: pair[1].begun_at)


def _done_bytes(folder: Path, file: RemoteFile) -> int:
    try:
        if (folder / "ready" / file.path).stat().st_size == file.num_bytes:
            return file.num_bytes
    except OSError:
        pass
    try:
        return sum(value[0] for value in _MARK.iter_unpack((folder / f"{file.digest}.marks").read_bytes()[8:]))
    except (OSError, struct.error):
        return 0


def _encode(record: Record) -> str:
    data: dict[str, Any] = {"version": VERSION} | dataclasses.asdict(record)
    return json.dumps(data, ensure_ascii=False)


def _files_in(folder: Path) -> Iterator[Path]:
    yield from [path for path in folder.rglob("*") if not path.is_dir()]


def _write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)
