"""Objects of bytes by key, in host memory and on disk: the slower tier takes what the faster one has no room for.

Nobody who puts something waits for the disk: one thread moves what is worth least down ahead of need, and brings up
what was asked for. An object that leaves the lowest tier is lost, and so is all of it with the process: this is for
what can be made again, or what somebody who knows the bounds put here with a worth of `math.inf`, which is never given
up. Bytes are counted in units of types.UNIT_BYTES.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import CorruptObject, DiskFull
from thaloom.base.events import Emit, ignore
from thaloom.kernel.memory.tiers.books import Books
from thaloom.kernel.memory.tiers.disk import DiskFolder, new_room
from thaloom.kernel.memory.tiers.events import DiskTierShort, TierObjectLost
from thaloom.kernel.memory.tiers.types import DiskCopy, Stored, Tier

RETRY_S = 10.0
"""After the disk took nothing, before it is tried again."""
_LOOK_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a store holds. An object that lies in both tiers counts in both."""

    host_bytes: int
    host_objects: int
    disk_bytes: int
    disk_objects: int


class TieredStore:
    """Thread-safe. `disk` is a folder of its own, which no other process uses; what a dead one left there is removed.

    `emit` may be called by any thread, never with anything locked.
    """

    def __init__(self, *, host_bytes: int, disk: Path | None = None, disk_bytes: int = 0, emit: Emit = ignore) -> None:
        """Raises StateUnusable if the folder cannot be had."""
        if min(host_bytes, disk_bytes) < 0:
            raise ValueError(f"tiers of {host_bytes} and {disk_bytes} bytes")
        self._folder = DiskFolder(disk) if disk is not None and disk_bytes else None
        self._books = Books(host_bytes=host_bytes, disk_bytes=disk_bytes if self._folder else 0)
        self._emit = emit
        self._changed = threading.Condition()
        self._is_closed = False
        self._num_stirred = self._num_settled = 0
        self._is_short = False
        self._write_again_at = 0.0
        self._thread = None
        if self._folder is not None:
            self._thread = threading.Thread(target=self._serve, args=(self._folder,), name="tiers", daemon=True)
            self._thread.start()

    def put(self, key: bytes, data: bytes | bytearray | memoryview, *, worth: float = 0.0) -> bool:
        """Copy `data` to host memory, in place of what this key had. False where there is no room for something of that
        worth: the key has nothing then. Raises ValueError once closed."""
        view = memoryview(data).cast("B")
        with self._changed:
            self._check_open()
            self._forget(key)
            self._stir()
            one = self._books.new(key, len(view), worth)
            if one is None:
                return False
            try:
                one.room = new_room(len(view))
            except OSError:  # the system has none left, whatever our bound says
                return False
            one.room[: len(view)] = view
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

    def read(self, key: bytes, into: memoryview) -> bool:
        """Fill `into`, which is as long as the object; waits for one that is on its way. False if it is gone, or was
        damaged, which is told; what stands in `into` is of no use then. Raises ValueError once closed."""
        view = into.cast("B")
        with self._changed:
            self._check_open()
            while (one := self._books.objects.get(key)) is not None and one.moving == "up":
                self._changed.wait(_LOOK_AGAIN_S)
            if one is None:
                return False
            if len(view) != one.num_bytes:
                raise ValueError(f"an object of {one.num_bytes} bytes cannot be read into {len(view)}")
            self._books.touch(one)
            if one.room is not None:
                view[:] = one.room[: one.num_bytes]
                return True
            self._books.wanted.pop(key, None)
            folder, copy = self._folder, one.copy
            assert folder is not None, "there is a disk"
            assert copy is not None, "what is not in host memory is on it"
            copy.num_readers += 1
        lost: Exception | None = None
        try:
            folder.read(copy.stored, view)
        except (CorruptObject, OSError) as error:
            lost = error
        finally:
            self._read_done(one, copy, lost)
        return lost is None

    def drop(self, key: bytes) -> None:
        """Harmless where it is not."""
        with self._changed:
            self._forget(key)
            self._stir()

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is moved or removed and nothing is to be; False if that took longer."""
        with self._changed:
            self._stir()
            return self._changed.wait_for(
                lambda: self._thread is None or self._is_closed or self._num_settled == self._num_stirred, timeout_s
            )

    def held(self) -> Held:
        with self._changed:
            objects = self._books.objects.values()
            return Held(
                host_bytes=self._books.used["host"],
                host_objects=sum(one.room is not None for one in objects),
                disk_bytes=self._books.used["disk"],
                disk_objects=sum(one.copy is not None for one in objects),
            )

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        with self._changed:
            self._books.check()

    def close(self) -> None:
        """Give everything back. Harmless when repeated."""
        with self._changed:
            self._is_closed = True
            for key in list(self._books.objects):
                self._forget(key)
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("this store was closed")

    def _forget(self, key: bytes) -> None:
        if (one := self._books.objects.get(key)) is not None:
            self._books.forget(one)

    def _stir(self) -> None:
        self._num_stirred += 1
        self._changed.notify_all()

    def _serve(self, folder: DiskFolder) -> None:
        while True:
            with self._changed:
                if self._is_closed:
                    return
                move = self._books.next_move(may_write=time.monotonic() >= self._write_again_at)
                if move is None:
                    self._num_settled = self._num_stirred
                    self._changed.notify_all()
                    self._changed.wait()
                    continue
                copy = move.one.copy if move.one is not None and move.one.moving == "up" else None
                if copy is not None:
                    copy.num_readers += 1
            if move.one is None:
                self._remove(folder, move.gone)
            elif copy is None:
                self._move_down(folder, move.one)
            else:
                self._move_up(folder, move.one, copy)

    def _remove(self, folder: DiskFolder, copies: list[DiskCopy]) -> None:
        stays: OSError | None = None
        for copy in copies:
            try:
                folder.remove(copy.stored)
            except OSError as error:
                stays = error
                copy.num_readers += 1  # for good: what cannot be removed counts as long as we are there
        with self._changed:
            self._books.removed([copy for copy in copies if copy.num_readers == 0])
        if stays is not None:
            self._tell_short(folder, stays)

    def _move_down(self, folder: DiskFolder, one: Stored) -> None:
        copy, short = None, None
        try:
            assert one.room is not None, "what moves down lies in host memory"
            copy = DiskCopy(folder.write(one.room, one.num_bytes), one.taken_bytes)
        except (DiskFull, OSError) as error:
            short = error
        with self._changed:
            self._books.arrived(one, copy=copy)
            if short is not None:
                self._write_again_at = time.monotonic() + RETRY_S
        if short is not None:
            self._tell_short(folder, short)
        else:
            self._is_short = False

    def _move_up(self, folder: DiskFolder, one: Stored, copy: DiskCopy) -> None:
        room, lost = None, None
        try:
            room = new_room(one.num_bytes)
            folder.read(copy.stored, room[: one.num_bytes])
        except (CorruptObject, OSError) as error:
            lost, room = error, None
        with self._changed:
            self._books.arrived(one, room=room)
        self._read_done(one, copy, lost)

    def _read_done(self, one: Stored, copy: DiskCopy, lost: Exception | None) -> None:
        with self._changed:
            copy.num_readers -= 1
            if lost is not None:
                self._books.lost(one, copy)
            self._stir()
            is_told = lost is not None and not self._is_closed
        if is_told:
            self._emit(TierObjectLost(file=str(copy.stored.path), reason=str(lost), num_bytes=one.num_bytes))

    def _tell_short(self, folder: DiskFolder, error: Exception) -> None:
        if not self._is_short:
            self._is_short = True
            held = self.held().disk_bytes
            self._emit(DiskTierShort(folder=str(folder.path), reason=str(error), held_bytes=held))
