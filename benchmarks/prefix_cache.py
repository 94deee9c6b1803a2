"""How much of real prompts a full cache still knows: `python -m benchmarks.prefix_cache TRACE [--record]`.

TRACE has a JSON object a line, in order of time: `timestamp` (ms), `output_length` and `hash_ids`, which name the
blocks of a prompt, each with all before it (Mooncake's format; .gz or not). Every prompt goes through the worker's own
block pool and ends before the next begins, under each policy in turn; `clairvoyant` looks at the future (it keeps
whatever is asked for again soonest), `without end` has room for all.

`told` is no policy but a limit: what could be found by one who is told beforehand, for each kind of block, how likely
one comes back after how long, and fills the room on average instead of at each moment. The kinds are by whatever a
server sees: how often a block was used, when it last came back, how long its prompt and its answer were. To say nothing
about the trace by the trace itself, what is told is found in every second conversation, and asked of the others.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import math
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.node import machine, write_record

from thaloom.kernel.memory.eviction import Eviction, LearnedReuse, LeastRecentlyUsed
from thaloom.kernel.memory.pages import BlockKey, BlockPool

_POOL_ABOVE = 5000


@dataclass(frozen=True, slots=True)
class Request:
    time_s: float
    blocks: list[int]
    answer_tokens: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--rooms", default="2000,5000,10000,20000", help="blocks there is room for, by commas")
    parser.add_argument("--host", default="", help="also: blocks that a host below a pool of 5,000 has room for")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-prefix-cache.json")
    asked = parser.parse_args()
    requests = read(asked.trace)
    num_blocks = sum(len(request.blocks) for request in requests)
    rows = []
    for room in map(int, asked.rooms.split(",")):
        row: dict[str, Any] = {"room": room}
        for name, make in policies(room, requests).items():
            row[name] = round(replay(requests, BlockPool(room, eviction=make())) / num_blocks, 4)
        row |= {f"told ({name})": round(told(requests, room, kinds), 4) for name, kinds in KINDS.items()}
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    without_end = round(replay(requests, BlockPool(num_blocks, eviction=LeastRecentlyUsed())) / num_blocks, 4)
    print(f"without end {without_end}, of {num_blocks} blocks in {len(requests)} requests")
    below = []
    for host in map(int, filter(None, asked.host.split(","))):
        in_pool, in_host = replay_with_host(requests, _POOL_ABOVE, host)
        below.append({"host": host, "pool": round(in_pool / num_blocks, 4), "back": round(in_host / num_blocks, 4)})
        print(f"a pool of {_POOL_ABOVE} over a host: {below[-1]}", flush=True)
    if asked.record:
        record = {"requests": len(requests), "blocks": num_blocks, "found": rows, "without_end": without_end}
        record |= {"over_a_host": below} if below else {}
        write_record("prefix-cache", machine() | record)
    return 0


def read(path: Path) -> list[Request]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        told = [json.loads(line) for line in lines]
    return [Request(one["timestamp"] / 1000, one["hash_ids"], one["output_length"]) for one in told]


def policies(room: int, requests: Sequence[Request]) -> dict[str, Callable[[], Eviction]]:
    return {
        "least recently used": LeastRecentlyUsed,
        "S3-FIFO": lambda: S3Fifo(room),
        "learned": LearnedReuse,
        "clairvoyant": lambda: Clairvoyant(requests),
    }


def replay(requests: Sequence[Request], pool: BlockPool) -> int:
    """Blocks found."""
    num_found = 0
    for request in requests:
        keys = [BlockKey(number.to_bytes(8)) for number in request.blocks]
        found = pool.lookup(keys)
        pool.share(found)
        fresh = pool.allocate(len(keys) - len(found))
        if fresh is None:
            raise SystemExit(f"a prompt of {len(keys)} blocks does not fit into {pool.num_blocks}")
        for block, key in zip(fresh, keys[len(found) :], strict=True):
            pool.publish(block, key)
        pool.release(found + fresh)
        num_found += len(found)
    return num_found


def replay_with_host(requests: Sequence[Request], room: int, host: int) -> tuple[int, int]:
    """Blocks found in the pool, and in a host below it that keeps what the pool gives away, until it is the oldest
    there."""
    kept: OrderedDict[BlockKey, None] = OrderedDict()

    def leave(_: int, key: BlockKey) -> None:
        kept[key] = None
        if len(kept) > host:
            kept.popitem(last=False)

    pool, num_found, num_back = BlockPool(room, leaving=leave), 0, 0
    for request in requests:
        keys = [BlockKey(number.to_bytes(8)) for number in request.blocks]
        held: list[int] = []
        for key in keys:
            found = pool.lookup([key])
            if found:
                pool.share(found)
                num_found += 1
            elif key in kept:
                found = pool.allocate(1) or []
                pool.publish(found[0], key)
                kept.pop(key, None)
                num_back += 1
            else:
                break
            held += found
        fresh = pool.allocate(len(keys) - len(held)) or []
        for block, key in zip(fresh, keys[len(held) :], strict=True):
            pool.publish(block, key)
        pool.release(held + fresh)
    return num_found, num_back


class Listed:
    """What the policies here have in common: blocks by key."""

    def __init__(self) -> None:
        self.key_of: dict[int, Hashable] = {}

    def __len__(self) -> int:
        return len(self.key_of)

    def __contains__(self, block: int) -> bool:
        return block in self.key_of

    def __iter__(self) -> Iterator[int]:
        return iter(self.key_of)

    def compute(self, key: Hashable) -> None:
        pass


class S3Fifo(Listed):
    """Source: Yang et al., FIFO queues are all you need for cache eviction, SOSP 2023."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._small: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._ghosts: OrderedDict[Hashable, None] = OrderedDict()
        self._uses: Counter[int] = Counter()
        self._home: dict[Hashable, str] = {}

    def keep(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:
        for block, key in zip(reversed(blocks), reversed(keys), strict=True):
            self.key_of[block] = key
            if block in self._small or block in self._main:
                continue  # it was only held meanwhile, and has its place still
            if self._ghosts.pop(key, self) is None:
                self._main[block] = None
            else:
                self._small[block] = None

    def use(self, block: int, key: Hashable) -> None:  # noqa: ARG002
        if self.key_of.pop(block, None) is not None:
            self._uses[block] = min(3, self._uses[block] + 1)

    def evict(self) -> int:
        while True:
            if self._small and (len(self._small) >= self._room // 10 or not self._main):
                block, _ = self._small.popitem(last=False)
                if block not in self.key_of or self._uses[block] > 1:  # held, or wanted
                    self._main[block] = None
                    self._uses[block] = 0
                    continue
                self._ghosts[self.key_of[block]] = None
                if len(self._ghosts) > self._room:
                    self._ghosts.popitem(last=False)
            else:
                block, _ = self._main.popitem(last=False)
                if block not in self.key_of or self._uses[block]:
                    self._main[block] = None
                    self._uses[block] = max(0, self._uses[block] - 1)
                    continue
            self._uses.pop(block, None)
            del self.key_of[block]
            return block


class Clairvoyant(Listed):
    """Gives away what is asked for last of all, or never again."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__()
        self._when: dict[Hashable, list[int]] = defaultdict(list)
        for number, request in reversed(list(enumerate(requests))):
            for block in request.blocks:
                self._when[BlockKey(block.to_bytes(8))].append(number)
        self._order: list[tuple[int, int, int]] = []
        self._places = 0

    def keep(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:
        for place, (block, key) in enumerate(zip(blocks, keys, strict=True)):
            self._when[key].pop()  # this time
            following = self._when[key][-1] if self._when[key] else 1 << 60
            self.key_of[block] = key
            heapq.heappush(self._order, (-following, -place, block))

    def use(self, block: int, key: Hashable) -> None:  # noqa: ARG002
        self.key_of.pop(block, None)

    def evict(self) -> int:
        while True:
            following, _, block = heapq.heappop(self._order)
            key = self.key_of.get(block)
            if key is None or (self._when[key][-1] if self._when[key] else 1 << 60) != -following:
                continue  # it was taken since, and has another place
            del self.key_of[block]
            return block


@dataclass(slots=True)
class Use:
    """One block of one prompt."""

    conversation: int
    gap_s: float
    """Until it is asked for again."""
    left_s: float
    """Until the trace ends."""
    uses: int
    last_gap_s: float
    is_last: bool
    prompt_blocks: int
    answer_tokens: int


def doublings(value: float) -> int:
    return int(math.log2(value + 1.001)) if value > 0 else -1


KINDS: dict[str, Callable[[Use], Hashable]] = {
    "uses": lambda use: min(use.uses, 2),
    "uses, last": lambda use: (min(use.uses, 2), use.is_last),
    "uses, pause": lambda use: (min(use.uses, 2), doublings(use.last_gap_s)),
    "uses, prompt": lambda use: (min(use.uses, 2), doublings(use.prompt_blocks)),
    "uses, answer": lambda use: (min(use.uses, 2), doublings(use.answer_tokens)),
    "all of them": lambda use: (
        min(use.uses, 2), use.is_last, use.last_gap_s > 90, use.prompt_blocks > 2, use.answer_tokens > 256,
    ),
}  # fmt: skip


def uses_of(requests: Sequence[Request]) -> list[Use]:
    end = requests[-1].time_s
    found: list[Use] = []
    last: dict[int, int] = {}
    times: Counter[int] = Counter()
    begun = 0
    for request in requests:
        known = [block for block in request.blocks if block in last]
        if len(known) > 1:
            conversation = found[last[known[-1]]].conversation
        else:
            begun += 1
            conversation = begun
        for block in request.blocks:
            gap = -1.0
            if block in last:
                earlier = found[last[block]]
                gap = earlier.gap_s = request.time_s - (end - earlier.left_s)
            last[block] = len(found)
            is_last = block == request.blocks[-1]
            left = end - request.time_s
            prompt = len(request.blocks)
            found.append(Use(conversation, math.inf, left, times[block], gap, is_last, prompt, request.answer_tokens))
            times[block] += 1
    return found


def told(requests: Sequence[Request], room: int, kind: Callable[[Use], Hashable]) -> float:
    """The share of blocks that is found where each kind is kept as long as pays best by the other half."""
    uses = uses_of(requests)
    budget = room * (requests[-1].time_s - requests[0].time_s)
    moments = np.concatenate([[0.0], np.geomspace(1, 3600, 80)])
    halves = [[use for use in uses if use.conversation % 2 == half] for half in (0, 1)]
    curves = [_curves(half, kind, moments) for half in halves]

    def outcome(price: float) -> tuple[float, float]:
        hits = spent = 0.0
        for half in (0, 1):
            for name, (gained, cost) in curves[half].items():
                other_gained, other_cost = curves[1 - half].get(name, (np.zeros(len(moments)), cost))
                best = int(np.argmax(other_gained - price * other_cost))
                hits, spent = hits + gained[best], spent + cost[best]
        return hits, spent

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if outcome(middle)[1] <= budget else (middle, high)
    return float(outcome(high)[0]) / len(uses)


def _curves(
    uses: Sequence[Use], kind: Callable[[Use], Hashable], moments: np.ndarray[Any, np.dtype[np.float64]]
) -> dict[Hashable, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """By kind: what is found, and the block-seconds it takes, if it is kept until each moment."""
    by_kind: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for use in uses:
        by_kind[kind(use)].append((use.gap_s, use.left_s))
    curves = {}
    for name, pairs in by_kind.items():
        gaps, left = np.array(pairs).T
        gained = (gaps[:, None] <= moments).sum(axis=0).astype(float)
        cost = np.minimum(np.minimum(gaps, left)[:, None], moments).sum(axis=0)
        curves[name] = (gained, cost)
    return curves


if __name__ == "__main__":
    sys.exit(main())
