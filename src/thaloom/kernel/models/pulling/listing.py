"""What a hub says a model consists of, checked before anything is believed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import UntrustedSource
from thaloom.base.ids import Digest
from thaloom.kernel.models.objects import is_digest

MOST_FILES = 10_000
MOST_FILE_BYTES = 1 << 44
"""16 TiB: nobody has such a file, and sums of a few of them stay far from any limit."""
_SHA1 = re.compile(r"[0-9a-f]{40}")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a hub. One of the two digests is there."""

    path: str
    num_bytes: int
    sha256: Digest | None
    """Of its bytes."""
    git_sha1: str | None
    """Of git's blob, `blob <length>\\0` and the bytes: all that a hub knows of a small file."""

    @property
    def digest(self) -> str:
        """What it is known by: a name for its bytes, however the file is called."""
        return self.sha256 or f"git-{self.git_sha1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A model at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]

    def find(self, path: str) -> RemoteFile | None:
        return next((file for file in self.files if file.path == path), None)


def read_commit(answer: Any, where: str) -> str:
    """`sha` of Hugging Face's model info."""
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise UntrustedSource(f"{where} names no commit", rule="no_commit")
    return commit


def read_hugging_face(page: Any, where: str) -> list[RemoteFile]:
    """One page of `/api/models/{repo}/tree/{commit}`. A large file's `oid` is its pointer's; `lfs` has its own."""
    if not isinstance(page, list) or not all(isinstance(entry, dict) for entry in page):
        raise UntrustedSource(f"{where} is no list of files", rule="no_listing")
    files = []
    for entry in page:
        if entry.get("type") not in ("file", "directory"):
            raise UntrustedSource(f"{where} lists what is neither file nor folder", rule="no_listing")
        if entry["type"] == "file":
            lfs = entry.get("lfs")
            large = lfs if isinstance(lfs, dict) else None
            size = entry.get("size") if large is None else large.get("size")
            sha256, sha1 = (None, entry.get("oid")) if large is None else (large.get("oid"), None)
            files.append(_file(entry.get("path"), size, sha256, sha1, where))
    return files


def read_model_scope(answer: Any, where: str) -> list[RemoteFile]:
    """`/api/v1/models/{repo}/repo/files`: `Data.Files`, each with `Sha256`."""
    data = answer.get("Data") if isinstance(answer, dict) else None
    entries = data.get("Files") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UntrustedSource(f"{where} is no list of files", rule="no_listing")
    return [
        _file(entry.get("Path"), entry.get("Size"), entry.get("Sha256"), None, where)
        for entry in entries
        if entry.get("Type", "blob") == "blob"
    ]


def checked(files: Sequence[RemoteFile], where: str) -> tuple[RemoteFile, ...]:
    """The whole listing, in order of path. Raises UntrustedSource if a path is there twice, or inside a file."""
    require_few(len(files), where)
    paths = {file.path for file in files}
    if len(paths) != len(files):
        raise UntrustedSource(f"{where} lists a path twice", rule="path_twice")
    for path in paths:
        if any(parent in paths for parent in _parents(path)):
            raise UntrustedSource(f"{where} lists {path!r} inside a file", rule="bad_path", file=path)
    return tuple(sorted(files, key=lambda file: file.path))


def require_few(num_files: int, where: str) -> None:
    if num_files > MOST_FILES:
        raise UntrustedSource(f"{where} lists more than {MOST_FILES} files", rule="endless_listing")


def is_plain_path(path: Any) -> bool:
    """Relative, with `/`, of parts that any file system can hold, and inside the folder wherever that is."""
    if not isinstance(path, str) or not path.isprintable() or "\\" in path or len(path.encode()) > 1024:
        return False
    parts = path.split("/")
    return path[1:2] != ":" and all(0 < len(part.encode()) < 256 and part not in (".", "..") for part in parts)


def _file(path: Any, size: Any, sha256: Any, sha1: Any, where: str) -> RemoteFile:
    if not is_plain_path(path):
        raise UntrustedSource(f"{where} lists a file {ascii(path)[:200]}", rule="bad_path", file=ascii(path)[:200])
    if type(size) is not int or not 0 <= size <= MOST_FILE_BYTES:
        raise UntrustedSource(f"{where} says {path!r} has {ascii(size)[:50]} bytes", rule="bad_size", file=path)
    if isinstance(sha256, str) and is_digest(sha256.lower()):
        return RemoteFile(path=path, num_bytes=size, sha256=Digest(sha256.lower()), git_sha1=None)
    if sha256 is None and isinstance(sha1, str) and _SHA1.fullmatch(sha1):
        return RemoteFile(path=path, num_bytes=size, sha256=None, git_sha1=sha1)
    raise UntrustedSource(f"{where} states no digest of {path!r}", rule="no_digest", file=path)


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))
