"""The pool of a model that was just loaded: how many blocks, how many of them are promised, whose memory it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import BadParameter, DeadlineExceeded, OutOfMemory, StateUnusable, ThaloomError
from thaloom.base.events import Emit
from thaloom.base.units import GIB, format_bytes
from thaloom.hal.driver import Backend, Buffer, Executable, ReservesMemory
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.board import Board
from thaloom.kernel.memory.ledger import Ledger
from thaloom.kernel.memory.pages import blocks_for
from thaloom.kernel.memory.seat import Seat
from thaloom.work.runtime.events import PagesNotLent
from thaloom.work.runtime.kv.memory import ElasticKv, FixedKv, KvMemory, LentKv
from thaloom.work.runtime.spec import WorkerSpec

DEFAULT_CONTEXTS_IN_POOL = 4
DEFAULT_KV_BYTES = 1 * GIB
FLOOR_PATIENCE_S = 30.0
"""How long others may take to give back what is promised to a new worker: longer than their longest step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPool:
    """Bound to its executable. `close` after the executable's, and when no thread uses the seat any more."""

    buffer: Buffer
    memory: KvMemory
    num_blocks: int
    """The most there will ever be."""
    promised_bytes: int
    """Nobody else can have these."""
    seat: Seat | None = None

    def close(self) -> None:
        self.buffer.free()
        if self.seat is not None:
            self.seat.leave()


def make_pool(
    spec: WorkerSpec,
    context: int,
    executable: Executable,
    backend: Backend,
    ledger: Ledger,
    emit: Emit,
    go_on: Callable[[], None] = lambda: None,
) -> KvPool:
    """Books scratch and what is promised of the pool, then takes it: of a device that can, without memory, which comes
    as it is needed. Raises OutOfMemory, BadParameter, and what `go_on` does, which is asked while it waits."""
    block_bytes, device = executable.block_bytes, backend.device.id
    floor = size_pool(spec.kv_bytes, context, block_bytes, lends=spec.pages is not None)
    most = floor
    if spec.pages is not None and spec.kv_bytes is None and isinstance(backend, ReservesMemory):
        most = max(floor, spec.max_sequences * blocks_for(context))
    for purpose, num_bytes in (("scratch", executable.scratch_bytes), ("kv", floor * block_bytes)):
        ledger.reserve(spec.worker, device, num_bytes, purpose=purpose, measured=True)
    if not isinstance(backend, ReservesMemory):
        buffer = backend.allocate(floor * block_bytes)
        executable.bind_pool(buffer, floor)
        return KvPool(buffer=buffer, memory=FixedKv(floor), num_blocks=floor, promised_bytes=floor * block_bytes)
    elastic = backend.reserve(most * block_bytes)
    seat = None
    try:
        executable.bind_pool(elastic, most)
        if spec.pages is not None and (seat := _sit_down(spec, floor * block_bytes, most * block_bytes, emit, go_on)):
            return KvPool(
                buffer=elastic,
                memory=LentKv(elastic, executable, seat),
                num_blocks=most,
                promised_bytes=seat.held() * elastic.page_bytes,
                seat=seat,
            )
        memory = ElasticKv(elastic, executable, floor=blocks_for(context), most=floor)
    except BaseException:
        elastic.free()
        if seat is not None:
            seat.leave()
        raise
    return KvPool(buffer=elastic, memory=memory, num_blocks=floor, promised_bytes=floor * block_bytes)


def size_pool(wanted_bytes: int | None, context: int, block_bytes: int, *, lends: bool = False) -> int:
    """Blocks that are promised. Raises BadParameter if not even one full context fits into what was asked for."""
    one_context = blocks_for(context)
    if wanted_bytes is None:
        contexts = 1 if lends else DEFAULT_CONTEXTS_IN_POOL
        return max(one_context, min(contexts * one_context, DEFAULT_KV_BYTES // block_bytes))
    if wanted_bytes // block_bytes < one_context:
        needed = one_context * block_bytes
        raise BadParameter(
            f"one context of {context} tokens needs {format_bytes(needed)} for keys and values "
            f"({format_bytes(block_bytes)} for each {BLOCK_TOKENS}); kv_bytes is {format_bytes(wanted_bytes)}",
            param="kv_bytes",
            needed_bytes=needed,
            free_bytes=wanted_bytes,
        )
    return wanted_bytes // block_bytes


def _sit_down(
    spec: WorkerSpec, floor_bytes: int, most_bytes: int, emit: Emit, go_on: Callable[[], None]
) -> Seat | None:
    """A seat that holds its floor; None, and told, where there is no board to sit at: then it lives on its floor alone.
    Raises OutOfMemory where the floor cannot be promised, or does not come; and what `go_on` does."""
    board: Board | None = None
    try:
        board = Board.open(Path(spec.pages or ""))
        floor, most = (-(-num_bytes // board.page_bytes) for num_bytes in (floor_bytes, most_bytes))
        seat = board.join(spec.worker, floor=floor, ceiling=most, priority=spec.page_priority)
    except BaseException as error:
        if board is not None:
            board.close()
        if not isinstance(error, OSError | StateUnusable | DeadlineExceeded):
            raise
        message = error.message if isinstance(error, ThaloomError) else str(error)
        emit(PagesNotLent(worker=spec.worker, service=spec.service, message=message))
        return None
    try:
        _wait_for_floor(spec, seat, floor, board.page_bytes, go_on)
    except BaseException:
        seat.leave()
        board.close()
        raise
    return seat


def _wait_for_floor(spec: WorkerSpec, seat: Seat, floor: int, page_bytes: int, go_on: Callable[[], None]) -> None:
    seat.want(floor)
    until = time.monotonic() + FLOOR_PATIENCE_S
    while (missing := floor - seat.held()) > 0 and seat.take(missing) < missing:
        go_on()
        if time.monotonic() > until:
            raise OutOfMemory(
                f"{spec.worker} is promised {floor} pages, and others have given back {seat.held()} of them in "
                f"{FLOOR_PATIENCE_S:.0f} s",
                needed_bytes=floor * page_bytes,
                free_bytes=seat.held() * page_bytes,
            )
        seat.wait(0.2)
