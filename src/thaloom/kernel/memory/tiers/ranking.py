"""Who leaves a tier so that others find room: what is worth least for the bytes it takes, and of these the oldest.

Pure: what is chosen follows from what is there, and who chose carries it out.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

Rank = tuple[float, int]
"""Worth for each byte, and the number of its last use. No two are the same."""


class Ranked(Protocol):
    @property
    def rank(self) -> Rank: ...

    @property
    def taken_bytes(self) -> int: ...

    @property
    def is_kept(self) -> bool: ...


T = TypeVar("T", bound=Ranked)


class Ranking(Generic[T]):
    """Those that may leave, the least first. `loses`: who leaves is lost, so what is kept stays."""

    def __init__(self, *, loses: bool) -> None:
        self._loses = loses
        self._ranks: list[Rank] = []
        self._ranked: dict[Rank, T] = {}

    def __contains__(self, one: T) -> bool:
        return self._ranked.get(one.rank) is one

    def __len__(self) -> int:
        return len(self._ranks)

    def add(self, one: T) -> None:
        """Its rank stays what it is until it is discarded."""
        bisect.insort(self._ranks, one.rank)
        self._ranked[one.rank] = one

    def discard(self, one: T) -> None:
        """Harmless where it is not."""
        if one in self:
            del self._ranks[bisect.bisect_left(self._ranks, one.rank)]
            del self._ranked[one.rank]

    def lowest(self) -> T | None:
        return self._ranked[self._ranks[0]] if self._ranks else None

    def below(self, rank: Rank) -> Iterator[T]:
        """Those who may leave for one of that rank, the least first."""
        for lower in self._ranks:
            if lower >= rank:
                return
            one = self._ranked[lower]
            if not (self._loses and one.is_kept):
                yield one

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        assert self._ranks == sorted(self._ranked), "the order is not that of ranks"
        assert all(one.rank == rank for rank, one in self._ranked.items()), "a rank changed while it was in the order"


def leaving(rankings: Sequence[Ranking[T]], num_bytes: int, rank: Rank) -> list[T] | None:
    """Those who leave so that `num_bytes` more are free for one of `rank`: of the first ranking as long as there are
    any, then of the next. None if all of them would not be enough. Whoever turns out not to be needed stays."""
    chosen: list[T] = []
    found = 0
    for ranking in rankings:
        for one in ranking.below(rank):
            if found >= num_bytes:
                break
            chosen.append(one)
            found += one.taken_bytes
    if found < num_bytes:
        return None
    for one in reversed(chosen[:-1]):
        if found - one.taken_bytes >= num_bytes:
            chosen.remove(one)
            found -= one.taken_bytes
    return chosen
