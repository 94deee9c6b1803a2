"""A disk after the power went: what a program did to it, replayed up to a moment, without what was not flushed.

Two disks, for file systems differ in what a flush of one file means for the names of others:

- *strict*: a file's bytes last when the file was flushed, a name (created, renamed, removed) when its folder was.
- *ordered*: any flush makes all names before it last, as a journal of metadata does, while bytes of files that were not
  flushed themselves are lost: a file that was renamed before it was flushed is empty.

Source: Pillai et al. 2014, "All file systems are not created equal"; ext4(5), data=ordered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Model = Literal["strict", "ordered"]
_HEAD = struct.Struct("<c4Q")


@dataclass(frozen=True, slots=True)
class Op:
    """As record.c tells it: c(reated), w(ritten), t(runcated), s(ynced), r(enamed), l(inked), u(nlinked), d(ir)."""

    kind: str
    path: str
    second: str
    offset: int
    data: bytes


def read_record(path: Path) -> Iterator[Op]:
    raw = path.read_bytes()
    at = 0
    while at < len(raw):
        kind, length, second, offset, size = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        ends = [at + length, at + length + second, at + length + second + size]
        yield Op(
            kind.decode(), raw[at : ends[0]].decode(), raw[ends[0] : ends[1]].decode(), offset, raw[ends[1] : ends[2]]
        )
        at = ends[2]


@dataclass
class File:
    now: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    """As it was when it was last flushed."""


class Disk:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._now: dict[str, File] = {}
        self._kept: dict[str, File] = {}
        self._folders: set[str] = set()
        self._kept_folders: set[str] = set()

    def apply(self, op: Op) -> None:
        match op.kind:
            case "d":
                self._folders.add(op.path)
            case "c":
                self._now[op.path] = File()
            case "r" | "l":
                found = self._now.pop(op.path) if op.kind == "r" and op.path in self._now else self._now.get(op.path)
                assert found is not None, f"{op.path} is renamed, and nobody made it"
                self._now[op.second] = found
            case "u":
                self._now.pop(op.path, None)
                self._folders.discard(op.path)
            case "w":
                content = self._now[op.path].now
                content.extend(bytes(max(0, op.offset - len(content))))
                content[op.offset : op.offset + len(op.data)] = op.data
            case "t":
                content = self._now[op.path].now
                del content[op.offset :]
                content.extend(bytes(op.offset - len(content)))
            case "s":
                self._sync(op.path)

    def _sync(self, path: str) -> None:
        if path in self._now:
            self._now[path].kept = bytes(self._now[path].now)
        if self._model == "ordered":
            self._kept = dict(self._now)
            self._kept_folders = set(self._folders)
        elif path not in self._now:
            here = {name for name in self._now.keys() | self._kept.keys() if _parent(name) == path}
            for name in here:
                if name in self._now:
                    self._kept[name] = self._now[name]
                else:
                    del self._kept[name]
            self._kept_folders -= {name for name in self._kept_folders if _parent(name) == path}
            self._kept_folders |= {name for name in self._folders if _parent(name) == path}

    def lay_out(self, home: str, place: Path) -> None:
        """What is left of the folder `home`, at `place`."""
        place.mkdir(mode=0o700, parents=True)
        kept = {home}
        for folder in sorted(self._kept_folders):  # a parent comes before what is in it
            if _parent(folder) in kept:
                kept.add(folder)
                (place / folder.removeprefix(home).lstrip("/")).mkdir(mode=0o700)
        for name, file in self._kept.items():
            if _parent(name) in kept:
                target = place / name.removeprefix(home).lstrip("/")
                target.write_bytes(file.kept)
                target.chmod(0o600)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
