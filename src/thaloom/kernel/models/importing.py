"""Taking files into the store: count what is missing, write it, keep the aliases. The manifest comes after all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import CorruptObject
from thaloom.base.files import free_bytes, require_space, sync_folder, write_atomic
from thaloom.base.ids import Digest
from thaloom.kernel.models.import_files import SourceFile
from thaloom.kernel.models.import_sums import check_sums
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.trees import MOST_TREE_BYTES_PER_CHUNK, Chunk, Hashed, Tree, encode, hash_file
from thaloom.kernel.models.types import FileEntry

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all). Raising from it gives the operation up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Files that are in the store, durably."""

    entries: tuple[FileEntry, ...]
    written_bytes: int


class Intake:
    """One import's way of writing. Holds no lock: its caller does."""

    def __init__(
        self, trees: Objects, chunks: Objects, aliases: Path, chunk_bytes: int, progress: Progress | None
    ) -> None:
        self._trees = trees
        self._chunks = chunks
        self._aliases = aliases
        self._chunk_bytes = chunk_bytes
        self._progress = progress

    def require_space(self, files: tuple[SourceFile, ...]) -> None:
        """Raise DiskFull before anything is written, with the exact bytes that are missing.

        Files that would fit whole need no look; otherwise they are read once to see what is there already.
        """
        if sum(self._most_bytes(file) for file in files) <= free_bytes(self._trees.folder):
            return
        missing: dict[Digest, int] = {}

        def count(chunk: Chunk, _: memoryview) -> None:
            if not self._chunks.has(chunk.digest, chunk.num_bytes):
                missing[chunk.digest] = self._chunks.stored_bytes(chunk.num_bytes)

        for file in files:
            tree = self._read(file, count).tree
            if not self._trees.has(tree.digest, len(encode(tree))):
                missing[tree.digest] = len(encode(tree))
        require_space(self._trees.folder, sum(missing.values()))

    def take(self, files: tuple[SourceFile, ...], sums: Mapping[str, str]) -> Taken:
        """Write every chunk, tree and alias.

        Raises DiskFull; CorruptObject if a file changes meanwhile or is not what `sums` say.
        """
        total = sum(file.num_bytes for file in files)
        done = written = 0
        entries: list[FileEntry] = []
        digests: set[Digest] = set()

        def keep(chunk: Chunk, data: memoryview) -> None:
            nonlocal done, written
            written += self._chunks.put(chunk.digest, data)
            done += len(data)
            if self._progress is not None:
                self._progress(done, total)

        for file in files:
            hashed = self._read(file, keep)
            written += self._trees.put(hashed.tree.digest, encode(hashed.tree))
            digests |= set(_digests(hashed.tree))
            entries.append(
                FileEntry(path=file.path, num_bytes=file.num_bytes, tree=hashed.tree.digest, sha256=hashed.sha256)
            )
        check_sums(entries, sums)
        self._trees.sync(digests)
        self._keep_aliases(entries)
        return Taken(entries=tuple(sorted(entries, key=lambda entry: entry.path)), written_bytes=written)

    def _read(self, file: SourceFile, visit: Callable[[Chunk, memoryview], None]) -> Hashed:
        with file.open() as opened:
            try:
                hashed = hash_file(opened, self._chunk_bytes, visit)
            except BadObject as error:
                raise CorruptObject(f"{file.path!r} {error.message}", file=file.path) from error
            file.check_unchanged(os.fstat(opened.fileno()))
        if hashed.tree.num_bytes != file.num_bytes:
            raise CorruptObject(
                f"{file.path!r} has {file.num_bytes} bytes, {hashed.tree.num_bytes} could be read", file=file.path
            )
        return hashed

    def _most_bytes(self, file: SourceFile) -> int:
        num_chunks = -(-file.num_bytes // self._chunk_bytes)
        more = self._chunks.stored_bytes(self._chunk_bytes) - self._chunk_bytes
        return file.num_bytes + num_chunks * (more + MOST_TREE_BYTES_PER_CHUNK) + 2

    def _keep_aliases(self, entries: list[FileEntry]) -> None:
        self._aliases.mkdir(parents=True, exist_ok=True)
        sync_folder(self._aliases.parent)
        for entry in entries:
            path = self._aliases / entry.sha256
            if not path.exists() or path.read_bytes() != entry.tree.encode():
                write_atomic(path, entry.tree)


def _digests(tree: Tree) -> Iterator[Digest]:
    yield tree.digest
    for chunk in tree.chunks:
        yield chunk.digest
