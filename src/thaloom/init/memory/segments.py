"""Weights that outlive their worker: memory files that workers fill, seal and share, and that the daemon holds.

It never maps one, and reads nothing of them but whether they are sealed. Each is known by its name: the model's digest,
and a hash of what else decides how a driver packs it and who may share it. A tenant's are its own: whoever fills one
could fill it with anything.

    blank ──filled and sealed──> whole ──nobody uses it──> idle ──too long, too many, memory short──> gone
      └──its worker ended, or went without──> gone

They are gone by themselves with the last who holds them: nothing stays behind a node that was killed, and nothing is
ever swept. Those of workers that live are found again by a later daemon among the descriptors of theirs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thaloom import __version__
from thaloom.base import memory_files
from thaloom.base.access import tenant_of
from thaloom.base.clock import Clock
from thaloom.base.events import Emit
from thaloom.base.ids import Digest, WorkerId
from thaloom.init.events import SharedWeightsDropped
from thaloom.init.rounds.supervisor import Supervised
from thaloom.kernel.memory.idle import Idle, to_drop
from thaloom.kernel.models.types import Manifest
from thaloom.kernel.state.types import ServiceSpec
from thaloom.work.runtime.worker.shared_weights import BLANK, READER

_PREFIX = "thaloom-weights-"
IDLE_SHARE = 4
"""One in so many bytes of the host's may lie idle."""


@dataclass(slots=True, kw_only=True)
class _Segment:
    name: str
    reader: int
    since: float
    """When it was last used."""
    users: set[WorkerId] = field(default_factory=set)
    """Who was given it, and lives."""
    attached: set[WorkerId] = field(default_factory=set)
    """Those of them who say that their weights lie there."""
    stale: bool = False
    """Somebody could not use it: nobody else is given it."""

    @property
    def whole(self) -> bool:
        return memory_files.is_sealed(self.reader)


