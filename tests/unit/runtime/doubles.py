"""Stand-ins for the engine's tests: a device that knows only histories, requests, and schedules to run them in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from thaloom.base.clock import ManualClock
from thaloom.base.errors import DeviceLost, OutOfMemory
from thaloom.base.events import Recorder
from thaloom.hal.draws import Draw, Drawn
from thaloom.hal.driver import Buffer, Executable, MovesBlocks, SamplesNatively
from thaloom.hal.ops import BLOCK_TOKENS, Step
from thaloom.kernel.sched.chunks import DEFAULT_TARGETS, StepTargets
from thaloom.kernel.sched.restoring import Place
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.core.admission import EngineConfig
from thaloom.work.runtime.core.engine import Emission, Engine
from thaloom.work.runtime.core.grammars import Matcher
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.kv.memory import KvMemory
from thaloom.work.runtime.kv.tiers import BlockStore
from thaloom.work.runtime.messages import Embed, Failed, Finished, Generate, PromptLogprobs, State, Tokens

VOCAB = 61


def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
    """(VOCAB,) numbers that depend on every token of the history and on nothing else."""
    digest = hashlib.blake2b(np.asarray(history, dtype="<i8").tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(VOCAB, dtype=np.float32)


def habitual(history: Sequence[int], habit: float) -> NDArray[np.float32]:
    """As logits_of, but the last token has more of a say the larger `habit` is: then answers repeat themselves, as
    answers do."""
    return logits_of(history) + np.float32(habit) * logits_of(history[-1:]) if habit else logits_of(history)


def greedy(prompt: Sequence[int], count: int, habit: float = 0.0) -> list[int]:
    """What a request must be answered with, by definition."""
    history = list(prompt)
    for _ in range(count):
        history.append(int(np.argmax(habitual(history, habit))))
    return history[len(prompt) :]


class HistoryExecutable:
    """driver.Executable whose blocks hold tokens. What was never written, or written over, changes every answer."""

    block_bytes = BLOCK_TOKENS
    weight_bytes = 0
    scratch_bytes = 0

    def __init__(self, num_blocks: int, habit: float = 0.0) -> None:
        self.habit = habit
        self.blocks = np.full((num_blocks, BLOCK_TOKENS), -1, dtype=np.int64)
        self.steps: list[Step] = []
        self.next_errors: list[Exception] = []
        """Raised one by one by the next runs."""
        self.poisoned: set[int] = set()
        """Last tokens whose logits are not finite."""

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        self.blocks = np.full((num_blocks, BLOCK_TOKENS), -1, dtype=np.int64)

    def run(self, step: Step) -> NDArray[np.float32]:
        self.steps.append(step)
        if self.next_errors:
            raise self.next_errors.pop(0)
        written = set()
        for token, position, sequence in zip(step.tokens, step.positions, step.sequences, strict=True):
            block = step.block_tables[sequence, position // BLOCK_TOKENS]
            assert block >= 0, "a row without a block"
            assert (block, position % BLOCK_TOKENS) not in written, "two rows write the same place"
            written.add((block, position % BLOCK_TOKENS))
            self.blocks[block, position % BLOCK_TOKENS] = token
        results = np.zeros((len(step.outputs), 2 if step.states else VOCAB), dtype=np.float32)
        for index, row in enumerate(step.outputs):
            table = step.block_tables[step.sequences[row]]
            length = int(step.positions[row]) + 1
            history = self.blocks[table[: -(-length // BLOCK_TOKENS)]].reshape(-1)[:length]
            if step.states:
                results[index] = int(history[-1]), length
            else:
                results[index] = np.nan if int(history[-1]) in self.poisoned else habitual(history.tolist(), self.habit)
        return results

    def copy_block(self, source: int, target: int) -> None:
        self.blocks[target] = self.blocks[source]

    def read_block(self, block: int, into: memoryview) -> None:
        """driver.MovesBlocks."""
        into[:] = self.blocks[block].astype(np.int8).tobytes()

    def write_block(self, block: int, data: memoryview) -> None:
        self.blocks[block] = np.frombuffer(data, dtype=np.int8)

    def close(self) -> None:
        pass


class ColdStore:
    """kv.tiers.BlockStore of so many blocks in the host, the longest there going to a disk of so many."""

    def __init__(self, host_blocks: int, disk_blocks: int = 0) -> None:
        self.most: dict[Place, int] = {"host": host_blocks, "disk": disk_blocks}
        self.kept: dict[Place, dict[bytes, bytes]] = {"host": {}, "disk": {}}
        self.damaged: set[bytes] = set()
        """Found to be so when they are read."""
        self.full = False
        """Takes nothing more."""
        self.asked: list[Sequence[bytes]] = []
        """To be prefetched."""
        self.hangs = False
        """Brings nothing up from its disk."""

    def put(self, key: bytes, data: memoryview) -> bool:
        self.drop(key)
        if self.full or not self.most["host"]:
            return False
        host, disk = self.kept["host"], self.kept["disk"]
        host[key] = bytes(data)
        while len(host) > self.most["host"]:
            oldest = next(iter(host))
            disk[oldest] = host.pop(oldest)
        while len(disk) > self.most["disk"]:
            disk.pop(next(iter(disk)))
        return True

    def where(self, key: bytes) -> Place | None:
        return next((place for place, kept in self.kept.items() if key in kept), None)

    def prefetch(self, keys: Sequence[bytes]) -> None:
        self.asked.append(keys)
        host, disk = self.kept["host"], self.kept["disk"]
        for key in () if self.hangs else reversed(keys[: self.most["host"]]):
            if key in disk:
                host[key] = disk.pop(key)
        while len(host) > self.most["host"]:
            oldest = next(iter(host))
            disk[oldest] = host.pop(oldest)

    def read(self, key: bytes, into: memoryview, *, wait_s: float) -> bool:
        place = self.where(key)
        if place is None:
            return False
        if key in self.damaged:
            self.damaged.remove(key)
            del self.kept[place][key]
            return False
        into[:] = self.kept[place][key]
        return True

    def drop(self, key: bytes) -> None:
        for kept in self.kept.values():
            kept.pop(key, None)


class PagedBuffer:
    """driver.ElasticBuffer of a HistoryExecutable: what goes back is forgotten. `limit`: bytes that others leave."""

    page_bytes = 3 * BLOCK_TOKENS // 2  # no whole number of blocks

    def __init__(self, executable: HistoryExecutable) -> None:
        self._executable = executable
        self.capacity_bytes = len(executable.blocks) * BLOCK_TOKENS
        self.limit = self.capacity_bytes + self.page_bytes
        self.num_bytes = 0

    def resize(self, num_bytes: int) -> None:
        assert 0 <= num_bytes <= self.capacity_bytes
        pages = -(-num_bytes // self.page_bytes)
        if pages * self.page_bytes > max(self.limit, self.num_bytes):
            raise OutOfMemory("others have it")
        self.num_bytes = min(pages * self.page_bytes, self.capacity_bytes)
        self._executable.blocks[self.num_bytes // BLOCK_TOKENS :] = -1

    def free(self) -> None:
        self.resize(0)


Cost = Callable[[Step], float]
"""Seconds that a step takes."""


def line(base_s: float, row_s: float) -> Cost:
    """The cost of being a step at all, and of each row."""
    return lambda step: base_s + row_s * step.num_rows


class Timed:
    """driver.Executable around another, on made-up time: each step takes what `cost` says."""

    def __init__(self, inner: Executable, cost: Cost) -> None:
        self._inner = inner
        self._cost = cost
        self.now_s = 0.0
        self.move_s = 0.0
        """What moving a block takes."""
        self.block_bytes = inner.block_bytes
        self.weight_bytes = inner.weight_bytes
        self.scratch_bytes = inner.scratch_bytes

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        self._inner.bind_pool(pool, num_blocks)

    def run(self, step: Step) -> NDArray[np.float32]:
        self.now_s += self._cost(step)
        return self._inner.run(step)

    def copy_block(self, source: int, target: int) -> None:
        self._inner.copy_block(source, target)

    def read_block(self, block: int, into: memoryview) -> None:
        """As driver.MovesBlocks: used only where there is a store, and so one inside."""
        self.now_s += self.move_s
        cast(MovesBlocks, self._inner).read_block(block, into)

    def write_block(self, block: int, data: memoryview) -> None:
        self.now_s += self.move_s
        cast(MovesBlocks, self._inner).write_block(block, data)

    def close(self) -> None:
        self._inner.close()


class TimedSampler(Timed):
    """Also driver.SamplesNatively, as the one inside."""

    def __init__(self, inner: SamplesNatively, cost: Cost) -> None:
        super().__init__(inner, cost)
        self._sampler = inner

    def draw(self, draws: Sequence[Draw]) -> Sequence[Drawn]:
        return self._sampler.draw(draws)

    def redraw(self, rows: Sequence[int], draws: Sequence[Draw]) -> Sequence[Drawn]:
        return self._sampler.redraw(rows, draws)


def timed(inner: Executable, cost: Cost) -> Timed:
    return TimedSampler(inner, cost) if isinstance(inner, SamplesNatively) else Timed(inner, cost)


def ask(
    prompt: Sequence[int],
    max_tokens: int = 4,
    *,
    id: str = "r",
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 1,
    stop_tokens: Sequence[int] = (),
    logprobs: int | None = None,
    **others: Any,
) -> Generate:
    return Generate(
        id=id,
        prompt=list(prompt),
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop_tokens=list(stop_tokens),
        logprobs=logprobs,
        **others,
    )


@dataclass(slots=True)
class Bench:
    """An engine on made-up time, and what it said so far."""

    engine: Engine
    clock: ManualClock
    events: Recorder
    news: dict[Ticket, list[PromptLogprobs | Tokens | Finished | State | Failed]] = field(default_factory=dict)

    def submit(self, request: Generate | Embed, matcher: Matcher | None = None) -> Ticket:
        ticket, _ = self.engine.submit(request, matcher)
        self.news[ticket] = []
        return ticket

    def step(self, count: int = 1) -> list[Emission]:
        news = [emission for _ in range(count) for emission in self.engine.step()]
        for ticket, reply in news:
            assert not self.ended(ticket), "news after the end"
            self.news[ticket].append(reply)
        self.engine.check()
        return news

    def run(self, *, most_steps: int = 10_000) -> None:
        """Until nothing is left to do."""
        while self.engine.busy:
            self.step()
            most_steps -= 1
            assert most_steps, "the engine does not come to an end"

    def wait(self, seconds: float) -> None:
        """Time passes, and nobody does anything."""
        asyncio.run(self.clock.advance(seconds))

    def ended(self, ticket: Ticket) -> bool:
        return bool(self.news[ticket]) and isinstance(self.news[ticket][-1], Finished | State | Failed)

    def tokens(self, ticket: Ticket) -> list[int]:
        return [token for reply in self.news[ticket] if isinstance(reply, Tokens) for token in reply.tokens]

    def finished(self, ticket: Ticket) -> Finished:
        last = self.news[ticket][-1]
        assert isinstance(last, Finished), last
        return last

    def failed(self, ticket: Ticket) -> Mapping[str, object]:
        last = self.news[ticket][-1]
        assert isinstance(last, Failed), last
        return last.error


def make_bench(
    executable: Executable,
    *,
    num_blocks: int,
    vocab_size: int = VOCAB,
    context_length: int = 256,
    max_sequences: int = 4,
    chunk_tokens: int = 16,
    max_queue: int = 64,
    prefix_reuse: bool = True,
    draft_rows: int = 0,
    targets: StepTargets = DEFAULT_TARGETS,
    cost: Cost | None = None,
    memory: KvMemory | None = None,
    store: BlockStore | None = None,
    move_s: float = 0.0,
    pin_share: float = 0.5,
) -> Bench:
    """`cost`: what steps take; without it no time passes, and the engine learns nothing about its device. `move_s`:
    what it takes to move a block to `store` or back."""
    clock, events = ManualClock(), Recorder()
    device = timed(executable, cost or (lambda step: 0.0))
    device.move_s = move_s
    config = EngineConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        num_blocks=num_blocks,
        limits=StepLimits(max_sequences=max_sequences, chunk_tokens=chunk_tokens, draft_rows=draft_rows),
        targets=targets,
        max_queue=max_queue,
        prefix_reuse=prefix_reuse,
        pin_share=pin_share,
        salt=b"test",
    )
    engine = Engine(
        device, config, monotonic=lambda: clock.monotonic() + device.now_s, emit=events, memory=memory, store=store
    )
    return Bench(engine, clock, events)


def lost() -> DeviceLost:
    return DeviceLost("device 'x' went away", device="x")
