"""The block pool against a model of it: any order of calls, invariants after each."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import BlockPool, block_keys, blocks_for, root_key

ROOT = root_key(b"model")
NUM_BLOCKS = 9
MOST_PINNED = 5


class Sequences(RuleBasedStateMachine):
    """Sequences come with tokens, reuse what they find, grow, publish and go. A block's *content* is remembered here:
    whatever `lookup` finds must still be what was written under that key."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, most_pinned=MOST_PINNED)
        self.now = 0.0
        self.pool.pass_to(self.now)
        self.sequences: list[tuple[list[int], list[int]]] = []  # tokens, blocks
        self.content: dict[int, tuple[int, ...]] = {}  # block -> all tokens up to its end

    @rule(head=st.integers(0, 2), num_tokens=st.integers(1, 70))
    def arrive(self, head: int, num_tokens: int) -> None:
        tokens = [head * (at < 2 * BLOCK_TOKENS) for at in range(num_tokens)]
        found = self.pool.lookup(block_keys(ROOT, tokens))
        for index, block in enumerate(found):
            assert self.content[block] == tuple(tokens[: (index + 1) * BLOCK_TOKENS])
        self.pool.share(found)
        free = self.pool.free_blocks
        wanted = blocks_for(num_tokens) - len(found)
        fresh = self.pool.allocate(wanted)
        assert (fresh is None) == (wanted > free)
        if fresh is None:
            self.pool.release(found)
            return
        for index, block in enumerate(fresh, start=len(found)):
            self.content[block] = tuple(tokens[: (index + 1) * BLOCK_TOKENS])
        self.sequences.append((tokens, found + fresh))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        tokens, blocks = data.draw(st.sampled_from(self.sequences))
        for block, key in zip(blocks, block_keys(ROOT, tokens), strict=False):
            self.pool.publish(block, key)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), owner=st.sampled_from("ab"), seconds=st.sampled_from([1.0, 5.0]))
    def pin(self, data: st.DataObject, owner: str, seconds: float) -> None:
        tokens, _ = data.draw(st.sampled_from(self.sequences))
        for key in block_keys(ROOT, tokens):
            before = self.pool.pinned_blocks
            assert self.pool.pin(key, owner, seconds) or self.pool.pinned_blocks == before

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.pool.pass_to(self.now)
        assert seconds < 5.0 or not self.pool.pinned_blocks, "a pin outlives its time"

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _, blocks = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        self.pool.release(blocks)

    @rule(more=st.integers(0, NUM_BLOCKS))
    def grow(self, more: int) -> None:
        self.pool.grow(min(NUM_BLOCKS, self.pool.room + more))

    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        room = data.draw(st.integers(self.pool.held_blocks, self.pool.room))
        kept = self.pool.held_blocks + self.pool.cached_blocks
        moves = self.pool.shrink(room)
        assert self.pool.held_blocks + self.pool.cached_blocks == min(kept, room), "more given away than must be"
        assert all(move.target < room <= move.source for move in moves)
        content = self.content
        for source, target in moves:
            content[target] = content[source]
        self.content = {block: tokens for block, tokens in content.items() if block < room}
        renamed = dict(moves)
        for _, blocks in self.sequences:
            blocks[:] = [renamed.get(block, block) for block in blocks]

    @invariant()
    def holds(self) -> None:
        self.pool.check(blocks for _, blocks in self.sequences)
        assert self.pool.pinned_blocks <= MOST_PINNED
        held = {block for _, blocks in self.sequences for block in blocks}
        assert self.pool.held_blocks == len(held)
        assert self.pool.free_blocks == self.pool.room - len(held)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=150, stateful_step_count=50)
