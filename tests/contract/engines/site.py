"""A worker's service over the fake engine, in this process; the engine is a real one, with a keeper of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.runtime.harness import Client
from tests.gguf_files import encode_gguf
from thaloom.base.clock import Clock, SystemClock
from thaloom.base.events import Recorder
from thaloom.base.ids import RequestId, ServiceName, WorkerId
from thaloom.work.runtime.engines.loading import load_foreign
from thaloom.work.runtime.engines.process import EngineProcess
from thaloom.work.runtime.messages import Ask, GetStatus, Reply, WorkerStats
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.types import ChatMessage, GenerateRequest
from thaloom.work.runtime.worker.service import WorkerService

FAKE = Path(__file__).with_name("fake_engine.py")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str, **told: Any) -> None:
    """Put the fake engine on the PATH under these names, in this mood."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    copy = shutil.copy(FAKE, programs)  # behind its walls an engine sees what lies beside the program
    for name in names or ("llama-server",):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {copy} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ENGINE", json.dumps(told))
    monkeypatch.setenv("FAKE_ENGINE_LOG", str(folder / "asked.jsonl"))


def asked(folder: Path) -> list[dict[str, Any]]:
    """What the engine was asked."""
    path = folder / "asked.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def some_gguf(folder: Path) -> Path:
    """A header that is sound, of a model that nobody will compute."""
    path = folder / "some.gguf"
    path.write_bytes(encode_gguf({"general.architecture": "llama", "llama.context_length": 512}, {}))
    return path


def spec_of(folder: Path, **changes: Any) -> WorkerSpec:
    facts: dict[str, Any] = {
        "worker": WorkerId("w-1"), "service": ServiceName("guest"), "model": str(folder / "some.gguf"),
        "store": str(folder), "socket": str(folder / "w.sock"), "engine": "llama.cpp", "max_sequences": 4,
    }  # fmt: skip
    return WorkerSpec(**facts | changes)


@dataclass
class Guest:
    spec: WorkerSpec
    service: WorkerService
    task: asyncio.Task[None]
    events: Recorder

    async def ask(self, message: Any) -> list[Reply]:
        client = await self.connect()
        await client.say(message)
        return await client.rest()

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(self.spec.socket))

    async def status(self) -> WorkerStats:
        (reply,) = await self.ask(GetStatus())
        assert isinstance(reply, WorkerStats)
        return reply


@contextlib.asynccontextmanager
async def guest(
    folder: Path, *, ready: bool = True, ready_s: float = 20.0, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Guest]:
    """A worker over a foreign engine, ready if asked for; ended with it."""
    some_gguf(folder)
    spec = spec_of(folder, **changes)
    events = Recorder()
    start = functools.partial(EngineProcess, log=(folder / "engine.log").open("wb"), grace_s=0.5)
    clock = clock or SystemClock()
    service = WorkerService(
        spec,
        lambda stop: load_foreign(spec, stop, clock, ready_s=ready_s, start=start, environment=os.environ),
        clock=clock,
        emit=events,
    )
    task = asyncio.create_task(service.run())
    made = Guest(spec, service, task, events)
    try:
        async with asyncio.timeout(30):
            while ready and service.phase == "loading" and not task.done():
                await asyncio.sleep(0.005)
        yield made
    finally:
        if not task.done():
            service.stop(0.0)
        await asyncio.gather(task, return_exceptions=True)
        start.keywords["log"].close()


def question(**changes: Any) -> Ask:
    request = GenerateRequest(id=RequestId("r-1"), model="guest", messages=(ChatMessage(role="user", content="hi"),))
    return Ask(request=dataclasses.replace(request, **changes))
