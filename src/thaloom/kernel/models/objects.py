"""Objects on disk: bytes under the name of their SHA-256, each file whole or not there."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from thaloom.base.files import PARTIAL, disk_errors, sync_folder
from thaloom.base.ids import Digest
from thaloom.kernel.models.direct import read_whole

_DIGEST = re.compile(r"[0-9a-f]{64}")
_serial = itertools.count()

Problem = Literal["missing", "altered", "truncated", "unreadable"]


class BadObject(Exception):
    """An object is not what its name says. Inside this room only: whoever knows the file's name reports it."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem: Problem = problem
        self.message = message


def is_digest(text: str) -> bool:
    return bool(_DIGEST.fullmatch(text))


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


class Objects:
    """The folder of objects, spread over 256 folders by the first two digits.

    A subclass may keep them in another form beside (`models.sealed_objects`): names and lengths are always those of the
    bytes themselves.
    """

    suffix = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: Digest) -> Path:
        return self.folder / digest[:2] / f"{digest}{self.suffix}"

    def stored_bytes(self, num_bytes: int) -> int:
        """How long the file of an object of so many bytes is."""
        return num_bytes

    def put(self, digest: Digest, data: bytes | memoryview) -> int:
        """Make sure the object is there and whole; returns the bytes written, 0 if it was.

        What is there is compared with `data`: importing a model again heals it. Durable after `sync`. Raises DiskFull.
        """
        path = self.path(digest)
        if self._holds(digest, data):
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{digest}.{os.getpid()}.{next(_serial)}{PARTIAL}")
        pieces = self._form(digest, data)
        try:
            with disk_errors(path):
                with partial.open("wb") as file:
                    for piece in pieces:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return len(data)

    def has(self, digest: Digest, num_bytes: int) -> bool:
        """Whether an object of that name and length is there; its bytes are not read."""
        try:
            return self.path(digest).stat().st_size == self.stored_bytes(num_bytes)
        except FileNotFoundError:
            return False

    def read(self, digest: Digest, num_bytes: int | None = None) -> bytes:
        """The whole object, checked against its name (and length). Raises BadObject."""
        try:
            data = self._load(digest)
        except OSError as error:
            raise unreadable(digest, error) from error
        if num_bytes is not None and len(data) != num_bytes:
            raise _wrong_length(digest, len(data), num_bytes)
        if digest_of(data) != digest:
            raise _altered(digest)
        return data

    def read_into(self, digest: Digest, target: memoryview) -> None:
        """The whole object into `target`, whose length it must have; checked against its name. Raises BadObject."""
        self._fill(digest, 0, target, whole=True)
        if digest_of(target) != digest:
            raise _altered(digest)

    def read_direct(self, digest: Digest, room: memoryview, num_bytes: int) -> None:
        """As `read_into`, to the start of `room` (models.direct.aligned), past the page cache. Raises BadObject."""
        try:
            count = read_whole(self.path(digest), room)
        except OSError as error:
            raise unreadable(digest, error) from error
        if count != num_bytes:
            raise _wrong_length(digest, count, num_bytes)
        if digest_of(room[:num_bytes]) != digest:
            raise _altered(digest)

    def read_part(self, digest: Digest, offset: int, target: memoryview) -> None:
        """Some bytes of an object that was checked before, and is not checked again. Raises BadObject."""
        self._fill(digest, offset, target, whole=False)

    def sync(self, digests: Iterable[Digest]) -> None:
        """Make the names of these objects survive a power loss."""
        for prefix in sorted({digest[:2] for digest in digests}):
            sync_folder(self.folder / prefix)
        sync_folder(self.folder)

    def files(self) -> Iterator[Path]:
        """Every file in the folder, leftovers too."""
        yield from sorted(path for path in self.folder.glob("*/*") if path.is_file())

    def _holds(self, digest: Digest, data: bytes | memoryview) -> bool:
        try:
            return self.has(digest, len(data)) and self._load(digest) == data
        except OSError:
            return False  # absent, or unreadable and so worth writing again

    def _form(self, digest: Digest, data: bytes | memoryview) -> Iterable[bytes | memoryview]:  # noqa: ARG002
        """What is written of an object, piece by piece."""
        return (data,)

    def _load(self, digest: Digest) -> bytes:
        """All its bytes, unchecked. Raises OSError."""
        return self.path(digest).read_bytes()

    def _fill(self, digest: Digest, offset: int, target: memoryview, *, whole: bool) -> None:
        try:
            with self.path(digest).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                require_length(digest, size, offset, target, whole=whole)
                file.seek(offset)
                num_read = 0
                while num_read < len(target):
                    count = file.readinto(target[num_read:])
                    if not count:
                        raise _wrong_length(digest, offset + num_read, offset + len(target))
                    num_read += count
        except OSError as error:
            raise unreadable(digest, error) from error


def require_length(digest: Digest, size: int, offset: int, target: memoryview, *, whole: bool) -> None:
    """Raises BadObject if an object of `size` bytes has not what is to be read (`whole`: exactly that)."""
    if (whole and size != len(target)) or size < offset + len(target):
        raise _wrong_length(digest, size, offset + len(target))


def unreadable(digest: Digest, error: OSError) -> BadObject:
    if isinstance(error, FileNotFoundError):
        return BadObject("missing", f"object {digest} is missing")
    return BadObject("unreadable", f"object {digest} cannot be read: {error.strerror}")


def _wrong_length(digest: Digest, actual: int, expected: int) -> BadObject:
    problem: Problem = "truncated" if actual < expected else "altered"
    return BadObject(problem, f"object {digest} has {actual} bytes instead of {expected}")


def _altered(digest: Digest) -> BadObject:
    return BadObject("altered", f"object {digest} does not have the bytes its name stands for")
