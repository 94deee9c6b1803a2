"""What the door needs of whoever keeps things for its clients; implemented by kernel.state.kept, handed in by door.py.

All of it waits for a disk, and is safe from several threads: the door calls it by `asyncio.to_thread`. Errors: NotKept,
DiskFull, TooLarge, StateUnusable, and those named below.

`holder` is the name of the key that somebody comes with, None where nobody needs one: what is kept for one holder is
there for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import IO, Any, Protocol

from thaloom.kernel.state.types import (
    BatchLine,
    BatchStatus,
    KeptBatch,
    KeptFile,
    KeptResponse,
    ResponseJob,
    ToldEvents,
)


class ResponseStore(Protocol):
    def put(
        self,
        response: KeptResponse,
        *,
        request: dict[str, Any] | None = None,
        holder: str | None = None,
        events: Sequence[dict[str, Any]] = (),
    ) -> None:
        """With `request`, it is still to be made; with `events`, told as it is made, and these are the first."""
        ...

    def get(self, response_id: str, *, holder: str | None = None) -> KeptResponse: ...

    def chain(self, response_id: str, *, holder: str | None = None) -> list[KeptResponse]:
        """The response and all it builds upon, oldest first."""
        ...

    def delete(self, response_id: str, *, holder: str | None = None) -> None: ...

    def sweep(self) -> None: ...

    def claim(self, *, beside: Collection[str] = ()) -> ResponseJob | None:
        """One to make that no living process makes; this process's until `release`."""
        ...

    def release(self, response_id: str) -> None: ...

    def is_wanted(self, response_id: str) -> bool: ...

    def progress(self, response_id: str, body: dict[str, Any]) -> bool: ...

    def finish(
        self, response_id: str, body: dict[str, Any], *, events: Sequence[dict[str, Any]] = (), after: int | None = None
    ) -> bool: ...

    def cancel(
        self,
        response_id: str,
        *,
        holder: str | None = None,
        ending: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> KeptResponse:
        """`ending`: of its body then, the event that ends what is told of it."""
        ...

    def tell(
        self, response_id: str, events: Sequence[dict[str, Any]], *, after: int, body: dict[str, Any] | None = None
    ) -> bool:
        """What happened to it next, behind the first `after` events; False if nobody wants it any more. Raises
        WrongState where somebody else has told more of it."""
        ...

    def told(self, response_id: str, *, after: int = -1, holder: str | None = None) -> ToldEvents:
        """Some of what was told behind the event of that number. Raises BadParameter if nothing ever was."""
        ...


class Incoming(Protocol):
    """A file coming in: `write` until it is whole, then `finish`; or `abort`, which is harmless after the end."""

    def write(self, data: bytes) -> None: ...

    def finish(self, *, filename: str, purpose: str, expires_after_s: float | None = None) -> KeptFile: ...

    def abort(self) -> None: ...


class FileStore(Protocol):
    def begin(self, *, expected_bytes: int = 0, in_stead_of_lines: str = "", holder: str | None = None) -> Any:
        """An Incoming, with room taken for it. `in_stead_of_lines`: of this batch, whose room counts for it."""
        ...

    def get(self, file_id: str, *, holder: str | None = None) -> KeptFile: ...

    def open(self, file_id: str, *, holder: str | None = None) -> tuple[KeptFile, IO[bytes]]: ...

    def reopen(self, file_id: str) -> IO[bytes]:
        """Even when it has expired, as long as a batch that is not over reads it."""
        ...

    def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        descending: bool = True,
        purpose: str | None = None,
        holder: str | None = None,
    ) -> tuple[list[KeptFile], bool]: ...

    def delete(self, file_id: str, *, holder: str | None = None) -> None:
        """Raises FileInUse."""
        ...

    def sweep(self) -> None: ...


class BatchStore(Protocol):
    def create(self, batch: KeptBatch) -> KeptBatch: ...

    def get(self, batch_id: str, *, holder: str | None = None) -> KeptBatch: ...

    def page(
        self, *, limit: int, after: str | None = None, holder: str | None = None
    ) -> tuple[list[KeptBatch], bool]: ...

    def change(
        self, batch_id: str, *, when: Collection[BatchStatus], holder: str | None = None, **changes: Any
    ) -> KeptBatch | None: ...

    def claim(self, *, beside: Collection[str] = ()) -> KeptBatch | None:
        """One to work on that no living process works on; this process's until `release`."""
        ...

    def release(self, batch_id: str) -> None: ...

    def put_line(self, batch_id: str, line: BatchLine) -> None: ...

    def answered(self, batch_id: str) -> set[int]: ...

    def lines(self, batch_id: str, *, failed: bool) -> Iterator[BatchLine]: ...

    def finish(
        self,
        batch_id: str,
        status: BatchStatus,
        *,
        when: Collection[BatchStatus],
        output: Any,
        errors: Any,
        **changes: Any,
    ) -> KeptBatch | None:
        """The end, in one step. `output`, `errors`: of FileStore.begin, written but not finished; or None."""
        ...


class Keeping(Protocol):
    @property
    def responses(self) -> ResponseStore: ...

    @property
    def files(self) -> FileStore: ...

    @property
    def batches(self) -> BatchStore: ...
