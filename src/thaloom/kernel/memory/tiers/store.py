"""Objects of bytes by key, in host memory and on disk: the slower tier takes what the faster one has no room for.

Nobody who puts something waits for the disk: one thread moves what is worth least down ahead of need, and brings up
what was asked for. An object that leaves the lowest tier is lost, and so is all of it with the process: this is for
what can be made again, or what somebody who knows the bounds wants kept, which is never given up. Bytes are counted in
units of types.UNIT_BYTES.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from thaloom.base.clock import Clock, SystemClock
from thaloom.base.events import Emit, ignore
from thaloom.kernel.memory.tiers.books import Books
from thaloom.kernel.memory.tiers.disk import DiskFolder, fill_start, new_room
from thaloom.kernel.memory.tiers.moving import Mover
from thaloom.kernel.memory.tiers.types import Held, Tier, whole_units

READ_WAIT_S = 60.0
"""What a disk may take for one object, unless the reader says otherwise: the largest of a training state is there by
then."""


class TieredStore:
    """Thread-safe. `disk` is a folder of its own, which no other process uses; what a dead one left there is removed.

    `emit` may be called by any thread, never with anything locked.
    """

    def __init__(
        self,
        *,
        host_bytes: int,
        disk: Path | None = None,
        disk_bytes: int = 0,
        emit: Emit = ignore,
        clock: Clock | None = None,
    ) -> None:
        """Raises StateUnusable if the folder cannot be had."""
        if min(host_bytes, disk_bytes) < 0:
            raise ValueError(f"tiers of {host_bytes} and {disk_bytes} bytes")
        folder = DiskFolder(disk) if disk is not None and disk_bytes else None
        self._books = Books(host_bytes=host_bytes, disk_bytes=0 if folder is None else disk_bytes)
        self._changed = threading.Condition()
        self._is_closed = False
        clock = clock or SystemClock()
        self._mover = None if folder is None else Mover(self._books, self._changed, folder, emit, clock)

    @property
    def short(self) -> str | None:
        """Why its disk takes nothing more at the moment (events.DiskTierShort); None: it does, or there is none."""
        mover = self._mover
        return None if mover is None else mover.short

    def put(
        self,
        key: bytes,
        data: bytes | bytearray | memoryview,
        *,
        worth: float = 0.0,
        keep: bool = False,
        wait_s: float = 0.0,
    ) -> bool:
        """Copy `data` to host memory, in place of what this key had. What is worth least for its bytes is the first to
        go; what is to be kept goes down, but is never given up.

        False where there is no room for something of that worth: the key has nothing then. `wait_s`: so long the disk
        may take to make some. Raises ValueError once closed.
        """
        view = memoryview(data).cast("B")
        with self._changed:
            self._check_open()
            self._forget(key)
            one = self._books.new(key, len(view), worth, is_kept=keep)
            if one is None and wait_s > 0 and self._await_room(len(view), wait_s):
                self._forget(key)  # it may have been put meanwhile
                one = self._books.new(key, len(view), worth, is_kept=keep)
            self._stir()
            if one is None:
                return False
            try:
                one.room = new_room(len(view))
            except OSError:  # the system has none left, whatever our bound says
                return False
            fill_start(one.room, view)
            self._books.add(one)
            return True

    def where(self, key: bytes) -> Tier | None:
        """The fastest tier it is in."""
        with self._changed:
            one = self._books.objects.get(key)
            return None if one is None else "disk" if one.room is None else "host"

    def prefetch(self, keys: Sequence[bytes]) -> None:
        """Bring these to host memory, in this order and after those asked for before, as far as that costs no other
        object. Raises ValueError once closed."""
        with self._changed:
            self._check_open()
            self._books.want(keys)
            self._stir()

    def read(self, key: bytes, into: memoryview, *, wait_s: float = READ_WAIT_S) -> bool:
        """Fill `into`, which is as long as the object; waits for one that is on its way. False if it is gone, or was
        damaged, which is told, or if the disk did not give it within `wait_s`: what stands in `into` is of no use
        then, and in the last case may still change, so it is not to be used again. Raises ValueError once closed."""
        view = into.cast("B")
        until = time.monotonic() + wait_s  # of real waiting, whatever clock the retries go by
        with self._changed:
            self._check_open()
            while (one := self._books.objects.get(key)) is not None and one.moving == "up":
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    return False
            if one is None:
                return False
            if len(view) != one.num_bytes:
                raise ValueError(f"an object of {one.num_bytes} bytes cannot be read into {len(view)}")
            self._books.touch(one)
            if one.room is not None:
                fill_start(view, one.room[: one.num_bytes])
                return True
            self._books.wanted.pop(key, None)
            mover, copy = self._mover, one.copy
            assert mover is not None, "there is a disk"
            assert copy is not None, "what is not in host memory is on it"
            copy.num_readers += 1
        return mover.read(one, copy, view, until - time.monotonic())

    def drop(self, key: bytes) -> None:
        """Harmless where it is not."""
        with self._changed:
            self._forget(key)
            self._stir()

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is moved or removed and nothing is to be; False if that took longer."""
        with self._changed:
            return self._mover is None or self._changed.wait_for(self._settled(self._mover), timeout_s)

    @property
    def bounds(self) -> dict[Tier, int]:
        """Bytes of each tier, which are never exceeded."""
        return dict(self._books.bounds)

    def held(self) -> Held:
        with self._changed:
            used, counts = self._books.used, self._books.counts
            return Held(
                host_bytes=used["host"],
                host_objects=counts["host"],
                disk_bytes=used["disk"],
                disk_objects=counts["disk"],
            )

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        with self._changed:
            self._books.check()

    def close(self) -> None:
        """Give everything back; a disk that hangs keeps what it has until the process ends. Harmless when repeated."""
        with self._changed:
            self._is_closed = True
            for key in list(self._books.objects):
                self._forget(key)
            mover, self._mover = self._mover, None
        if mover is not None:
            mover.end()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("this store was closed")

    def _await_room(self, num_bytes: int, wait_s: float) -> bool:
        """Whether the disk had a chance to make so much free, and the store is still open."""
        taken = whole_units(num_bytes)
        if self._mover is None or taken > self._books.bounds["host"]:
            return False
        self._books.awaited_bytes = max(taken, self._books.awaited_bytes)
        is_settled = self._settled(self._mover)
        self._changed.wait_for(lambda: is_settled() or self._books.free_bytes("host") >= taken, wait_s)
        self._books.awaited_bytes = 0  # others who wait as well find what is free now, or are refused
        return not self._is_closed

    def _settled(self, mover: Mover) -> Callable[[], bool]:
        since = mover.stir()
        return lambda: mover.is_settled(since)

    def _forget(self, key: bytes) -> None:
        if (one := self._books.objects.get(key)) is not None:
            self._books.forget(one)

    def _stir(self) -> None:
        if self._mover is not None:
            self._mover.stir()
