"""Whoever sits at the disk of a store of tiers: one thread that carries out what the books say is to be moved."""

from __future__ import annotations

import threading

from thaloom.base.clock import Clock
from thaloom.base.errors import CorruptObject, DiskFull
from thaloom.base.events import Emit
from thaloom.kernel.memory.tiers.books import Books
from thaloom.kernel.memory.tiers.disk import DiskFolder, new_room
from thaloom.kernel.memory.tiers.events import DiskTierShort, TierObjectLost
from thaloom.kernel.memory.tiers.types import DiskCopy, Stored

RETRY_S = 10.0
"""After the disk took nothing, before it is tried again."""
END_WAIT_S = 5.0
"""For the disk to end what it was doing, when the store is closed."""


class Mover:
    """`changed` guards the books and all that is here; it is notified of whatever arrives."""

    def __init__(
        self, books: Books, changed: threading.Condition, folder: DiskFolder, emit: Emit, clock: Clock
    ) -> None:
        self._books, self._changed, self._folder = books, changed, folder
        self._emit, self._clock = emit, clock
        self._is_ended = False
        self._num_stirred = self._num_settled = 0
        self.short: str | None = None
        """Why the disk took nothing the last time it was asked, if it did not."""
        self._write_again_at = 0.0
        self._hanging: set[threading.Event] = set()
        """Set when a read that nobody waits for any more has come back."""
        self._thread = threading.Thread(target=self._serve, name="tiers", daemon=True)
        self._thread.start()

    def stir(self) -> int:
        """Look at the books again, with `changed` held; a number for `is_settled`."""
        self._num_stirred += 1
        self._changed.notify_all()
        return self._num_stirred

    def is_settled(self, since: int) -> bool:
        """Whether nothing was left to do after that."""
        return self._is_ended or self._num_settled >= since

    def read(self, one: Stored, copy: DiskCopy, into: memoryview, wait_s: float) -> bool:
        """By a thread of its own, which counts among the copy's readers: a disk that hangs does so for that thread.
        False if it took longer than `wait_s`, or, and that is told, if it was damaged. While somebody hangs there,
        nobody else goes after him."""
        ended = threading.Event()
        read = False

        def serve() -> None:
            nonlocal read
            lost: Exception | None = None
            try:
                self._folder.read(copy.stored, into)
                read = True
            except (CorruptObject, OSError) as error:
                lost = error
            finally:
                self._read_done(one, copy, lost)
                ended.set()

        with self._changed:
            self._hanging = {each for each in self._hanging if not each.is_set()}
            if self._hanging:
                copy.num_readers -= 1
                self.stir()
                return False
        threading.Thread(target=serve, name="tiers: read", daemon=True).start()
        if not ended.wait(max(0.0, wait_s)):
            with self._changed:
                self._hanging.add(ended)
            return False
        return read

    def end(self) -> None:
        """Without `changed` held. Everything is off the books by now. Where the disk hangs, the folder stays taken, and
        the process goes without it: whoever takes it next removes what is there."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        self._thread.join(END_WAIT_S)

    def _serve(self) -> None:
        while True:
            with self._changed:
                if self._is_ended:
                    break
                wait_s = self._write_again_at - self._clock.monotonic()
                move = self._books.next_move(may_write=wait_s <= 0)
                if move is None:
                    if wait_s <= 0 < self._write_again_at:  # it was refused, and by now nothing is to be written
                        self.short, self._write_again_at = None, 0.0
                    self._num_settled = self._num_stirred
                    self._changed.notify_all()
                    self._changed.wait(wait_s if wait_s > 0 else None)
                    continue
                copy = move.one.copy if move.one is not None and move.one.moving == "up" else None
                if copy is not None:
                    copy.num_readers += 1
            if move.one is None:
                self._remove(move.gone)
            elif copy is None:
                self._move_down(move.one)
            else:
                self._move_up(move.one, copy)
        self._folder.close()

    def _remove(self, copies: list[DiskCopy]) -> None:
        stays: OSError | None = None
        for copy in copies:
            try:
                self._folder.remove(copy.stored)
            except OSError as error:
                stays = error
                copy.num_readers += 1  # for good: what cannot be removed counts as long as we are there
        with self._changed:
            self._books.removed([copy for copy in copies if copy.num_readers == 0])
            self._changed.notify_all()
        if stays is not None:
            self._tell_short(stays)

    def _move_down(self, one: Stored) -> None:
        copy, short = None, None
        try:
            assert one.room is not None, "what moves down lies in host memory"
            copy = DiskCopy(self._folder.write(one.room, one.num_bytes), one.taken_bytes)
        except (DiskFull, OSError) as error:
            short = error
        with self._changed:
            self._books.arrived(one, copy=copy)
            self._changed.notify_all()
            if short is not None:
                self._write_again_at = self._clock.monotonic() + RETRY_S
        if short is not None:
            self._tell_short(short)
        else:
            self.short = None

    def _move_up(self, one: Stored, copy: DiskCopy) -> None:
        room: memoryview | None = None
        lost: Exception | None = None
        try:
            room = new_room(one.num_bytes)
        except OSError:
            pass  # the system has none left: it stays where it is
        try:
            if room is not None:
                self._folder.read(copy.stored, room[: one.num_bytes])
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
            self.stir()
            is_told = lost is not None and not self._is_ended
        if is_told:
            self._emit(TierObjectLost(file=str(copy.stored.path), reason=str(lost), num_bytes=one.num_bytes))

    def _tell_short(self, error: Exception) -> None:
        was_short, self.short = self.short is not None, str(error)
        if not was_short:
            self._emit(
                DiskTierShort(folder=str(self._folder.path), reason=self.short, held_bytes=self._books.used["disk"])
            )
