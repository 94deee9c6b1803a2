"""What drivers made of models' weights, kept beside the models so that it is made once.

Files are named by the manifest and by the driver's own word for the layout, so a changed model or driver never meets
an old file. Everything here may be deleted at any time: it is made again. See docs/decisions/0011.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from thaloom.base.files import PARTIAL
from thaloom.base.ids import Digest
from thaloom.base.units import GIB

MAX_BYTES = 32 * GIB
_SUFFIX = ".packed"


class PackedCache:
    """`folder` is made when the first file comes."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def path(self, digest: Digest, layout: str) -> Path:
        """The place for one model in one layout, marked as used just now. Deletes what was used longest ago to keep
        within bounds, and what writers that died have left. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{_plain(digest)}-{hashlib.sha256(layout.encode()).hexdigest()[:32]}{_SUFFIX}"
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        self._trim(keep=path)
        return path

    def folder_of(self, digest: Digest) -> Path:
        """A place for one model's files alone, for a process that shall not meet others'; made. Raises OSError."""
        folder = self._folder / _plain(digest)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def trim(self) -> None:
        """Keep within bounds, by what was used longest ago: who sees one model's files alone cannot. Raises OSError."""
        self._trim(keep=None)

    def unneeded(self, needed: set[Digest]) -> Iterator[Path]:
        """Files of models that are not among `needed`."""
        kept = {_plain(digest) for digest in needed}
        for path in self._folder.rglob(f"*{_SUFFIX}"):
            if path.name.partition("-")[0] not in kept:
                yield path

    def _trim(self, keep: Path | None) -> None:
        for path in self._folder.rglob(f"*{PARTIAL}"):
            if not _is_writing(path):
                path.unlink(missing_ok=True)
        num_bytes = 0
        for _, size, path in sorted(self._by_use(), reverse=True):
            num_bytes += size
            if num_bytes > self._max_bytes and path != keep:
                path.unlink(missing_ok=True)

    def _by_use(self) -> Iterator[tuple[int, int, Path]]:
        """(when last used, bytes, file)"""
        for path in self._folder.rglob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime_ns, status.st_size, path


def _plain(digest: Digest) -> str:
    return str(digest).rpartition(":")[2]


def _is_writing(path: Path) -> bool:
    """Whether the process that a `.partial` is named by still lives. A pid used again only delays the deletion."""
    words = path.name.split(".")
    return len(words) > 3 and words[-3].isdigit() and Path(f"/proc/{words[-3]}").exists()
