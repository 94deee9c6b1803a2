"""Reading every byte of a model again."""

from __future__ import annotations

from collections.abc import Callable

from thaloom.kernel.models.importing import Progress
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.reading import read_entry_tree
from thaloom.kernel.models.types import FileEntry, FileFault, Manifest, Verification


def verify(manifest: Manifest, trees: Objects, chunks: Objects, progress: Progress | None) -> Verification:
    """All files, each to its end or to its first fault. `chunks`: where their bytes are."""
    checked = 0
    faults: list[FileFault] = []

    def count(num_bytes: int) -> None:
        nonlocal checked
        checked += num_bytes
        if progress is not None:
            progress(checked, manifest.total_bytes)

    for entry in manifest.files:
        fault = _check(entry, trees, chunks, count)
        if fault is not None:
            faults.append(fault)
    return Verification(name=manifest.name, checked_bytes=checked, faults=tuple(faults))


def _check(entry: FileEntry, trees: Objects, chunks: Objects, count: Callable[[int], None]) -> FileFault | None:
    try:
        for chunk in read_entry_tree(trees, entry).chunks:
            count(len(chunks.read(chunk.digest, chunk.num_bytes)))
    except BadObject as error:
        return FileFault(path=entry.path, problem=error.problem, message=error.message)
    return None
