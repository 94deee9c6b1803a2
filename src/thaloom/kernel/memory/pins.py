"""What a cache keeps until a time: keys of blocks that are passed over when something has to be given away.

A pin keeps others' prompts out of the cache; it keeps no request waiting. There are at most so many, and one owner has
at most half of them, so that nobody can have all. Time is whatever `pass_to` was told last; one thread at a time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from thaloom.kernel.memory.eviction import Eviction

_End = tuple[float, int, Hashable]
"""When a pin ends, its number, the lower the later it was made, and its key."""
_NEVER: _End = (math.inf, 0, None)
_SLACK = 64


@dataclass(slots=True)
class _Pin:
    owner: Hashable
    seconds: float
    until: float
    number: int


class _Ends:
    """Which of some keys' pins ends first; of several the one that was made last, for the end of a prefix goes before
    its beginning.

    A heap that is cleaned at its top: an entry whose pin ends later by now moves, and one of a key that is not among
    them any more, or has another, is dropped. Each key that comes cleans two, so that little is left to whoever looks.
    """

    def __init__(self, among: Collection[Hashable], end_of: Callable[[Hashable], _End]) -> None:
        self._among = among
        self._end_of = end_of
        self._heap: list[_End] = []
        self._entries: dict[Hashable, _End] = {}

    def add(self, key: Hashable) -> None:
        """It is among them now. Its pin may come to end later, never sooner."""
        if len(self._heap) > 2 * len(self._among) + _SLACK:
            self._heap = [self._end_of(each) for each in self._among]
            self._entries = {end[2]: end for end in self._heap}
            heapq.heapify(self._heap)
        elif (end := self._end_of(key)) < self._entries.get(key, _NEVER):
            heapq.heappush(self._heap, end)
            self._entries[key] = end
        for _ in range(2):
            self._clean()

    def first(self, by: float = math.inf) -> Hashable | None:
        """None: none of them ends by then."""
        while self._heap and self._heap[0][0] <= by:
            if not self._clean():
                return self._heap[0][2]
        return None

    def _clean(self) -> bool:
        """Whether the entry at the top was not what it should be."""
        if not self._heap:
            return False
        entry = self._heap[0]
        key = entry[2]
        if self._entries.get(key) is not entry:
            heapq.heappop(self._heap)
        elif key not in self._among:
            heapq.heappop(self._heap)
            del self._entries[key]
        elif (end := self._end_of(key)) != entry:
            heapq.heapreplace(self._heap, end)
            self._entries[key] = end
        else:
            return False
        return True

    def check(self, most: int) -> None:
        """Prove the invariants (AssertionError otherwise). `most`: keys there may be."""
        assert len(self._heap) <= 2 * most + _SLACK + 1, "what is gone is never cleaned up"
        assert set(self._entries.values()) <= set(self._heap), "an entry is lost"
        assert all(self._entries[key] <= self._end_of(key) for key in self._among), "an end would be missed"


class Pins:
    """Each of one key, for so many seconds after it was asked for or last used."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._most_each = -(-most // 2)
        self._pins: dict[Hashable, _Pin] = {}
        self._of_owner: Counter[Hashable] = Counter()
        self._numbers = itertools.count(0, -1)
        self._ends = _Ends(self._pins, self.end_of)
        self._now = -math.inf

    def __len__(self) -> int:
        return len(self._pins)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._pins

    def end_of(self, key: Hashable) -> _End:
        """What is less goes first."""
        pin = self._pins[key]
        return pin.until, pin.number, key

    def pin(self, key: Hashable, owner: Hashable, seconds: float) -> bool:
        """False: there is no room for one more. Of two pins of one key the longer counts."""
        pin = self._pins.get(key)
        if pin is not None:
            pin.seconds = max(pin.seconds, seconds)
            self.use(key)
            return True
        if len(self._pins) >= self.most or self._of_owner[owner] >= self._most_each:
            return False
        self._pins[key] = _Pin(owner, seconds, self._now + seconds, next(self._numbers))
        self._of_owner[owner] += 1
        self._ends.add(key)
        return True

    def use(self, key: Hashable) -> None:
        """Somebody's prompt has it: if it is pinned, its time begins anew."""
        if (pin := self._pins.get(key)) is not None:
            pin.until = self._now + pin.seconds

    def drop(self, key: Hashable) -> None:
        """It, which is pinned, is not any more."""
        owner = self._pins.pop(key).owner
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]

    def pass_to(self, now: float) -> list[Hashable]:
        """The keys whose time ends by this, in the order they were pinned in: they are not pinned any more."""
        self._now = now
        ended: list[tuple[int, Hashable]] = []
        while (key := self._ends.first(by=now)) is not None:
            ended.append((-self._pins[key].number, key))
            self.drop(key)
        return [key for _, key in sorted(ended)]

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        self._ends.check(self.most)
        assert len(self._pins) <= self.most, "more pins than there may be"
        assert self._of_owner == Counter(pin.owner for pin in self._pins.values()), "pins of owners are miscounted"
        assert max(self._of_owner.values(), default=0) <= self._most_each, "somebody has more than half"
        assert all(pin.until > self._now for pin in self._pins.values()), "a pin has outlived its time"


class PassingOver:
    """An Eviction that passes over what is pinned, until nothing else is left: then one pin breaks for each block, the
    one that would have ended soonest."""

    def __init__(self, eviction: Eviction, pins: Pins) -> None:
        self._others = eviction
        self._pins = pins
        self._key_of: dict[int, Hashable] = {}
        """Of the blocks that are passed over."""
        self._block_of: dict[Hashable, int] = {}
        self._ends = _Ends(self._block_of, pins.end_of)
        self.num_broken = 0
        """Pins that ended before their time; grows."""

    def __len__(self) -> int:
        return len(self._others) + len(self._key_of)

    @property
    def num_pinned(self) -> int:
        """Those that go only when a pin breaks."""
        return len(self._key_of)

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
        if not len(self._others) and (broken := self._ends.first()) is not None:
            self._pins.drop(broken)
            self.num_broken += 1
            self._let_in([broken])
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
        self._ends.check(self._pins.most)
        assert {block: key for key, block in self._block_of.items()} == self._key_of, "keys and blocks disagree"
        assert all(key in self._pins for key in self._block_of), "passed over, and not pinned"
        assert not any(block in self._others for block in self._key_of), "passed over, and to be given away"

    def _pass_over(self, block: int, key: Hashable) -> bool:
        if key not in self._pins:
            return False
        self._key_of[block], self._block_of[key] = key, block
        self._ends.add(key)
        return True

    def _let_in(self, keys: Iterable[Hashable]) -> None:
        """Among the others, as far as nobody holds them."""
        let_in = [(self._block_of.pop(key), key) for key in keys if key in self._block_of]
        for block, _ in let_in:
            del self._key_of[block]
        self._others.keep([block for block, _ in let_in], [key for _, key in let_in])
