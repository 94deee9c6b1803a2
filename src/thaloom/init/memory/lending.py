"""Pages of the host's memory that workers lend each other: the daemon's part.

What is promised to a worker for keys and values is booked in the ledger. All that nobody has booked lies on the board
as well, for whoever has use for it meanwhile. Who books more (a worker, a job) makes the board smaller, and goes on
when what it took from there has come back: lent memory counts as free, and is never given away before it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from thaloom.base.errors import DeadlineExceeded, OutOfMemory, StateUnusable
from thaloom.base.ids import DeviceId
from thaloom.base.units import format_bytes
from thaloom.kernel.memory.board import PAGE_BYTES, Board

RETURN_S = 10.0
"""How long memory that was asked back may take to come: longer than the longest step of a healthy worker."""
_LOOK_S = 0.005
_TURN_S = 0.02
"""How long the daemon waits for its turn: turns take microseconds, and it has others to answer."""


class Lending:
    """One board, of one device. It outlives the daemon: workers go on lending while there is none."""

    def __init__(self, path: Path, device: DeviceId) -> None:
        """Raises DiskFull, OSError; DeadlineExceeded while a worker that was stopped in its turn keeps all others
        waiting."""
        self.path = path
        self.device = device
        try:
            self._board = Board.create(path, 0)
        except StateUnusable:  # nobody can go on with it: who sits there keeps what it has, and that is measured
            path.unlink()
            self._board = Board.create(path, 0)
        self._seen = self._board.look()
        self._board.be_patient(_TURN_S)
        self._free_bytes = 0

    def settle(self, coming: Mapping[str, int], free_bytes: int) -> bool:
        """The board holds what is promised to those who sit there, to those who will, and all that is free; whether
        that could be told there. If not, the next pass comes to the same.

        coming: bytes promised to those who have not sat down yet. free_bytes: what nobody has booked, lent or not; less
        than none where others took what was promised.
        """
        self._free_bytes = free_bytes
        if not self._looked():
            return False
        seated = {share.owner: share.floor for share in self._seen.shares}
        promised = sum(seated.values())
        promised += sum(pages_for(num_bytes) for owner, num_bytes in coming.items() if owner not in seated)
        wanted = promised + max(0, free_bytes) // PAGE_BYTES
        try:
            if wanted != self._seen.goal:
                self._board.resize(wanted)
        except (DeadlineExceeded, OutOfMemory, ValueError):  # somebody sat down just now, or is stopped in its turn
            return False
        return True

    def freed(self, num_bytes: int) -> None:
        """So much came back since `settle`, which had not counted it as free."""
        self._free_bytes += num_bytes

    async def take_back(self, owner: str, num_bytes: int, coming: Mapping[str, int]) -> None:
        """So much was booked: it is lent no more. Returns when it is there. Raises OutOfMemory naming those who keep
        it."""
        left = self._free_bytes - num_bytes
        for _ in range(int(RETURN_S / _LOOK_S)):
            if self.settle(coming, left) and self._looked() and not self.owing():
                return
            await asyncio.sleep(_LOOK_S)
        keepers = self.owing()
        shown = ", ".join(f"{keeper} {format_bytes(kept)}" for keeper, kept in keepers.items()) or "nobody can tell"
        raise OutOfMemory(f"{owner} waits for memory that is lent and does not come back: {shown}", holders=keepers)

    def owing(self) -> dict[str, int]:
        """Bytes that are to come back so that every promise can be kept, by owner."""
        pool = self._seen
        return {} if pool.num_pages <= pool.goal else {name: n * PAGE_BYTES for name, n in pool.reclaims.items()}

    def lent_bytes(self) -> dict[str, int]:
        """What each holds beyond what is promised to it, as of the last look."""
        return {share.owner: max(0, share.held - share.floor) * PAGE_BYTES for share in self._seen.shares}

    def look(self) -> None:
        """Heed what has changed at the board."""
        self._looked()

    def sweep(self) -> None:
        """Somebody has ended: what it held is there again."""
        with contextlib.suppress(DeadlineExceeded, ValueError):  # whoever sleeps at the board looks for the dead too
            self._board.sweep()
        self._looked()

    def _looked(self) -> bool:
        """See the present; False where a worker that was stopped in its turn keeps everybody waiting, or has written
        what is no board any more: then what was seen last stands."""
        try:
            self._seen = self._board.look()
        except (DeadlineExceeded, ValueError):
            return False
        return True

    def check(self) -> None:
        self._board.check()


def pages_for(num_bytes: int) -> int:
    """In whole pages, and one more: an estimate may be off by what ends a page."""
    return -(-num_bytes // PAGE_BYTES) + 1
