"""The bytes of a model from one form into the other: plain into cipher, or back."""

from __future__ import annotations

from thaloom.base.errors import CorruptObject
from thaloom.base.files import require_space
from thaloom.base.ids import Digest
from thaloom.kernel.models.importing import Progress
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.reading import read_entry_tree
from thaloom.kernel.models.types import FileEntry, Manifest


def reseal(
    manifest: Manifest, trees: Objects, source: Objects, target: Objects, progress: Progress | None = None
) -> None:
    """Every chunk of the model into `target`, durably; `source` keeps what it has. The caller keeps sweepers away.

    Raises CorruptObject naming the file, DiskFull, what a key's source raises.
    """
    missing = _missing(manifest, trees, target)
    require_space(trees.folder, sum(target.stored_bytes(num_bytes) for num_bytes in missing.values()))
    done = 0
    for entry in manifest.files:
        try:
            for chunk in read_entry_tree(trees, entry).chunks:
                target.put(chunk.digest, source.read(chunk.digest, chunk.num_bytes))
                done += chunk.num_bytes
                if progress is not None:
                    progress(done, manifest.total_bytes)
        except BadObject as error:
            raise _corrupt(manifest, entry, error) from error
    target.sync(missing)


def _missing(manifest: Manifest, trees: Objects, target: Objects) -> dict[Digest, int]:
    found: dict[Digest, int] = {}
    for entry in manifest.files:
        try:
            chunks = read_entry_tree(trees, entry).chunks
        except BadObject as error:
            raise _corrupt(manifest, entry, error) from error
        found |= {chunk.digest: chunk.num_bytes for chunk in chunks if not target.has(chunk.digest, chunk.num_bytes)}
    return found


def _corrupt(manifest: Manifest, entry: FileEntry, error: BadObject) -> CorruptObject:
    model = str(manifest.name)
    return CorruptObject(
        f"file {entry.path!r} of model {model!r} is {error.problem}: {error.message}", file=entry.path, model=model
    )
