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
from thaloom.kernel.memory.board import PAGE_BYTES, Board, Pool

RETURN_S = 10.0
"""How long memory that was asked back may take to come: longer than the longest step of a healthy worker."""
_LOOK_S = 0.005


class Lending:
    """One board, of one device. It outlives the daemon: workers go on lending while there is none."""

    def __init__(self, path: Path, device: DeviceId) -> None:
        """Raises DiskFull, OSError."""
        self.path = path
        self.device = device
        try:
            self._board = Board.create(path, 0)
        except StateUnusable:  # nobody can go on with it: who sits there keeps what it has, and that is measured
            path.unlink()
            self._board = Board.create(path, 0)
        self._free_bytes = 0
        self._seen = self._board.look()

    def settle(self, coming: Mapping[str, int], free_bytes: int) -> None:
        """The board holds what is promised to those who sit there, to those who will, and all that is free.

        coming: bytes promised to those who have not sat down yet. free_bytes: what nobody has booked, lent or not; less
        than none where others took what was promised.
        """
        self._free_bytes = free_bytes
        pool = self._look()
        seated = {share.owner: share.floor for share in pool.shares}
        promised = sum(seated.values())
        promised += sum(pages_for(num_bytes) for owner, num_bytes in coming.items() if owner not in seated)
        wanted = promised + max(0, free_bytes) // PAGE_BYTES
        if wanted != pool.goal:
            with contextlib.suppress(DeadlineExceeded, OutOfMemory):  # the next pass comes to the same
                self._board.resize(wanted)

    async def take_back(self, owner: str, num_bytes: int, coming: Mapping[str, int]) -> None:
        """So much was booked: it is lent no more. Returns when it is there. Raises OutOfMemory naming those who keep
        it."""
        self.settle(coming, self._free_bytes - num_bytes)
        for _ in range(int(RETURN_S / _LOOK_S)):
            if not (keepers := self.owing()):
                return
            await asyncio.sleep(_LOOK_S)
        if keepers := self.owing():
            shown = ", ".join(f"{keeper} {format_bytes(kept)}" for keeper, kept in keepers.items())
            raise OutOfMemory(f"{owner} waits for memory that is lent and does not come back: {shown}", holders=keepers)

    def owing(self) -> dict[str, int]:
        """Bytes that are to come back so that every promise can be kept, by owner."""
        pool = self._look()
        if pool.num_pages <= pool.goal:
            return {}
        return {owner: pages * PAGE_BYTES for owner, pages in pool.reclaims.items()}

    def lent_bytes(self) -> dict[str, int]:
        """What each holds beyond what is promised to it."""
        return {share.owner: max(0, share.held - share.floor) * PAGE_BYTES for share in self._look().shares}

    def sweep(self) -> None:
        """Somebody has ended: what it held is there again."""
        with contextlib.suppress(DeadlineExceeded):  # whoever sleeps at the board looks for the dead too
            self._board.sweep()

    def _look(self) -> Pool:
        """The present; while a worker that was stopped in its turn keeps everybody waiting, what was seen last."""
        with contextlib.suppress(DeadlineExceeded):
            self._seen = self._board.look()
        return self._seen

    def check(self) -> None:
        self._board.check()


def pages_for(num_bytes: int) -> int:
    """In whole pages, and one more: an estimate may be off by what ends a page."""
    return -(-num_bytes // PAGE_BYTES) + 1
