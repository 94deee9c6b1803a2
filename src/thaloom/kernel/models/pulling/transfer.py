"""Bringing files here: several at once, large ones in segments, each byte at its place, nothing believed unseen."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Callable, Sequence

from thaloom.base.clock import Clock
from thaloom.base.errors import CorruptObject, ModelNotFound, SourceUnavailable, UntrustedSource
from thaloom.base.outgoing import Answer, Outgoing
from thaloom.kernel.models.pulling.hubs import Asking, Hub, refuse
from thaloom.kernel.models.pulling.listing import RemoteFile
from thaloom.kernel.models.pulling.partials import PartialFile, Segment
from thaloom.kernel.models.pulling.retrying import Patience, retrying

_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20})")
OnBytes = Callable[[], None]


class Transfer:
    """Fetches the files of one pull. `on_bytes` is called whenever more of them is there."""

    def __init__(
        self,
        asking: Asking,
        hub: Hub,
        commit: str,
        outgoing: Outgoing,
        *,
        patience: Patience,
        clock: Clock,
        num_connections: int,
        on_bytes: OnBytes,
    ) -> None:
        self._asking = asking
        self._hub = hub
        self._commit = commit
        self._outgoing = outgoing
        self._patience = patience
        self._clock = clock
        self._num_connections = num_connections
        self._on_bytes = on_bytes

    async def fetch(self, parts: Sequence[PartialFile], finish: Callable[[PartialFile], None]) -> None:
        """All that is missing of `parts`; `finish` is called with each that is whole and has its digest.

        Raises SourceUnavailable (what came stays), CorruptObject (wrong length or digest), UntrustedSource, Forbidden,
        AirGapped, DiskFull.
        """
        small_first = sorted(parts, key=lambda part: part.file.num_bytes)  # what is whole stays, whatever comes after
        self._work = deque((part, segment) for part in small_first for segment in part.missing())
        self._open = {id(part): len(part.missing()) for part in parts}
        self._finish = finish
        for part in parts:
            if not part.missing():
                await self._check(part)
        workers = min(self._num_connections, len(self._work))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(workers):
                    tasks.create_task(self._fetch_segments())
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def fetch_small(self, file: RemoteFile, limit: int) -> bytes:
        """One small file into memory. Raises as `fetch` does, UntrustedSource if it has more than `limit` bytes."""
        if file.num_bytes > limit:
            raise UntrustedSource(
                f"{file.path!r} has {file.num_bytes} bytes, at most {limit} make sense", rule="bad_size"
            )
        found = bytearray()
        part = _InMemory(file, found)

        async def attempt() -> None:
            await self._fetch_range(part, Segment(index=0, start=len(found), stop=file.num_bytes))

        if file.num_bytes:
            await retrying(attempt, self._patience, self._clock, progress=lambda: len(found))
        if not part.is_sound():
            raise _wrong_digest(file)
        return bytes(found)

    async def _fetch_segments(self) -> None:
        while self._work:
            part, segment = self._work.popleft()
            await self._fetch_segment(part, segment)
            self._open[id(part)] -= 1
            if self._open[id(part)] == 0:
                await self._check(part)

    async def _fetch_segment(self, part: PartialFile, segment: Segment) -> None:
        async def attempt() -> None:
            start = part.at(segment.index)
            if start < segment.stop:
                await self._fetch_range(part, Segment(index=segment.index, start=start, stop=segment.stop))

        await retrying(attempt, self._patience, self._clock, progress=lambda: part.at(segment.index))

    async def _fetch_range(self, part: PartialFile | _InMemory, segment: Segment) -> None:
        """One request. Raises SourceUnavailable where the connection breaks, with what came kept."""
        file = part.file
        whole = segment.start == 0 and segment.stop == file.num_bytes
        async with self._outgoing.get(
            self._hub.file_url(self._asking, self._commit, file.path),
            purpose=self._asking.purpose,
            secrets=self._asking.secrets,
            headers={} if whole else {"range": f"bytes={segment.start}-{segment.stop - 1}"},
        ) as answer:
            try:
                refuse(answer, self._asking.model)
            except ModelNotFound as error:
                raise UntrustedSource(
                    f"{file.path!r} is listed, but {answer.url} answers {answer.status}", rule="listed_and_missing"
                ) from error
            self._check_head(answer, file, segment)
            await self._take(answer, part, segment)

    def _check_head(self, answer: Answer, file: RemoteFile, segment: Segment) -> None:
        commit = answer.header("x-repo-commit")
        if commit is not None and commit.lower() != self._commit:
            raise UntrustedSource(
                f"{answer.url} answers with commit {commit[:64]!r}, asked for {self._commit!r}", rule="other_commit"
            )
        expected = segment.stop - segment.start
        if answer.status == 206:
            found = _RANGE.fullmatch((answer.header("content-range") or "").strip().lower())
            if found is None or [int(number) for number in found.groups()] != [
                segment.start,
                segment.stop - 1,
                file.num_bytes,
            ]:
                raise _wrong_length(file, f"answers bytes {answer.header('content-range')!r}", answer)
        elif segment.start:
            raise UntrustedSource(
                f"{answer.url} does not give parts of files: asked for bytes from {segment.start}, it begins anew",
                rule="no_ranges",
            )
        elif answer.status == 200:
            expected = file.num_bytes
        length = answer.length()
        if length is not None and length != expected:
            raise _wrong_length(file, f"answers {length} bytes instead of {expected}", answer)

    async def _take(self, answer: Answer, part: PartialFile | _InMemory, segment: Segment) -> None:
        """A 200 for the first of several segments holds the others too: only the first is taken of it."""
        left = segment.stop - segment.start
        more_is_a_lie = answer.status == 206 or segment.stop == part.file.num_bytes
        begun, seen = self._clock.monotonic(), 0
        async for piece in answer.pieces():
            if len(piece) > left and more_is_a_lie:
                raise _wrong_length(part.file, "goes on beyond its end", answer)
            part.write(segment.index, piece[:left])
            left -= min(left, len(piece))
            self._on_bytes()
            if not left and not more_is_a_lie:
                return
            seen += len(piece)
            if self._clock.monotonic() - begun > self._patience.stalled_s:
                if seen < self._patience.least_bytes:
                    raise SourceUnavailable(f"{answer.url} brought {seen} bytes in {self._patience.stalled_s:g} s")
                begun, seen = self._clock.monotonic(), 0
        if left:
            raise _wrong_length(part.file, f"ends {left} bytes too early", answer)

    async def _check(self, part: PartialFile) -> None:
        """The digest, when all is there. What came before us is given a second chance; a hub is not."""
        if not await asyncio.to_thread(part.is_sound):
            resumed = part.resumed
            part.clear()
            if not resumed:
                raise _wrong_digest(part.file)
            segments = part.missing()
            self._open[id(part)] = len(segments)
            for segment in segments:
                await self._fetch_segment(part, segment)
            if not await asyncio.to_thread(part.is_sound):
                part.clear()
                raise _wrong_digest(part.file)
        self._finish(part)


class _InMemory:
    """A file that is small enough not to be a file."""

    def __init__(self, file: RemoteFile, found: bytearray) -> None:
        self.file = file
        self._found = found

    def write(self, index: int, data: bytes) -> None:  # noqa: ARG002 - as PartialFile
        self._found += data

    def is_sound(self) -> bool:
        return is_sound(self.file, bytes(self._found))


def is_sound(file: RemoteFile, data: bytes) -> bool:
    if file.sha256 is not None:
        return hashlib.sha256(data).hexdigest() == file.sha256
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == file.git_sha1


def _wrong_length(file: RemoteFile, what: str, answer: Answer) -> CorruptObject:
    return CorruptObject(
        f"{file.path!r} is listed with {file.num_bytes} bytes; {answer.url} {what}", file=file.path, rule="wrong_length"
    )


def _wrong_digest(file: RemoteFile) -> CorruptObject:
    return CorruptObject(
        f"{file.path!r} came with other bytes than its hub states: the digest is not {file.digest}",
        file=file.path,
        rule="wrong_digest",
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
