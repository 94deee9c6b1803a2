"""A pull from its first question to the model in the store: list, choose, look for room, fetch, check, import."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from thaloom.base.clock import Clock
from thaloom.base.errors import (
    CorruptObject,
    MalformedFile,
    ModelNotFound,
    NameTaken,
    SourceUnavailable,
    Untrusted,
)
from thaloom.base.files import require_space
from thaloom.base.outgoing import Outgoing
from thaloom.kernel.models.foreign import GGUF
from thaloom.kernel.models.import_files import MAX_JSON_BYTES, check_index
from thaloom.kernel.models.pulling.hubs import Asking, hub_of
from thaloom.kernel.models.pulling.listing import Listing, RemoteFile
from thaloom.kernel.models.pulling.naming import default_name
from thaloom.kernel.models.pulling.partials import SEGMENT_BYTES, PartialFile, PartialPull, Record, key_of, read_record
from thaloom.kernel.models.pulling.retrying import PATIENCE, Patience
from thaloom.kernel.models.pulling.selecting import index_of, select
from thaloom.kernel.models.pulling.sources import DEFAULT_ENDPOINTS
from thaloom.kernel.models.pulling.transfer import Transfer, is_sound
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import HubModel, HubSettings, Manifest, ModelName

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, the bytes done and the bytes in all. Within a stage the bytes done never become less."""
_LOCK_DEADLINE_S = 15.0
"""For a process of a daemon that was killed: it notices within a second or two."""
_SPARE_BYTES = 64 * 1024 * 1024
_TELL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a pull works with."""

    store: ModelStore
    pulls: Path
    """Folder of unfinished pulls, on the store's file system."""
    outgoing: Outgoing
    clock: Clock
    patience: Patience = PATIENCE
    num_connections: int = 8
    segment_bytes: int = SEGMENT_BYTES


async def pull(
    model: HubModel,
    settings: HubSettings,
    means: Means,
    *,
    name: ModelName | None = None,
    replace: bool = False,
    encrypt: bool = False,
    progress: Progress,
) -> Manifest:
    """The model in the store under `name`, else one made from its repository's.

    What is there of an earlier attempt is gone on with. A hub that lies (Untrusted) leaves nothing behind; after any
    other error what came is kept for the next attempt. Raises also what `ModelStore.import_path` raises.
    """
    progress("listing", 0, None)
    asking = Asking(model, settings, means.outgoing, means.patience, means.clock)
    hub = hub_of(model)
    name = name or default_name(model)
    partial = await _taken(means, key_of(model, asking.endpoint), model)
    try:
        listing = await hub.list(asking)
        tell = _Telling(progress, means.clock)
        transfer = Transfer(
            asking, hub, listing.commit, means.outgoing,
            patience=means.patience, clock=means.clock, num_connections=means.num_connections, on_bytes=tell.pulled,
        )  # fmt: skip
        files = select(listing, model.choice, await _indexed(transfer, listing, model.choice))
        present = _present(means.store, name, files)
        if present is not None:
            partial.delete()
            if encrypt and not present.encrypted:
                return await asyncio.to_thread(means.store.convert, name, encrypted=True)
            return present
        if not replace:
            _refuse_taken(means.store, name)
        record = Record(
            source=source_text(model, asking.endpoint), endpoint=asking.endpoint, commit=listing.commit,
            begun_at=means.clock.now(), files=files,
        )  # fmt: skip
        parts = partial.begin(record)
        tell.begin(files, parts)
        require_space(means.store.root, tell.missing_bytes + tell.total_bytes + _SPARE_BYTES)
        await transfer.fetch(parts, lambda part: partial.finish(part, files))
        tell.tell()
        manifest = await asyncio.to_thread(
            means.store.import_path,
            partial.ready / files[0].path if _is_gguf(files) else partial.ready,
            name,
            replace=replace,
            progress=lambda done, total: progress("importing", done, total),
            source=source_text(model, asking.endpoint, listing.commit),
            encrypt=encrypt,
        )
        partial.delete()
        return manifest
    except Untrusted:
        partial.delete()
        raise
    finally:
        _forget_if_empty(partial)
        partial.close()


