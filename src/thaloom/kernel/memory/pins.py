"""What a cache keeps until a time: keys of blocks that are passed over when something has to be given away.

A pin keeps others' prompts out of the cache; it keeps no request waiting. There are at most so many, and one owner has
at most half of them, so that nobody can have all. Time is whatever `pass_to` was told last; one thread at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from thaloom.kernel.memory.eviction import Eviction


@dataclass(slots=True)
class _Pin:
    owner: Hashable
    seconds: float
    until: float


class Pins:
    """Each of one key, for so many seconds after it was asked for or last used."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_each = -(-most // 2)
        self._pins: dict[Hashable, _Pin] = {}
        self._of_owner: Counter[Hashable] = Counter()
        self._now = -math.inf
        self._next_end = math.inf
        """No pin ends before this."""

    def __len__(self) -> int:
        return len(self._pins)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._pins

    def pin(self, key: Hashable, owner: Hashable, seconds: float) -> bool:
        """False: there is no room for one more. Of two pins of one key the longer counts."""
        pin = self._pins.get(key)
        if pin is None:
            if len(self._pins) >= self._most or self._of_owner[owner] >= self._most_each:
                return False
            pin = self._pins[key] = _Pin(owner, seconds, self._now)
            self._of_owner[owner] += 1
        pin.seconds = max(pin.seconds, seconds)
        self.use(key)
        return True

    def use(self, key: Hashable) -> None:
        """Somebody's prompt has it: if it is pinned, its time begins anew."""
        if (pin := self._pins.get(key)) is not None:
            pin.until = self._now + pin.seconds
            self._next_end = min(self._next_end, pin.until)

    def drop(self, keys: Iterable[Hashable]) -> None:
        """These, which are pinned, are not any more."""
        for key in keys:
            owner = self._pins.pop(key).owner
            self._of_owner[owner] -= 1
            if not self._of_owner[owner]:
                del self._of_owner[owner]

    def pass_to(self, now: float) -> list[Hashable]:
        """The keys whose time ends by this, in the order they were pinned in: they are not pinned any more."""
        self._now = now
        if now < self._next_end:
            return []
        ended = [key for key, pin in self._pins.items() if pin.until <= now]
        self.drop(ended)
        self._next_end = min((pin.until for pin in self._pins.values()), default=math.inf)
        return ended

    def first_to_end(self, among: Container[Hashable]) -> list[Hashable]:
        """Of these, some of which are pinned, those that end first, all at the same time; in the same order."""
        found = {key: pin.until for key, pin in self._pins.items() if key in among}
        first = min(found.values())
        return [key for key, until in found.items() if until == first]

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        assert len(self._pins) <= self._most, "more pins than there may be"
        assert self._of_owner == Counter(pin.owner for pin in self._pins.values()), "pins of owners are miscounted"
        assert max(self._of_owner.values(), default=0) <= self._most_each, "somebody has more than half"
        assert all(pin.until > self._now for pin in self._pins.values()), "a pin has outlived its time"
        assert all(pin.until >= self._next_end for pin in self._pins.values()), "a pin ends before the next end"


class PassingOver:
    """An Eviction that passes over what is pinned, until nothing else is left: then those pins break that would have
    ended soonest."""

    def __init__(self, eviction: Eviction, pins: Pins) -> None:
        self._others = eviction
        self._pins = pins
        self._key_of: dict[int, Hashable] = {}
        """Of the blocks that are passed over."""
        self._block_of: dict[Hashable, int] = {}
        self.num_broken = 0
        """Pins that ended before their time; grows."""

    def __len__(self) -> int:
        return len(self._others) + len(self._key_of)

    def __contains__(self, block: int) -> bool:
        return block in self._others or block in self._key_of

    def __iter__(self) -> Iterator[int]:
        return chain(self._others, self._key_of)

    def keep(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:
        if not self._pins:
            self._others.keep(blocks, keys)
            return
        others = [(block, key) for block, key in zip(blocks, keys, strict=True) if not self._pass_over(block, key)]
        self._others.keep([block for block, _ in others], [key for _, key in others])

    def use(self, block: int, key: Hashable) -> None:
        self._others.use(block, key)
        if self._pins:
            if self._key_of.pop(block, None) is not None:
                del self._block_of[key]
            self._pins.use(key)

    def compute(self, key: Hashable) -> None:
        self._others.compute(key)

    def evict(self) -> int:
        if self._key_of and not len(self._others):
            broken = self._pins.first_to_end(self._block_of)
            self._pins.drop(broken)
            self.num_broken += len(broken)
            self._let_in(broken)
        return self._others.evict()

    def rename(self, block: int, name: int) -> None:
        key = self._key_of.pop(block, None)
        if key is None:
            self._others.rename(block, name)
        else:
            self._key_of[name], self._block_of[key] = key, name

    def pin(self, block: int, key: Hashable, owner: Hashable, seconds: float) -> bool:
        """The block, held or cached, has this key. False: there is no room for one more pin of this owner."""
        if not self._pins.pin(key, owner, seconds):
            return False
        if block in self._others:  # whoever wants it has computed the same in a block of its own
            self._others.use(block, key)
            self._pass_over(block, key)
        return True

    def pass_to(self, now: float) -> None:
        """It is so late now."""
        self._let_in(self._pins.pass_to(now))

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        self._pins.check()
        assert {block: key for key, block in self._block_of.items()} == self._key_of, "keys and blocks disagree"
        assert all(key in self._pins for key in self._block_of), "passed over, and not pinned"
        assert not any(block in self._others for block in self._key_of), "passed over, and to be given away"

    def _pass_over(self, block: int, key: Hashable) -> bool:
        if key not in self._pins:
            return False
        self._key_of[block], self._block_of[key] = key, block
        return True

    def _let_in(self, keys: Iterable[Hashable]) -> None:
        """Among the others, as far as nobody holds them."""
        let_in = [(self._block_of.pop(key), key) for key in keys if key in self._block_of]
        for block, _ in let_in:
            del self._key_of[block]
        self._others.keep([block for block, _ in let_in], [key for _, key in let_in])
