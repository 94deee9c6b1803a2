"""The block pool: numbered blocks of 16 tokens' keys and values, counted references, and reuse of equal prefixes.

The pool counts; it holds no bytes. A block is in one of three states:

- *held*: one or more sequences refer to it;
- *cached*: nobody refers to it, but it is full, computed and published under its key, so a prompt that begins the
  same way can have it back; it counts as free and is given away when blank ones run out, whichever promises least
  to be asked for again (kernel.memory.eviction);
- *blank*: nobody refers to it and nothing worth keeping is in it.

A key names a block's tokens *and everything before them* (a hash chain), so equal keys mean equal keys and values.
One thread at a time; no clock, no randomness.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import NewType

import numpy as np

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.eviction import Eviction, LearnedReuse

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


class BlockPool:
    """Who holds which block. Every method either does all it was asked or changes nothing."""

    def __init__(self, num_blocks: int, *, prefix_reuse: bool = True, eviction: Eviction | None = None) -> None:
        """`eviction`: what is given away of what is cached; LearnedReuse if none is named."""
        if num_blocks < 1:
            raise ValueError(f"a pool needs at least one block, not {num_blocks}")
        self._prefix_reuse = prefix_reuse
        self._references = [0] * num_blocks
        self._key_of: list[BlockKey | None] = [None] * num_blocks
        self._by_key: dict[BlockKey, int] = {}
        self._blank: deque[int] = deque(range(num_blocks))
        self._cached = LearnedReuse(num_blocks) if eviction is None else eviction

    @property
    def num_blocks(self) -> int:
        return len(self._references)

    @property
    def free_blocks(self) -> int:
        """Blocks that `allocate` can give: blank and cached."""
        return len(self._blank) + len(self._cached)

    @property
    def cached_blocks(self) -> int:
        """Free blocks that still hold a published prefix."""
        return len(self._cached)

    def is_free(self, block: int) -> bool:
        return self._references[block] == 0

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks, each with one reference, or None (and nothing taken) if fewer are free."""
        if count > self.free_blocks:
            return None
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        if self._blank:
            block = self._blank.popleft()
        else:
            block = self._cached.evict()
            self._forget(block)
        self._references[block] = 1
        return block

    def _forget(self, block: int) -> None:
        key = self._key_of[block]
        if key is not None:
            del self._by_key[key]
            self._key_of[block] = None

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
                    self._blank.append(block)
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

    def check(self, holders: Iterable[Sequence[int]] | None = None) -> None:
        """Prove the invariants (AssertionError otherwise). `holders`: the block lists of all sequences, if known."""
        free = [*self._blank, *self._cached]
        assert len(free) == len(set(free)), "a block is free twice"
        assert set(free) == {b for b, n in enumerate(self._references) if n == 0}, "free is not 'no references'"
        assert min(self._references) >= 0, "negative references"
        assert all(self._key_of[block] is None for block in self._blank), "a blank block has a key"
        assert all(self._key_of[block] is not None for block in self._cached), "a cached block has no key"
        known = {key: block for block, key in enumerate(self._key_of) if key is not None}
        assert known == self._by_key, "keys and blocks disagree"
        if holders is not None:
            counted = [0] * self.num_blocks
            for blocks in holders:
                for block in blocks:
                    counted[block] += 1
            assert counted == self._references, "references are not what sequences hold"