def source_text(model: HubModel, endpoint: str, commit: str | None = None) -> str:
    """What a manifest (with a commit) and a list of unfinished pulls (without) say of where a model is from; the latter
    is what `thaloom pull` takes. ModelScope has no commits to ask for: what stands for one is behind a `#`."""
    chosen = "" if model.choice is None else model.choice
    revision = commit or model.revision
    if model.hub == "ms" and commit is not None:
        revision, chosen = model.revision, f"{chosen}#{commit}"
    if endpoint == DEFAULT_ENDPOINTS[model.hub]:
        behind = f":{chosen}" if model.choice is not None else chosen
        return f"{model.hub}://{model.repo}@{revision}{behind}"
    behind = f"/{chosen}" if model.choice is not None else chosen
    middle = "models/" if model.hub == "ms" else ""
    return f"{endpoint}/{middle}{model.repo}/resolve/{quote(revision, safe='')}{behind}"


class _Telling:
    """Counts what is there of all files together, and tells of it now and then."""

    def __init__(self, progress: Progress, clock: Clock) -> None:
        self._progress = progress
        self._clock = clock
        self._parts: list[tuple[PartialFile, int]] = []
        self._rest_bytes = self._most_told = 0
        self._told_at = 0.0
        self.total_bytes = 0

    def begin(self, files: Sequence[RemoteFile], parts: Sequence[PartialFile]) -> None:
        times = Counter(file.digest for file in files)  # a file may be there twice, and comes once
        self._parts = [(part, times[part.file.digest]) for part in parts]
        self.total_bytes = sum(file.num_bytes for file in files)
        self._rest_bytes = self.total_bytes - sum(part.file.num_bytes * count for part, count in self._parts)
        self.tell()

    @property
    def missing_bytes(self) -> int:
        return self.total_bytes - self._done_bytes()

    def pulled(self) -> None:
        if self._clock.monotonic() - self._told_at >= _TELL_S:
            self.tell()

    def tell(self) -> None:
        self._told_at = self._clock.monotonic()
        self._most_told = max(self._most_told, self._done_bytes())
        self._progress("pulling", self._most_told, self.total_bytes)

    def _done_bytes(self) -> int:
        return self._rest_bytes + sum(part.done_bytes * count for part, count in self._parts)


async def _taken(means: Means, key: str, model: HubModel) -> PartialPull:
    deadline = means.clock.monotonic() + _LOCK_DEADLINE_S
    while True:
        partial = PartialPull.take(means.pulls, key, segment_bytes=means.segment_bytes)
        if partial is not None:
            return partial
        if means.clock.monotonic() >= deadline:
            raise SourceUnavailable(f"another process of this node still pulls {model}", retry_after_s=_LOCK_DEADLINE_S)
        await means.clock.sleep(0.2)


async def _indexed(transfer: Transfer, listing: Listing, choice: str | None) -> set[str] | None:
    """The weight files that the index names, or None where there is no index."""
    file = index_of(listing, choice)
    if file is None:
        return None
    try:
        index = json.loads(await transfer.fetch_small(file, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{file.path!r} is not JSON: {error}", file=file.path) from error
    if not isinstance(index, dict):
        raise MalformedFile(f"{file.path!r} is JSON, but not an object", file=file.path)
    return set(check_index(index, file.path).values())


def _present(store: ModelStore, name: ModelName, files: Sequence[RemoteFile]) -> Manifest | None:
    """The model of that name, if it is made of these very files."""
    manifest = _named(store, name)
    if manifest is None:
        return None
    if _is_gguf(files):
        made = manifest.card.quantisation
        return manifest if made is not None and made.original == files[0].sha256 else None
    wanted = {file.path: file for file in files}
    if wanted.keys() != {entry.path for entry in manifest.files}:
        return None
    stored = store.open(manifest)
    for entry in manifest.files:
        file = wanted[entry.path]
        if entry.num_bytes != file.num_bytes or (file.sha256 is not None and file.sha256 != entry.sha256):
            return None
        try:
            if file.sha256 is None and not is_sound(file, stored.read_file(entry.path)):
                return None
        except CorruptObject:
            return None
    return manifest


def _refuse_taken(store: ModelStore, name: ModelName) -> None:
    if _named(store, name) is not None:
        raise NameTaken(f"model {str(name)!r} is there already, with other files", param="name")


def _named(store: ModelStore, name: ModelName) -> Manifest | None:
    """None too where its manifest is damaged: an import heals that."""
    try:
        return store.get(name)
    except (ModelNotFound, CorruptObject):
        return None


def _is_gguf(files: Sequence[RemoteFile]) -> bool:
    return len(files) == 1 and files[0].path.lower().endswith(GGUF)


def _forget_if_empty(partial: PartialPull) -> None:
    """A pull that never came to its first file has nothing to go on with."""
    if partial.folder.exists() and read_record(partial.folder) is None:
        partial.delete()
