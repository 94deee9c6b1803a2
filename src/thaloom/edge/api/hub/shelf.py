"""What the hub needs of others: models to hand out, and somebody who fetches what is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from thaloom.kernel.models.types import FileEntry, Manifest


class HandedFile(Protocol):
    """An open file of the store. All of it blocks: for a thread."""

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes `start` to `stop`, a few MiB at most at once, checked. Raises CorruptObject."""
        ...

    def close(self) -> None: ...


class Shelf(Protocol):
    """The store, as the hub sees it. All of it blocks: for a thread."""

    def list(self) -> Sequence[Manifest]: ...

    def open_file(self, manifest: Manifest, entry: FileEntry) -> HandedFile:
        """Raises CorruptObject, EncryptionKeyMissing."""
        ...


class Upstream(Protocol):
    """The hub above ours."""

    async def fetch(self, repo: str, revision: str) -> bool:
        """Have a model pulled; whether it is there now. False: this node pulls nothing on behalf of others.

        Raises ServiceLoading while it is on its way, ModelNotFound if the hub above has none, Forbidden if it is not
        open, AirGapped, and what else a pull raises.
        """
        ...
