"""Where keys and values go that the pool gives away: into a store of slower memory, and back when they are asked for.

A block leaves under its key, which names its tokens and everything before them; whoever begins the same way has it
back bit for bit, so nobody's tokens depend on where it was. That goes for a prompt that somebody else asked earlier,
and for a request that was preempted: it is let in again as if it were new, and finds what it had computed, or
computes it, whichever takes less time (kernel.sched.restoring).

All on the engine's thread, between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from thaloom.base.errors import BadParameter, NotServable
from thaloom.base.events import Emit
from thaloom.base.units import format_bytes
from thaloom.hal.driver import Executable, MovesBlocks
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.hal.types import Device
from thaloom.kernel.memory.ledger import Ledger
from thaloom.kernel.memory.pages import BlockKey, BlockPool
from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.memory.tiers.types import whole_units
from thaloom.kernel.sched.restoring import MoveTimes, Place, blocks_to_bring, saved_s
from thaloom.kernel.sched.step_times import StepTimes
from thaloom.work.runtime.spec import WorkerSpec

READ_WAIT_S = 1.0
"""For a block that lies on the disk: what has not come by then is computed."""


class BlockStore(Protocol):
    """As kernel.memory.tiers.store.TieredStore: it may lose anything at any time, the longest unused first, and never
    gives back other bytes than were put."""

    def put(self, key: bytes, data: memoryview) -> bool: ...
    def where(self, key: bytes) -> Place | None: ...
    def prefetch(self, keys: Sequence[bytes]) -> None: ...
    def read(self, key: bytes, into: memoryview, *, wait_s: float) -> bool: ...
    def drop(self, key: bytes) -> None: ...


def open_store(
    spec: WorkerSpec, executable: Executable, device: Device, ledger: Ledger, emit: Emit
) -> TieredStore | None:
    """What the spec gives for keys and values that leave the pool, booked where it is the device's own memory; None
    where it gives nothing.

    Raises OutOfMemory, StateUnusable if the folder on the disk cannot be had, NotServable if what blocks hold cannot
    leave this device, BadParameter where not even one fits.
    """
    if not spec.kv_host_bytes:
        return None
    if not isinstance(executable, MovesBlocks):
        raise NotServable(f"keys and values cannot leave device {device.id!r}", param="kv_host_bytes")
    least = whole_units(executable.block_bytes)
    for name, num_bytes in (("kv_host_bytes", spec.kv_host_bytes), ("kv_disk_bytes", spec.kv_disk_bytes)):
        if 0 < num_bytes < least:
            raise BadParameter(
                f"{name} is {format_bytes(num_bytes)}; one block of {BLOCK_TOKENS} tokens takes {format_bytes(least)}",
                param=name,
            )
    if device.kind == "cpu":
        ledger.reserve(spec.worker, device.id, spec.kv_host_bytes, purpose="kv_host", measured=True)
    disk = None if spec.tier_folder is None else Path(spec.tier_folder)
    return TieredStore(host_bytes=spec.kv_host_bytes, disk=disk, disk_bytes=spec.kv_disk_bytes, emit=emit)


class KvTiers:
    """Moves blocks between the pool of an executable and a store, and learns what that takes."""

    def __init__(
        self,
        store: BlockStore,
        mover: MovesBlocks,
        block_bytes: int,
        *,
        chunk_tokens: int,
        monotonic: Callable[[], float],
    ) -> None:
        """`chunk_tokens`: rows of prompts in a step at most, by which computing is judged."""
        self._store = store
        self._mover = mover
        self._staging = memoryview(bytearray(block_bytes))
        self._chunk_tokens = chunk_tokens
        self._monotonic = monotonic
        self._moves = MoveTimes()
        self.saved_blocks = 0
        """That left for the store, and `restored_blocks` that came back; both grow."""
        self.restored_blocks = 0

    def leave(self, block: int, key: BlockKey, times: StepTimes | None) -> None:
        """The pool gives this block away: it is in the store from now on, if there is room and it is worth it."""
        saved = saved_s(chunk_tokens=self._chunk_tokens, times=times, moves=self._moves)
        if saved is not None and saved <= 0:
            self._moves.refuse("out", 1)
            self._moves.refuse("host", 1)
            return
        started = self._monotonic()
        self._mover.read_block(block, self._staging)
        if not self._store.put(key, self._staging):
            return
        self._moves.add("out", self._monotonic() - started)
        self.saved_blocks += 1

    def extend(
        self,
        blocks: list[int],
        keys: Sequence[BlockKey],
        end: int,
        pool: BlockPool,
        times: StepTimes | None,
        *,
        until: float | None = None,
    ) -> bool:
        """`blocks`, held, are of the first of these keys: take in what follows, from the store as far as that is worth
        it, and from the pool where that has it. There are free blocks for all `end` tokens of the request.

        `until`: others run, so from then on no block but the first is begun, and what lies on the disk is asked for,
        not waited for. False: there is more to be brought, later.
        """
        while wanted := self._worth_bringing(keys[len(blocks) :], len(blocks) * BLOCK_TOKENS, end, times):
            for index, key in enumerate(wanted):
                if until is not None and not pool.lookup([key]):
                    if self._store.where(key) == "disk":
                        self._store.prefetch(wanted[index:])
                        return False
                    if index and self._monotonic() >= until:
                        return False
                block = self._held(key, pool)
                if block is None:
                    return True
                blocks.append(block)
            found = pool.lookup(keys[len(blocks) :])
            pool.share(found)
            blocks += found
        return True

    def look_ahead(self, keys: Sequence[BlockKey]) -> None:
        """Somebody who waits will ask for these."""
        self._store.prefetch(keys)

    def num_to_come(self, keys: Sequence[BlockKey], start: int, end: int, times: StepTimes | None) -> int:
        """Of blocks that follow position `start`: how many would be brought if the request were let in now. A guess,
        for the store may lose them."""
        return self._count(self._places(keys), start, end, times)

    def _worth_bringing(
        self, keys: Sequence[BlockKey], start: int, end: int, times: StepTimes | None
    ) -> Sequence[BlockKey]:
        """Of blocks that follow position `start`: the first ones, as many as are to be had and better brought."""
        places = self._places(keys)
        count = self._count(places, start, end, times)
        self._moves.refuse_all(places[count:])
        return keys[:count]

    def _count(self, places: Sequence[Place], start: int, end: int, times: StepTimes | None) -> int:
        if not places:
            return 0
        return blocks_to_bring(places, start, end, chunk_tokens=self._chunk_tokens, times=times, moves=self._moves)

    def _places(self, keys: Sequence[BlockKey]) -> list[Place]:
        """Of the first ones, as many as the store has."""
        places: list[Place] = []
        for key in keys:
            place = self._store.where(key)
            if place is None:
                break
            places.append(place)
        return places

    def _held(self, key: BlockKey, pool: BlockPool) -> int | None:
        """A block that holds what the key names, and that the caller holds; None if that is not to be had any more."""
        if found := pool.lookup([key]):
            pool.share(found)
            return found[0]
        taken = pool.allocate(1)
        assert taken is not None, "free blocks were counted that are not there"
        if not self._bring(key, taken[0]):
            pool.release(taken)
            return None
        pool.publish(taken[0], key)
        return taken[0]

    def _bring(self, key: BlockKey, block: int) -> bool:
        started, place = self._monotonic(), self._store.where(key)
        if place is None:
            return False
        if not self._store.read(key, self._staging, wait_s=READ_WAIT_S):
            self._staging = memoryview(bytearray(len(self._staging)))  # a disk that hangs may write there yet
            return False
        self._mover.write_block(block, self._staging)
        self._store.drop(key)  # it leaves again in its turn: what is kept twice keeps others out
        self._moves.add(place, self._monotonic() - started)
        self.restored_blocks += 1
        return True
