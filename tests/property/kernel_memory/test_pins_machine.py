"""What passes over pins against a plain model of it, which looks at every pin each time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from thaloom.kernel.memory.eviction import LeastRecentlyUsed
from thaloom.kernel.memory.pins import PassingOver, Pins

NUM_BLOCKS = 8
MOST_PINNED = 6
SECONDS = st.sampled_from([1.0, 2.0, 5.0])
BLOCKS = st.integers(0, NUM_BLOCKS - 1)


@dataclass(slots=True)
class Pinned:
    owner: str
    seconds: float
    until: float


class PinsAndModel(RuleBasedStateMachine):
    """A block's key is its number and how often it was given away."""

    def __init__(self) -> None:
        super().__init__()
        self.pins = Pins(MOST_PINNED)
        self.cached = PassingOver(LeastRecentlyUsed(), self.pins)
        self.now = 0.0
        self.cached.pass_to(self.now)
        self.held = set(range(NUM_BLOCKS))
        self.keys = [(block, 0) for block in range(NUM_BLOCKS)]
        self.model: dict[tuple[int, int], Pinned] = {}  # in the order they were pinned in

    @rule(block=BLOCKS, owner=st.sampled_from("ab"), seconds=SECONDS)
    def pin(self, block: int, owner: str, seconds: float) -> None:
        key = self.keys[block]
        known = self.model.get(key)
        has_room = len(self.model) < MOST_PINNED and self.num_of(owner) < MOST_PINNED // 2
        assert self.cached.pin(block, key, owner, seconds) == (known is not None or has_room)
        if known is not None:
            known.seconds = max(known.seconds, seconds)
            known.until = self.now + known.seconds
        elif has_room:
            self.model[key] = Pinned(owner, seconds, self.now + seconds)

    @rule(blocks=st.lists(BLOCKS, unique=True))
    def release(self, blocks: list[int]) -> None:
        blocks = [block for block in blocks if block in self.held]
        self.cached.keep(blocks, [self.keys[block] for block in blocks])
        self.held.difference_update(blocks)

    @rule(block=BLOCKS)
    def use(self, block: int) -> None:
        self.cached.use(block, self.keys[block])
        self.held.add(block)
        if (pinned := self.model.get(self.keys[block])) is not None:
            pinned.until = self.now + pinned.seconds

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.cached.pass_to(self.now)
        self.model = {key: pinned for key, pinned in self.model.items() if pinned.until > self.now}

    @precondition(lambda self: len(self.held) < NUM_BLOCKS)
    @rule()
    def evict(self) -> None:
        num_broken = self.cached.num_broken
        cached = [self.keys[block] for block in range(NUM_BLOCKS) if block not in self.held]
        block = self.cached.evict()
        key = self.keys[block]
        pinned = [one for one in self.model if one in cached]
        if len(pinned) < len(cached):
            assert key not in self.model, "there was something else"
        else:
            first = min(self.model[one].until for one in pinned)
            assert key == [one for one in pinned if self.model[one].until == first][-1]
            del self.model[key]
            num_broken += 1
        assert self.cached.num_broken == num_broken
        self.keys[block] = (block, key[1] + 1)
        self.held.add(block)

    @invariant()
    def holds(self) -> None:
        self.cached.check()
        assert len(self.pins) == len(self.model)
        assert all(key in self.pins for key in self.model)
        assert len(self.cached) == NUM_BLOCKS - len(self.held)
        assert self.cached.num_pinned == sum(key[0] not in self.held for key in self.model)

    def num_of(self, owner: str) -> int:
        return sum(pinned.owner == owner for pinned in self.model.values())


TestPinsAndModel = PinsAndModel.TestCase
TestPinsAndModel.settings = settings(max_examples=150, stateful_step_count=50)
