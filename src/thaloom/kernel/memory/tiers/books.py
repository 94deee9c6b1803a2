"""The books of a store of tiers: what lies where, what it takes, and what is to be moved next.

One thread at a time, and nothing here reads or writes a file. Bytes are counted from before they are taken until they
are gone: what is on its way counts where it comes from and where it goes to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from thaloom.kernel.memory.tiers.ranking import Rank, Ranking, leaving
from thaloom.kernel.memory.tiers.types import BLANK_SHARE, DiskCopy, Move, Stored, Tier, whole_units


class Books:
    def __init__(self, *, host_bytes: int, disk_bytes: int) -> None:
        self.bounds: dict[Tier, int] = {"host": host_bytes, "disk": disk_bytes}
        self.used: dict[Tier, int] = {"host": 0, "disk": 0}
        self.objects: dict[bytes, Stored] = {}
        self.counts: dict[Tier, int] = {"host": 0, "disk": 0}
        """Of these, in each tier."""
        self.wanted: OrderedDict[bytes, None] = OrderedDict()
        self.moving: Stored | None = None
        self.awaited_bytes = 0
        """Somebody waits for so many free ones in host memory."""
        self._num_uses = 0
        self._loose: Ranking[Stored] = Ranking(loses=False)
        """In host memory and on disk."""
        self._sole: Ranking[Stored] = Ranking(loses=True)
        """In host memory alone."""
        self._lower: Ranking[Stored] = Ranking(loses=True)
        """All on disk."""
        self._gone: list[DiskCopy] = []
        """To be removed once nobody reads them."""

    def free_bytes(self, tier: Tier) -> int:
        return self.bounds[tier] - self.used[tier]

    def new(self, key: bytes, num_bytes: int, worth: float, *, is_kept: bool) -> Stored | None:
        """One that there is room for in host memory: what is worth less has left it. None where there is not."""
        one = Stored(key, num_bytes, worth, self._next_rank(num_bytes, worth), is_kept)
        return one if self._make_room(one, [self._loose, self._sole]) else None

    def add(self, one: Stored) -> None:
        """It has its room now."""
        self.objects[one.key] = one
        self.used["host"] += one.taken_bytes
        self.counts["host"] += 1
        self._stand(one)

    def touch(self, one: Stored) -> None:
        """It was used."""
        self._unstand(one)
        one.rank = self._next_rank(one.num_bytes, one.worth)
        self._stand(one)

    def want(self, keys: Sequence[bytes]) -> None:
        """These will be used, the first one first, and are to be in host memory by then."""
        found = [self.objects[key] for key in keys if key in self.objects]
        for one in reversed(found):
            self.touch(one)
        for one in found:
            if one.room is None and one.moving is None:
                self.wanted[one.key] = None

    def forget(self, one: Stored) -> None:
        """Nobody finds it any more. What is on its way is let go when it has arrived."""
        self.counts["host"] -= one.room is not None
        self.counts["disk"] -= one.copy is not None
        del self.objects[one.key]
        self.wanted.pop(one.key, None)
        self._unstand(one)
        if one.moving is None:
            self._leave_host(one)
            self._leave_disk(one)

    def lost(self, one: Stored, copy: DiskCopy) -> None:
        """That copy of it is of no use."""
        if self.objects.get(one.key) is one and one.copy is copy and one.moving is None:
            if one.room is None:
                self.forget(one)
            else:
                self._unstand(one)
                self._leave_disk(one)
                self._stand(one)

    def next_move(self, *, may_write: bool) -> Move | None:
        """To be done at once, and then `removed` or `arrived`. First what gives room, then what is waited for."""
        if gone := [copy for copy in self._gone if copy.num_readers == 0]:
            return Move(gone=gone)
        while self.wanted:
            one = self.objects[next(iter(self.wanted))]
            if one.room is not None or self._make_room(one, [self._loose]):
                self.wanted.popitem(last=False)
                if one.room is None:
                    return self._begin(one, "up")
                continue
            lowest = self._sole.lowest()
            if may_write and lowest is not None and lowest.rank < one.rank and (move := self._move_down(lowest)):
                return move
            self.wanted.popitem(last=False)  # there is no room for it: it is read from the disk, then
        free = max(self.bounds["host"] // BLANK_SHARE, self.awaited_bytes)
        while self.free_bytes("host") < free and self.bounds["disk"]:
            loose, sole = self._loose.lowest(), self._sole.lowest()
            if loose is not None and (sole is None or loose.rank < sole.rank):
                self._unstand(loose)
                self._leave_host(loose)
                self._stand(loose)
            else:
                return self._move_down(sole) if sole is not None and may_write else None
        return None

    def _move_down(self, one: Stored) -> Move | None:
        """None where what lies there is worth more, or is still being read."""
        coming = sum(copy.taken_bytes for copy in self._gone)
        missing = one.taken_bytes - self.free_bytes("disk")
        if missing > coming:
            chosen = leaving([self._lower], missing - coming, one.rank)
            for other in chosen or ():
                self._unstand(other)
                self._leave_disk(other)
                if other.room is None:
                    self.forget(other)
                else:
                    self._stand(other)
            gone = [copy for copy in self._gone if copy.num_readers == 0]
            return Move(gone=gone) if chosen and gone else None
        return None if missing > 0 else self._begin(one, "down")

    def _begin(self, one: Stored, way: Literal["up", "down"]) -> Move:
        self._unstand(one)
        one.moving, self.moving = way, one
        self.used["host" if way == "up" else "disk"] += one.taken_bytes
        return Move(one=one)

    def removed(self, copies: list[DiskCopy]) -> None:
        for copy in copies:
            self._gone.remove(copy)
            self.used["disk"] -= copy.taken_bytes

    def arrived(self, one: Stored, *, room: memoryview | None = None, copy: DiskCopy | None = None) -> None:
        """What was moving is there, or has stayed where it was."""
        way, one.moving, self.moving = one.moving, None, None
        is_known = self.objects.get(one.key) is one
        if way == "up":
            one.room = room
            if room is None:
                self.used["host"] -= one.taken_bytes
            self.counts["host"] += is_known and room is not None
        else:
            one.copy = copy
            if copy is None:
                self.used["disk"] -= one.taken_bytes
            self.counts["disk"] += is_known and copy is not None
        if is_known:
            self._stand(one)
        else:
            self._leave_host(one)
            self._leave_disk(one)

    def _next_rank(self, num_bytes: int, worth: float) -> Rank:
        self._num_uses += 1
        return (worth / whole_units(num_bytes), self._num_uses)

    def _make_room(self, one: Stored, of: list[Ranking[Stored]]) -> bool:
        missing = one.taken_bytes - self.free_bytes("host")
        if missing <= 0:
            return True
        chosen = leaving(of, missing, one.rank)
        for other in chosen or ():
            if other.copy is None:
                self.forget(other)
            else:
                self._unstand(other)
                self._leave_host(other)
                self._stand(other)
        return chosen is not None

    def _stand(self, one: Stored) -> None:
        """It may leave where it is."""
        if one.moving is None:
            if one.room is not None:
                (self._sole if one.copy is None else self._loose).add(one)
            if one.copy is not None:
                self._lower.add(one)

    def _unstand(self, one: Stored) -> None:
        for ranking in (self._loose, self._sole, self._lower):
            ranking.discard(one)

    def _leave_host(self, one: Stored) -> None:
        if one.room is not None:
            one.room = None
            self.used["host"] -= one.taken_bytes
            self.counts["host"] -= self.objects.get(one.key) is one

    def _leave_disk(self, one: Stored) -> None:
        if one.copy is not None:
            self._gone.append(one.copy)
            one.copy = None
            self.counts["disk"] -= self.objects.get(one.key) is one

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        for ranking in (self._loose, self._sole, self._lower):
            ranking.check()
        known = list(self.objects.values())
        if self.moving is not None and self.moving not in known:
            known.append(self.moving)
        host = sum(one.taken_bytes for one in known if one.room is not None or one.moving == "up")
        disk = sum(one.taken_bytes for one in known if one.copy is not None or one.moving == "down")
        assert self.used["host"] == host, "host memory is not what objects take"
        assert self.used["disk"] == disk + sum(copy.taken_bytes for copy in self._gone), (
            "the disk is not what files take"
        )
        assert self.counts == {
            "host": sum(one.room is not None for one in self.objects.values()),
            "disk": sum(one.copy is not None for one in self.objects.values()),
        }, "objects were miscounted"
        for tier, used in self.used.items():
            assert 0 <= used <= self.bounds[tier], f"{tier} is beyond its bound"
        for one in self.objects.values():
            stays = one.moving is None
            assert one.room is not None or one.copy is not None, "an object is nowhere"
            assert (one in self._loose) == (stays and one.room is not None and one.copy is not None), "both, or not"
            assert (one in self._sole) == (stays and one.room is not None and one.copy is None), "in memory, or not"
            assert (one in self._lower) == (stays and one.copy is not None), "on disk, or not"
        assert all(key in self.objects for key in self.wanted), "what is gone is waited for"
