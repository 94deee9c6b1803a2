"""A file as a tree: the list of its chunks' digests and lengths, itself an object under the name of its own digest.

The text is canonical (JSON without spaces), so that equal files have equal trees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from thaloom.base.ids import Digest
from thaloom.kernel.models.objects import BadObject, Objects, digest_of, is_digest

MOST_TREE_BYTES_PER_CHUNK = 80
"""`["<64 digits>",4194304],` is 77; chunks of a gigabyte would still fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    digest: Digest
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A file's chunks, in order."""

    chunks: tuple[Chunk, ...]

    @property
    def num_bytes(self) -> int:
        return sum(chunk.num_bytes for chunk in self.chunks)

    @property
    def digest(self) -> Digest:
        return digest_of(encode(self))


def encode(tree: Tree) -> bytes:
    return json.dumps([[chunk.digest, chunk.num_bytes] for chunk in tree.chunks], separators=(",", ":")).encode()


def read_tree(objects: Objects, digest: Digest) -> Tree:
    """Raises BadObject if the tree's object is missing, altered, or no tree."""
    data = objects.read(digest)
    try:
        pairs = json.loads(data)
        chunks = tuple(Chunk(digest=Digest(name), num_bytes=length) for name, length in pairs)
    except (ValueError, TypeError) as error:
        raise BadObject("altered", f"object {digest} is not a tree") from error
    tree = Tree(chunks=chunks)
    if encode(tree) != data or not all(_sound(chunk) for chunk in chunks):
        raise BadObject("altered", f"object {digest} is not a tree")
    return tree


def _sound(chunk: Chunk) -> bool:
    return type(chunk.num_bytes) is int and chunk.num_bytes > 0 and is_digest(chunk.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """A file that was read once from end to end: its tree, and its plain SHA-256 as other tools know it."""

    tree: Tree
    sha256: Digest


def hash_file(file: IO[bytes], chunk_bytes: int, visit: Callable[[Chunk, memoryview], None]) -> Hashed:
    """Cut `file` into chunks in one pass, showing each to `visit`. The view is valid only during the call.

    Raises BadObject if `file` cannot be read to its end.
    """
    buffer = bytearray(chunk_bytes)
    whole = hashlib.sha256()
    chunks: list[Chunk] = []
    for data in _pieces(file, memoryview(buffer)):
        whole.update(data)
        chunk = Chunk(digest=digest_of(data), num_bytes=len(data))
        chunks.append(chunk)
        visit(chunk, data)
    return Hashed(tree=Tree(chunks=tuple(chunks)), sha256=Digest(whole.hexdigest()))


def _pieces(file: IO[bytes], buffer: memoryview) -> Iterator[memoryview]:
    while True:
        num_read = 0
        while num_read < len(buffer):
            try:
                count = file.readinto(buffer[num_read:])  # type: ignore[attr-defined]  # every binary file has it
            except OSError as error:
                raise BadObject("unreadable", f"cannot be read: {error.strerror}") from error
            if not count:
                break
            num_read += count
        if num_read:
            yield buffer[:num_read]
        if num_read < len(buffer):
            return


def read_chunks(objects: Objects, tree: Tree) -> Iterator[bytes]:
    """The file's bytes, each chunk checked as it is read. Raises BadObject."""
    for chunk in tree.chunks:
        yield objects.read(chunk.digest, chunk.num_bytes)
