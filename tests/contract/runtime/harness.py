"""A worker's service in this process, over a device that knows only histories and waits when told to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.unit.runtime.doubles import VOCAB, HistoryExecutable
from thaloom.base.clock import SystemClock
from thaloom.base.errors import NotServable
from thaloom.base.events import Recorder
from thaloom.base.ids import DeviceId, Digest, ServiceName, WorkerId
from thaloom.hal.ops import Step
from thaloom.hal.reference import ReferenceBackend
from thaloom.hal.types import Device
from thaloom.kernel.memory.ledger import Ledger
from thaloom.kernel.models.types import Manifest, ModelCard, ModelName
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.core.admission import EngineConfig
from thaloom.work.runtime.core.grammars import Grammars
from thaloom.work.runtime.events import WorkerListening
from thaloom.work.runtime.kv.memory import FixedKv
from thaloom.work.runtime.kv.pool import KvPool
from thaloom.work.runtime.messages import (
    Failed,
    GetStatus,
    Reply,
    Request,
    Tokens,
    WorkerStats,
    encode,
    read_reply,
)
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.text.tokenizer import Vocabulary
from thaloom.work.runtime.worker.connection import Patience
from thaloom.work.runtime.worker.loading import LoadedModel
from thaloom.work.runtime.worker.service import WorkerService

CONTEXT = 4096
NUM_BLOCKS = 600


class GatedExecutable(HistoryExecutable):
    """Waits before each step while `hold` is in force."""

    def __init__(self) -> None:
        super().__init__(NUM_BLOCKS)
        self._open = threading.Event()
        self._open.set()
        self.closed = False

    def hold(self) -> None:
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def run(self, step: Step) -> NDArray[np.float32]:
        assert self._open.wait(20), "held for ever"
        return super().run(step)

    def close(self) -> None:
        self.closed = True


class NoBuffer:
    num_bytes = NUM_BLOCKS * 16

    def free(self) -> None:
        pass


def loaded(executable: HistoryExecutable, *, max_sequences: int = 4, max_queue: int = 8) -> LoadedModel:
    device = Device(
        id=DeviceId("made-up"),
        driver="made-up",
        kind="virtual",
        name="made-up",
        vendor="thaloom",
        memory_bytes=1 << 20,
        num_cores=1,
        dtypes=frozenset({"f32"}),
        isolation="none",
    )
    card = ModelCard(
        architecture="",
        family="",
        num_parameters=0,
        dtypes=("f32",),
        weight_bytes=0,
        context_length=CONTEXT,
        vocab_size=VOCAB,
        has_tokenizer=False,
        has_chat_template=False,
    )
    manifest = Manifest(
        name=ModelName("history"), digest=Digest("0" * 64), files=(), card=card, created_at=0.0, source=""
    )
    return LoadedModel(
        executable=executable,
        pool=KvPool(buffer=NoBuffer(), memory=FixedKv(NUM_BLOCKS), num_blocks=NUM_BLOCKS, promised_bytes=0),
        config=EngineConfig(
            vocab_size=VOCAB,
            context_length=CONTEXT,
            num_blocks=NUM_BLOCKS,
            limits=StepLimits(max_sequences=max_sequences, chunk_tokens=64),
            max_queue=max_queue,
        ),
        ledger=Ledger({}),
        backend=ReferenceBackend(device),
        driver="made-up",
        num_threads=1,
        manifest=manifest,
        operator_levels={},
        grammars=Grammars(no_tokenizer, VOCAB),
    )


def no_tokenizer() -> Vocabulary:
    raise NotServable("a made-up model has no tokenizer")


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, request: Request) -> None:
        self.writer.write(encode(request))
        await self.writer.drain()

    async def hear(self) -> Reply | None:
        return await asyncio.wait_for(read_reply(self.reader), 30)

    async def rest(self) -> list[Reply]:
        """Everything up to the end of the connection."""
        replies = []
        while (reply := await self.hear()) is not None:
            replies.append(reply)
        self.writer.close()
        return replies

    def hang_up(self) -> None:
        self.writer.transport.abort()


@dataclass
class Site:
    """A running service, and what a test may want to look at."""

    spec: WorkerSpec
    service: WorkerService
    executable: GatedExecutable
    events: Recorder
    task: asyncio.Task[None]

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(self.spec.socket))

    async def call(self, request: Request) -> list[Reply]:
        client = await self.connect()
        await client.say(request)
        return await client.rest()

    async def status(self) -> WorkerStats:
        (stats,) = await self.call(GetStatus())
        assert isinstance(stats, WorkerStats)
        return stats

    async def until(self, condition: Callable[[WorkerStats], bool]) -> WorkerStats:
        """Ask until it is so; at most 10 seconds."""
        async with asyncio.timeout(10):
            while not condition(stats := await self.status()):
                await asyncio.sleep(0.002)
        return stats


@contextlib.asynccontextmanager
async def site(
    folder: Path,
    *,
    load: Callable[[threading.Event], LoadedModel] | None = None,
    max_sequences: int = 4,
    max_queue: int = 8,
    max_tokens_behind: int = 4096,
    patience: Patience | None = None,
    last_step_s: float = 10.0,
    ready: bool = True,
) -> AsyncIterator[Site]:
    """A service that is listening (and ready, if asked for), stopped without grace at the end if it still runs."""
    executable = GatedExecutable()
    spec = WorkerSpec(
        worker=WorkerId("w-1"),
        service=ServiceName("history"),
        model="history",
        store=str(folder),
        socket=str(folder / "w.sock"),
        driver="made-up",
        max_sequences=max_sequences,
        max_queue=max_queue,
    )
    events = Recorder()
    service = WorkerService(
        spec,
        load or (lambda stop: loaded(executable, max_sequences=max_sequences, max_queue=max_queue)),
        clock=SystemClock(),
        emit=events,
        max_tokens_behind=max_tokens_behind,
        patience=patience,
        last_step_s=last_step_s,
    )
    task = asyncio.create_task(service.run())
    made = Site(spec, service, executable, events, task)
    try:
        while not events.of(WorkerListening) and not task.done():
            await asyncio.sleep(0.001)
        if ready:
            await made.until(lambda stats: stats.ready)
        yield made
    finally:
        executable.go_on()
        if not task.done():
            service.stop(0.0)
        await asyncio.gather(task, return_exceptions=True)


def tokens_of(replies: list[Reply]) -> list[int]:
    return [token for reply in replies if isinstance(reply, Tokens) for token in reply.tokens]


def error_of(replies: list[Reply]) -> dict[str, object]:
    assert isinstance(replies[-1], Failed), replies
    return replies[-1].error
