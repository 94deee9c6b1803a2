"""The block pool: numbered blocks of 16 tokens' keys and values, counted references, and reuse of equal prefixes.

The pool counts; it holds no bytes. Of its numbers, those below its *room* have memory behind them. The room grows and
shrinks while the pool is used; a block that stands where the room ends moves to a lower number, so that what is given
back is always the end of the memory, in one piece, whatever was let go. A block within the room is in one of three
states:

- *held*: one or more sequences refer to it;
- *cached*: nobody refers to it, but it is full, computed and published under its key, so a prompt that begins the
  same way can have it back; it counts as free and is given away when blank ones run out, whichever promises least
  to be asked for again (kernel.memory.eviction), and what is pinned when nothing else is left (kernel.memory.pins);
- *blank*: nobody refers to it and nothing worth keeping is in it. The lowest number is given first.

A key names a block's tokens *and everything before them* (a hash chain), so equal keys mean equal keys and values.
One thread at a time; no clock but what `pass_to` is told, no randomness.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, NewType

import numpy as np

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.eviction import Eviction, LearnedReuse
from thaloom.kernel.memory.pins import PassingOver, Pins

BlockKey = NewType("BlockKey", bytes)


def root_key(salt: bytes) -> BlockKey:
    """The parent of every first block. `salt` names whatever else the stored numbers depend on (model, dtype)."""
    return BlockKey(hashlib.blake2b(salt, digest_size=32).digest())


def block_keys(parent: BlockKey, tokens: Sequence[int]) -> list[BlockKey]:
    """Keys of the full blocks that follow `parent`; a last, partly filled block has none.

    256 bits over the parent's key and 16 token ids: two different histories with one key are not to be met with.
    """
    keys = []
    data = np.asarray(tokens, dtype="<i4").tobytes()
    size = BLOCK_TOKENS * 4
    for start in range(0, len(data) - size + 1, size):
        parent = BlockKey(hashlib.blake2b(parent + data[start : start + size], digest_size=32).digest())
        keys.append(parent)
    return keys


def blocks_for(num_tokens: int) -> int:
    """Blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_TOKENS)


class Move(NamedTuple):
    """What block `source` holds is to be copied to `target`, which has its number's place from now on."""

    source: int
    target: int


