"""The two forms of a backup: a tar file, or a folder. Both end with the manifest; without it they are none.

A tar file is plain POSIX tar: `tar xf` opens it where no Thaloom is at hand.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from thaloom.base.errors import CorruptObject
from thaloom.base.files import disk_errors, sync_folder
from thaloom.init.backup.contents import MANIFEST, MAX_MANIFEST_BYTES, BackupManifest, decode, encode

PIECE_BYTES = 1 << 20
OnBytes = Callable[[int], None]


class Writer(Protocol):
    """Takes files one by one, and at the end the manifest."""

    def add(self, path: str, source: IO[bytes], num_bytes: int) -> str:
        """Exactly so many bytes of `source`; their SHA-256. Raises DiskFull; EOFError if there are fewer, and then
        nothing was added."""
        ...

    def finish(self, manifest: BackupManifest) -> None:
        """After this the backup is on the disk. Raises DiskFull."""
        ...


class Reader(Protocol):
    """What a backup holds, in any order."""

    def members(self) -> Iterator[tuple[str, IO[bytes]]]: ...


class FolderWriter:
    def __init__(self, folder: Path, on_bytes: OnBytes) -> None:
        self._folder = folder
        self._on_bytes = on_bytes

    def add(self, path: str, source: IO[bytes], num_bytes: int) -> str:
        target = self._folder / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with disk_errors(target), target.open("xb") as file:
                hashing = Hashing(source, num_bytes, self._on_bytes)
                while piece := hashing.read(PIECE_BYTES):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except EOFError:
            target.unlink()
            raise
        return hashing.hexdigest()

    def finish(self, manifest: BackupManifest) -> None:
        data = encode(manifest)
        self.add(MANIFEST, io.BytesIO(data), len(data))
        for folder, _, _ in os.walk(self._folder):
            sync_folder(Path(folder))


class TarWriter:
    def __init__(self, file: IO[bytes], on_bytes: OnBytes) -> None:
        self._file = file
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by `finish`
        self._on_bytes = on_bytes

    def add(self, path: str, source: IO[bytes], num_bytes: int) -> str:
        info = tarfile.TarInfo(path)
        info.size, info.mode = num_bytes, 0o600
        hashing = Hashing(source, num_bytes, self._on_bytes)
        begin = self._tar.offset
        try:
            with disk_errors(Path(self._file.name)):
                self._tar.addfile(info, hashing)
        except EOFError:
            self._file.seek(begin)
            self._file.truncate()
            self._tar.offset = begin
            raise
        return hashing.hexdigest()

    def finish(self, manifest: BackupManifest) -> None:
        data = encode(manifest)
        self.add(MANIFEST, io.BytesIO(data), len(data))
        with disk_errors(Path(self._file.name)):
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())


class FolderReader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def members(self) -> Iterator[tuple[str, IO[bytes]]]:
        for folder, folders, names in os.walk(self._folder):
            folders.sort()
            for name in sorted(names):
                path = Path(folder) / name
                if path.is_symlink() or not path.is_file():
                    raise CorruptObject(f"the backup holds {str(path)!r}, which is no ordinary file", file=name)
                with path.open("rb") as file:
                    yield str(path.relative_to(self._folder)), file


class TarReader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def members(self) -> Iterator[tuple[str, IO[bytes]]]:
        try:
            with tarfile.open(self._path, "r:") as tar:
                for member in tar:
                    opened = tar.extractfile(member) if member.isreg() else None
                    if opened is None:
                        raise CorruptObject(
                            f"the backup holds {member.name!r}, which is no ordinary file", file=member.name
                        )
                    yield member.name, opened
        except (tarfile.TarError, EOFError) as error:
            raise CorruptObject(f"the backup {str(self._path)!r} is damaged: {error}", file=str(self._path)) from error


class Hashing:
    """Reads exactly `num_bytes` of `source`, and hashes them."""

    def __init__(self, source: IO[bytes], num_bytes: int, on_bytes: OnBytes = lambda _: None) -> None:
        self._source = source
        self._left = num_bytes
        self._digest = hashlib.sha256()
        self._on_bytes = on_bytes

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._source.read(wanted) if wanted else b""
        if len(data) < wanted:
            raise EOFError(f"{self._left - len(data)} bytes are missing")
        self._left -= len(data)
        self._digest.update(data)
        self._on_bytes(len(data))
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def open_backup(path: Path) -> Reader:
    """Raises CorruptObject if there is none."""
    if path.is_dir():
        return FolderReader(path)
    if not path.is_file():
        raise CorruptObject(f"there is no backup at {str(path)!r}", file=str(path))
    return TarReader(path)


def read_manifest(reader: Reader) -> BackupManifest:
    """Raises CorruptObject (it was never finished, or is damaged), StateUnusable (newer)."""
    for name, file in reader.members():
        if name == MANIFEST:
            data = file.read(MAX_MANIFEST_BYTES + 1)
            if len(data) > MAX_MANIFEST_BYTES:
                raise CorruptObject("the backup's manifest is too long to be one", file=MANIFEST)
            return decode(data)
    raise CorruptObject("the backup has no manifest: it was never finished", file=MANIFEST)


def verify(
    reader: Reader, manifest: BackupManifest, keep: Callable[[str], IO[bytes] | None], on_bytes: OnBytes
) -> None:
    """Read every byte; what `keep` opens a file for is written there. Raises CorruptObject naming it, DiskFull."""
    left = {entry.path: entry for entry in manifest.entries}
    for name, source in reader.members():
        if name == MANIFEST:
            continue
        entry = left.pop(name, None)
        if entry is None:
            raise CorruptObject(f"{name!r} is in the backup and not in its manifest", file=name)
        digest, num_bytes = hashlib.sha256(), 0
        with _kept(keep(name)) as target:
            while piece := source.read(PIECE_BYTES):
                digest.update(piece)
                num_bytes += len(piece)
                on_bytes(len(piece))
                if target is not None:
                    target.write(piece)
        if (digest.hexdigest(), num_bytes) != (entry.sha256, entry.num_bytes):
            raise CorruptObject(f"{name!r} is not what was backed up", file=name)
    if left:
        missing = min(left)
        raise CorruptObject(f"{missing!r} is missing from the backup", file=missing)


@contextmanager
def _kept(file: IO[bytes] | None) -> Iterator[IO[bytes] | None]:
    if file is None:
        yield None
        return
    with file, disk_errors(Path(file.name)):
        yield file
        file.flush()
        os.fsync(file.fileno())
