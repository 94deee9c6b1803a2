"""Which cached block is given away when none is blank: the one whose stay is least likely to pay.

Least recently used is the plain answer, and a poor one where most prompts never come back: one that does finds its
blocks only if fewer blocks of strangers than there is room for came between. `LearnedReuse` watches what comes back and
after how long, apart for blocks used once, twice and more often, and holds whatever promises most returns for the room
and the time it takes: the Gittins index of a job that may be given up at any moment. Source: Gittins, Bandit processes
and dynamic allocation indices, J. R. Statist. Soc. B 41 (1979); of caches: Beckmann, Chen, Cidon, LHD: improving cache
hit rate by maximizing hit density, NSDI 2018.

Time is counted in blocks that were asked for, not in seconds: a quiet hour makes nothing older, and what is decided
follows from the requests alone. One thread at a time; no randomness.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Eviction(Protocol):
    """The blocks that are cached, and which of them goes next. Each has a key that names its content."""

    def __len__(self) -> int: ...

    def __contains__(self, block: int) -> bool: ...

    def __iter__(self) -> Iterator[int]: ...

    def keep(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:
        """Nobody holds them any more: they are cached. In the order of their prefix."""

    def use(self, block: int, key: Hashable) -> None:
        """Somebody's prompt has it. If it was cached, it is not any more: it is held."""

    def compute(self, key: Hashable) -> None:
        """Somebody had to compute what has this key, for it was not there."""

    def evict(self) -> int:
        """The block that goes next; it is not cached any more. There is one."""

    def rename(self, block: int, name: int) -> None:
        """What a cached block holds stands in block `name` now, which was not cached."""