class BlockPool:
    """Who holds which block. Every method either does all it was asked or changes nothing."""

    def __init__(
        self,
        num_blocks: int,
        *,
        room: int | None = None,
        prefix_reuse: bool = True,
        eviction: Eviction | None = None,
        leaving: Callable[[int, BlockKey], None] | None = None,
        most_pinned: int = 0,
    ) -> None:
        """`num_blocks`: the most there will ever be; `room`: those that have memory now, all if not said; `eviction`:
        what is given away of what is cached, LearnedReuse if none is named; `leaving` is told of each block that is,
        while it still holds what its key says."""
        if num_blocks < 1:
            raise ValueError(f"a pool needs at least one block, not {num_blocks}")
        self._num_blocks = num_blocks
        self._prefix_reuse = prefix_reuse
        self._references: list[int] = []
        self._key_of: list[BlockKey | None] = []
        self._by_key: dict[BlockKey, int] = {}
        self._blank: list[int] = []  # a heap
        self._pins = Pins(most_pinned)
        self._cached = PassingOver(LearnedReuse() if eviction is None else eviction, self._pins)
        self._leaving = leaving
        self.grow(num_blocks if room is None else room)

    @property
    def num_blocks(self) -> int:
        """The most there will ever be."""
        return self._num_blocks

    @property
    def room(self) -> int:
        """Blocks that have memory: those of lower numbers."""
        return len(self._references)

    @property
    def held_blocks(self) -> int:
        """Blocks that somebody refers to: the room cannot be less."""
        return self.room - self.free_blocks

    @property
    def free_blocks(self) -> int:
        """Blocks that `allocate` can give: blank and cached."""
        return len(self._blank) + len(self._cached)

    @property
    def unpinned_blocks(self) -> int:
        """Free blocks that `allocate` can give before a pin breaks."""
        return self.free_blocks - self._cached.num_pinned

    @property
    def blank_blocks(self) -> int:
        return len(self._blank)

    @property
    def cached_blocks(self) -> int:
        """Free blocks that still hold a published prefix."""
        return len(self._cached)

    @property
    def pinned_blocks(self) -> int:
        """Blocks that are passed over once they are cached, held or not."""
        return len(self._pins)

    @property
    def num_broken_pins(self) -> int:
        """Blocks that were pinned and given away before their time, for somebody needed the memory; grows."""
        return self._cached.num_broken

    def is_free(self, block: int) -> bool:
        return self._references[block] == 0

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks, each with one reference, or None (and nothing taken) if fewer are free."""
        if count > self.free_blocks:
            return None
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        block = heapq.heappop(self._blank) if self._blank else self._evict()
        self._references[block] = 1
        return block

    def _evict(self) -> int:
        block = self._cached.evict()
        key = self._key_of[block]
        assert key is not None, "a cached block has no key"
        if self._leaving is not None:
            self._leaving(block, key)
        del self._by_key[key]
        self._key_of[block] = None
        return block

    def lookup(self, keys: Iterable[BlockKey]) -> list[int]:
        """Blocks of the longest published run from the first key on. Takes no reference: `share` them before
        anything else is allocated."""
        found = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def share(self, blocks: Sequence[int]) -> None:
        """One more reference to each: to held blocks, or to cached ones that `lookup` found."""
        for block in blocks:
            if self._references[block] == 0 and block not in self._cached:
                raise ValueError(f"block {block} is blank: there is nothing to share")
        for block in blocks:
            key = self._key_of[block]
            if key is not None:
                self._cached.use(block, key)
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less to each; give them in the order of the sequence.

        The end of a sequence is let go first, so that of a cached prefix the end is evicted before its beginning.
        """
        for block, count in Counter(blocks).items():
            if self._references[block] < count:
                raise ValueError(f"block {block} is released more often than it is held")
        kept, keys = [], []
        for block in blocks:
            self._references[block] -= 1
            if self._references[block] == 0:
                key = self._key_of[block]
                if key is None:
                    heapq.heappush(self._blank, block)
                else:
                    kept.append(block)
                    keys.append(key)
        self._cached.keep(kept, keys)

    def publish(self, block: int, key: BlockKey) -> bool:
        """Let others find a held block, full and computed, under `key`. False if one is known by that key already
        (two sequences computed the same) or the pool does not reuse."""
        if self._references[block] == 0:
            raise ValueError(f"block {block} is free: its content is nobody's to publish")
        if not self._prefix_reuse or key in self._by_key or self._key_of[block] is not None:
            return False
        self._by_key[key] = block
        self._key_of[block] = key
        self._cached.compute(key)
        return True

    def pin(self, key: BlockKey, owner: Hashable, seconds: float) -> bool:
        """Keep what is published under `key` for so long after each use. False: nothing is, or this owner has no room
        for one more pin."""
        block = self._by_key.get(key)
        return block is not None and self._cached.pin(block, key, owner, seconds)

    def pass_to(self, now: float) -> None:
        """It is so late now: pins end."""
        self._cached.pass_to(now)

    def grow(self, room: int) -> None:
        """There is memory for so many blocks now."""
        if not self.room <= room <= self._num_blocks:
            raise ValueError(f"a pool of {self._num_blocks} blocks cannot grow from {self.room} to {room}")
        self._blank += range(self.room, room)  # above all others: still a heap
        missing = room - self.room
        self._references += [0] * missing
        self._key_of += [None] * missing

    def shrink(self, room: int) -> list[Move]:
        """There will be memory for so many blocks only: as many cached ones as must be are given away, and what stays
        moves below. Before anything else is done the moves are to be carried out, in any order, and whoever holds a
        block is to call it by its new number; then the memory beyond is nobody's."""
        if not self.held_blocks <= room <= self.room:
            raise ValueError(f"{self.held_blocks} of {self.room} blocks are held: the room cannot be {room}")
        while self.held_blocks + self.cached_blocks > room:
            heapq.heappush(self._blank, self._evict())
        blank = set(self._blank)
        targets = iter(sorted(block for block in blank if block < room))
        moves = [Move(block, next(targets)) for block in range(room, self.room) if block not in blank]
        for source, target in moves:
            self._move(source, target)
        self._blank = list(targets)  # sorted: a heap
        del self._references[room:], self._key_of[room:]
        return moves

    def _move(self, source: int, target: int) -> None:
        self._references[target] = self._references[source]
        key = self._key_of[target] = self._key_of[source]
        if key is not None:
            self._by_key[key] = target
            if source in self._cached:
                self._cached.rename(source, target)

    def check(self, holders: Iterable[Sequence[int]] | None = None) -> None:
        """Prove the invariants (AssertionError otherwise). `holders`: the block lists of all sequences, if known."""
        self._cached.check()
        free = [*self._blank, *self._cached]
        assert len(free) == len(set(free)), "a block is free twice"
        assert set(free) == {b for b, n in enumerate(self._references) if n == 0}, "free is not 'no references'"
        assert min(self._references, default=0) >= 0, "negative references"
        assert all(self._key_of[block] is None for block in self._blank), "a blank block has a key"
        assert self.room <= self._num_blocks, "more room than there are numbers"
        assert all(self._key_of[block] is not None for block in self._cached), "a cached block has no key"
        known = {key: block for block, key in enumerate(self._key_of) if key is not None}
        assert known == self._by_key, "keys and blocks disagree"
        assert len(self._pins) == sum(key in self._pins for key in known), "something is pinned that is not there"
        if holders is not None:
            counted = [0] * self.room
            for blocks in holders:
                for block in blocks:
                    counted[block] += 1
            assert counted == self._references, "references are not what sequences hold"
