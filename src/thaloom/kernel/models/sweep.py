"""Deleting what no model needs: marked from the manifests, never guessed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from thaloom.base.errors import CorruptObject
from thaloom.base.events import Emit
from thaloom.base.files import PARTIAL
from thaloom.base.ids import Digest
from thaloom.kernel.models.events import ManifestUnreadable, StoreSwept
from thaloom.kernel.models.manifests import Manifests
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.sealed_objects import SUFFIX as SEALED
from thaloom.kernel.models.trees import read_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did."""

    num_files: int = 0
    freed_bytes: int = 0
    complete: bool = True
    """False if objects nobody needs may be left: because somebody imports or loads just now, or because a damaged
    manifest or tree hides which objects are needed (then only leftovers of writers went)."""


def sweep(manifests: Manifests, objects: Objects, aliases: Path, leftovers: Iterable[Path], emit: Emit) -> Swept:
    """Delete `leftovers` and others of writers, and objects and aliases no manifest reaches.

    The caller has the store to itself.
    """
    needed = _needed(manifests, objects, emit)
    num_files = freed_bytes = 0
    for path in chain(leftovers, _garbage(manifests, objects, aliases, needed)):
        size = path.stat().st_size
        path.unlink()
        num_files += 1
        freed_bytes += size
    if num_files:
        emit(StoreSwept(num_files=num_files, freed_bytes=freed_bytes))
    return Swept(num_files=num_files, freed_bytes=freed_bytes, complete=needed is not None)


def _needed(manifests: Manifests, objects: Objects, emit: Emit) -> set[str] | None:
    """Names of the files of every model's trees and chunks, or None if that cannot be known. Trees are never sealed,
    so that whoever sweeps needs no key."""
    trees: dict[Digest, set[str]] = {}
    needed: set[str] = set()
    known = True
    for name in manifests.names():
        try:
            manifest = manifests.read(name)
        except CorruptObject as error:
            emit(ManifestUnreadable(file=str(manifests.path(name)), problem=error.message))
            known = False
            continue
        for file in manifest.files if manifest else ():
            trees.setdefault(file.tree, set()).add(SEALED if manifest is not None and manifest.encrypted else "")
    for tree in sorted(trees):
        needed.add(tree)
        try:
            chunks = read_tree(objects, tree).chunks
            needed |= {f"{chunk.digest}{suffix}" for chunk in chunks for suffix in trees[tree]}
        except BadObject as error:
            emit(ManifestUnreadable(file=str(objects.path(tree)), problem=error.message))
            known = False
    return needed if known else None


def _garbage(manifests: Manifests, objects: Objects, aliases: Path, needed: set[str] | None) -> Iterator[Path]:
    yield from manifests.partials()
    for path in objects.files():
        if path.name.endswith(PARTIAL) or (needed is not None and path.name not in needed):
            yield path
    for path in sorted(aliases.glob("*")):
        with contextlib.suppress(UnicodeDecodeError):
            if path.name.endswith(PARTIAL) or (needed is not None and path.read_text() not in needed):
                yield path