class LeastRecentlyUsed:
    """Of one prefix the end goes before its beginning."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    def __iter__(self) -> Iterator[int]:
        return iter(self._blocks)

    def keep(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:  # noqa: ARG002
        for block in reversed(blocks):
            self._blocks[block] = None

    def use(self, block: int, key: Hashable) -> None:  # noqa: ARG002
        self._blocks.pop(block, None)

    def compute(self, key: Hashable) -> None:
        pass

    def evict(self) -> int:
        return self._blocks.popitem(last=False)[0]

    def rename(self, block: int, name: int) -> None:
        self._blocks = OrderedDict((name if each == block else each, None) for each in self._blocks)


_KINDS = 3
"""Blocks used once, twice, three times and more: a prompt of its own, a conversation, what many begin with."""
_FINEST = 16.0
"""Ages below so many blocks are not told apart. Nothing here depends on how much room there is, for that changes."""
_PER_DOUBLING = 4
_BUCKETS = 2 + 20 * _PER_DOUBLING
"""Of ages, each a quarter of a doubling wide; the last is for all beyond some sixteen million blocks."""
_GHOSTS, _FEWEST_GHOSTS, _MOST_GHOSTS = 4, 16_384, 131_072
"""Times the room, but not fewer and not more: how many blocks are remembered after they were given away, to see whether
and when they come back."""
_PRIOR = 50.0
"""Blocks of which a kind is supposed to have seen what all kinds together have, before it has seen any."""
_FORGET = 0.999
"""Of what was seen, this much still counts each time as many blocks as half the room were asked for."""
_AT_ONCE = 64
"""The worst 64th is chosen at once, in whole runs: to look at everybody for each block would cost too much."""


@dataclass(slots=True)
class _Run:
    """Blocks of one kind that were let go together, those nearer to the beginning of their prefix first."""

    kind: int
    at: int
    blocks: list[int]
    """Some may be in another run by now."""
    num_alive: int


@dataclass(slots=True)
class _Past:
    uses: int
    at: int | None
    """When it was let go; None while it is held."""


class LearnedReuse:
    """Holds whatever promises most returns for the room it takes, by what has come back so far.

    The room is what is held and cached, whatever that is at the moment. Some 300 bytes for each key that is remembered.
    """

    def __init__(self) -> None:
        self._now = 0
        self._runs: dict[int, _Run] = {}
        self._run_of: dict[int, int] = {}
        self._key_of: dict[int, Hashable] = {}
        self._num_runs = 0
        self._doomed: list[int] = []
        """Numbers of runs, the next to go last."""
        self._present: dict[Hashable, _Past] = {}
        """Of blocks that are held or cached."""
        self._ghosts: OrderedDict[Hashable, _Past] = OrderedDict()
        """Of blocks that were given away, the longest gone first."""
        self._returns = np.zeros((_KINDS, _BUCKETS))
        self._let_go = np.zeros(_KINDS)
        steps = _FINEST * 2.0 ** (np.arange(_BUCKETS) / _PER_DOUBLING)
        self._begins = [0.0, *steps[:-1].tolist()]
        """Of each bucket of ages."""
        self._widths = np.diff([0.0, *steps])
        self._worth = self._indices()
        self._learned_at = 0

    def __len__(self) -> int:
        return len(self._run_of)

    def __contains__(self, block: int) -> bool:
        return block in self._run_of

    def __iter__(self) -> Iterator[int]:
        return iter(self._run_of)

    def keep(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:
        made: dict[int, int] = {}
        for block, key in zip(blocks, keys, strict=True):
            past = self._present.setdefault(key, _Past(1, None))
            past.at = self._now
            kind = min(past.uses, _KINDS) - 1
            self._let_go[kind] += 1
            if kind not in made:
                made[kind] = self._num_runs
                self._runs[self._num_runs] = _Run(kind, self._now, [], 0)
                self._num_runs += 1
            run = self._runs[made[kind]]
            run.blocks.append(block)
            run.num_alive += 1
            self._run_of[block] = made[kind]
            self._key_of[block] = key

    def use(self, block: int, key: Hashable) -> None:
        self._came(key)
        self._leave(block)

    def compute(self, key: Hashable) -> None:
        self._came(key)

    def evict(self) -> int:
        while True:
            if not self._doomed:
                self._doomed = self._worst()
            number = self._doomed[-1]
            run = self._runs.get(number)
            while run is not None and run.blocks:
                block = run.blocks.pop()
                if self._run_of.get(block) == number:
                    key = self._key_of[block]
                    self._leave(block)
                    self._ghosts[key] = self._present.pop(key)
                    most = min(max(_GHOSTS * len(self._present), _FEWEST_GHOSTS), _MOST_GHOSTS)
                    while len(self._ghosts) > most:
                        self._ghosts.popitem(last=False)
                    return block
            self._doomed.pop()

    def rename(self, block: int, name: int) -> None:
        number = self._run_of[name] = self._run_of.pop(block)
        self._key_of[name] = self._key_of.pop(block)
        blocks = self._runs[number].blocks
        blocks[blocks.index(block)] = name

    def _leave(self, block: int) -> None:
        number = self._run_of.pop(block, None)
        if number is None:
            return
        del self._key_of[block]
        run = self._runs[number]
        run.num_alive -= 1
        if not run.num_alive:
            del self._runs[number]
        elif len(run.blocks) > 2 * run.num_alive + 16:  # of a prefix that many begin with, each run keeps the end alone
            run.blocks = [each for each in run.blocks if self._run_of.get(each) == number]

    def _came(self, key: Hashable) -> None:
        """Whatever has this key is asked for."""
        self._now += 1
        past = self._present.get(key)
        if past is None:
            past = self._present[key] = self._ghosts.pop(key, _Past(0, None))
        if past.at is not None:
            bucket = bisect.bisect_right(self._begins, self._now - past.at) - 1
            self._returns[min(past.uses, _KINDS) - 1, bucket] += 1
        past.uses += 1
        past.at = None

    def _worst(self) -> list[int]:
        """Runs to give away, the worst last."""
        if (num_halves := (self._now - self._learned_at) // max(1, len(self._present) // 2)) > 0:
            self._returns *= _FORGET**num_halves
            self._let_go *= _FORGET**num_halves
            self._worth = self._indices()
            self._learned_at = self._now
        numbers, runs = list(self._runs), list(self._runs.values())
        at = np.array([run.at for run in runs])
        worth = self._worth[[run.kind for run in runs], np.searchsorted(self._begins, self._now - at, "right") - 1]
        order = np.lexsort((at, worth))
        sizes = np.cumsum([runs[i].num_alive for i in order])
        enough = int(np.searchsorted(sizes, len(self) / _AT_ONCE)) + 1
        return [numbers[i] for i in order[:enough][::-1]]

    def _indices(self) -> NDArray[np.float64]:
        """(kinds, buckets) returns to be had for a block of the kind and age, over what it is kept for them: the most
        that any moment of giving it up promises."""
        every, all_returns = self._returns.sum(axis=0), self._returns.sum()
        guess = np.full(_BUCKETS, 1e-3)  # the older, the less likely
        guess[0] *= 2 * self._widths[0] / self._widths[1]  # which is much wider than the others
        when = (every + guess) / (all_returns + guess.sum())
        whether = (all_returns + 1) / (self._let_go.sum() + 3)
        chances = (self._returns + _PRIOR * whether * when) / (self._let_go[:, None] + _PRIOR)
        gone = np.concatenate([np.zeros((_KINDS, 1)), np.cumsum(chances, axis=1)], axis=1)
        stays = np.maximum(1.0 - gone[:, :-1], 1e-6) * self._widths
        spent = np.concatenate([np.zeros((_KINDS, 1)), np.cumsum(stays, axis=1)], axis=1)
        gained = gone[:, None, 1:] - gone[:, :-1, None]  # by giving up after each bucket, from each one on
        cost = spent[:, None, 1:] - spent[:, :-1, None]
        later = np.triu(np.ones((_BUCKETS, _BUCKETS), dtype=bool))
        worth: NDArray[np.float64] = np.where(later, gained / np.where(later, cost, 1.0), 0.0).max(axis=2)
        return worth