class Segments:
    """Owner of the descriptors. On the event loop's thread."""

    def __init__(self, clock: Clock, emit: Emit, *, max_idle_bytes: int) -> None:
        self._clock = clock
        self._emit = emit
        self._max_idle_bytes = max_idle_bytes
        self._segments: list[_Segment] = []
        self._blanks: dict[WorkerId, int] = {}

    def give(self, worker: WorkerId, spec: ServiceSpec, manifest: Manifest | None, driver: str) -> dict[str, str]:
        """What a worker about to be started is told of its memory; `descriptors` are those it inherits. Nothing where
        there is nothing to share: other engines', or an encrypted model's, which would lie there in plain."""
        if spec.engine != "thaloom" or manifest is None or manifest.encrypted:
            return {}
        name = _name(spec, manifest, driver)
        segment = next((each for each in self._segments if each.name == name and not each.stale), None)
        if segment is not None and not segment.whole and not memory_files.is_locked(segment.reader):
            segment.stale = True  # whoever was to fill it did not
            segment = None
        with contextlib.suppress(OSError):  # a host without memory files: each worker has its own, as ever
            segment = segment or self._blank(worker, name)
        if segment is None:
            return {}
        segment.users.add(worker)
        told = {READER: str(segment.reader)}
        return told | ({BLANK: str(self._blanks[worker])} if worker in self._blanks else {})

    def descriptors(self, told: Mapping[str, str]) -> tuple[int, ...]:
        """To be inherited by a worker that is told so."""
        return tuple(int(told[name]) for name in (READER, BLANK) if name in told)

    def given(self, worker: WorkerId) -> None:
        """It was started, or could not be: what it fills is its own from now on, and its lock ends with it."""
        if worker in self._blanks:
            os.close(self._blanks.pop(worker))

    def look(self, processes: Iterable[Supervised]) -> None:
        """Heed what workers say, and drop what nobody needs."""
        living = {process.id: process for process in processes if process.alive}
        for segment in self._segments:
            if segment.users - living.keys():
                segment.users &= living.keys()
                segment.since = self._clock.monotonic()
            segment.attached &= segment.users
            for worker in list(segment.users):
                stats = living[worker].stats
                if stats is None or not stats.ready:
                    continue
                if stats.shared_weight_bytes:
                    segment.attached.add(worker)
                else:
                    segment.users.discard(worker)
                    segment.stale = True
        self._drop_useless()
        self.make_room(0)

    def adopt(self, processes: Iterable[Supervised]) -> None:
        """Find those of workers that an earlier daemon started. A tenant's worker may call its memory files what it
        likes: none of theirs is given to anybody again."""
        for process in processes:
            service = process.lease.service
            if service is None or tenant_of(service):
                continue
            for name, descriptor in _found(process.lease.pid):
                known = next((each for each in self._segments if _same(each.reader, descriptor)), None)
                if known is None:
                    known = _Segment(name=name, reader=descriptor, since=self._clock.monotonic())
                    self._segments.append(known)
                else:
                    os.close(descriptor)
                known.users.add(process.id)

    def forget(self, digest: Digest) -> None:
        """The model is gone, or is to lie nowhere in plain: what is idle goes at once, what is used when it is idle."""
        for segment in self._segments:
            if segment.name.startswith(_PREFIX + _plain(digest)):
                segment.stale = True
        self._drop_useless()

    # -- init.memory.node_memory.Sharing

    def held(self) -> dict[str, tuple[int, frozenset[WorkerId]]]:
        """Bytes and users of each that workers use, by a name of its own."""
        return {
            f"shared-{os.fstat(each.reader).st_ino}": (memory_files.held_bytes(each.reader), frozenset(each.attached))
            for each in self._segments
            if each.attached
        }

    def idle_bytes(self) -> int:
        """What could be had at once, or is there already for a worker that is loading."""
        return sum(memory_files.held_bytes(each.reader) for each in self._segments if not each.attached and each.whole)

    def make_room(self, needed_bytes: int) -> int:
        """Drop idle ones until so many bytes came back, if there are as many; how many did."""
        idle = {str(number): each for number, each in enumerate(self._segments) if not each.users}
        facts = [
            Idle(name=number, num_bytes=memory_files.held_bytes(each.reader), since=each.since)
            for number, each in idle.items()
        ]
        now, most = self._clock.monotonic(), self._max_idle_bytes
        gone = [idle[number] for number in to_drop(facts, now=now, max_bytes=most, needed_bytes=needed_bytes)]
        return sum(self._drop(segment) for segment in gone)

    def close(self) -> None:
        """The node goes: what no worker holds is gone."""
        for segment in list(self._segments):
            self._drop(segment, tell=False)
        for worker in list(self._blanks):
            self.given(worker)

    def _blank(self, worker: WorkerId, name: str) -> _Segment:
        """Raises OSError."""
        descriptor = memory_files.create(name)
        try:
            memory_files.lock(descriptor)
            segment = _Segment(name=name, reader=memory_files.reader(descriptor), since=self._clock.monotonic())
        except OSError:
            os.close(descriptor)
            raise
        self._blanks[worker] = descriptor
        self._segments.append(segment)
        return segment

    def _drop_useless(self) -> None:
        for segment in [each for each in self._segments if not each.users and (each.stale or not each.whole)]:
            self._drop(segment)

    def _drop(self, segment: _Segment, *, tell: bool = True) -> int:
        num_bytes = memory_files.held_bytes(segment.reader)
        os.close(segment.reader)
        self._segments.remove(segment)
        if tell and num_bytes:
            idle_s = round(self._clock.monotonic() - segment.since, 1)
            self._emit(SharedWeightsDropped(weights=segment.name, num_bytes=num_bytes, idle_s=idle_s))
        return num_bytes


def _name(spec: ServiceSpec, manifest: Manifest, driver: str) -> str:
    """Thaloom's version stands for that of the library; one that does not fit all the same is found by its reader."""
    sharing = repr((__version__, driver, spec.weights, tenant_of(spec.name)))
    return f"{_PREFIX}{_plain(manifest.digest)}-{hashlib.sha256(sharing.encode()).hexdigest()[:16]}"


def _plain(digest: Digest) -> str:
    return str(digest).rpartition(":")[2]


def _found(pid: int) -> Iterable[tuple[str, int]]:
    """Whole ones among the descriptors of a process, opened for reading. Of one that ends meanwhile, none."""
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            name = memory_files.name_of(int(path.name), pid)
            if name is None or not name.startswith(_PREFIX):
                continue
            with contextlib.suppress(OSError):
                descriptor = memory_files.reader(int(path.name), pid)
                if memory_files.is_sealed(descriptor):
                    yield name, descriptor
                else:
                    os.close(descriptor)


def _same(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)
