"""The worker as a process of its own: how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.runtime.harness import Client, error_of
from tests.models import make_model
from tests.unit.runtime.doubles import ask
from thaloom.base.clock import SystemClock
from thaloom.base.files import write_atomic
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.messages import Accepted, Finished, GetStatus, Tokens, WorkerStats
from thaloom.work.runtime.spec import WorkerSpec, write_spec


@dataclass(frozen=True)
class Worker:
    spec: WorkerSpec
    process: subprocess.Popen[str]

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(self.spec.socket))

    async def ready(self) -> WorkerStats:
        async with asyncio.timeout(60):
            while True:
                assert self.process.poll() is None, "it ended before it was ready"
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    client = await self.connect()
                    await client.say(GetStatus())
                    (stats,) = await client.rest()
                    assert isinstance(stats, WorkerStats)
                    if stats.ready:
                        return stats
                await asyncio.sleep(0.01)

    async def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Its exit code and its log."""
        log, _ = await asyncio.to_thread(self.process.communicate, timeout=60)
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]


@contextlib.asynccontextmanager
async def worker(folder: Path, **changes: Any) -> AsyncIterator[Worker]:
    """Serves a small random model on a made-up device that the file `faults` commands."""
    store = ModelStore(folder / "models", SystemClock())
    store.import_path(make_model(folder / "model"), ModelName.parse("small"))
    fields: dict[str, Any] = {
        "worker": WorkerId("w-1"),
        "service": ServiceName("s"),
        "model": "small",
        "store": str(folder / "models"),
        "socket": str(folder / "w.sock"),
        "driver": "virtual",
    }
    spec = WorkerSpec(**fields | changes)
    write_spec(folder / "spec.json", spec)
    device = {"id": "virtual:0", "faults_file": str(folder / "faults")}
    process = subprocess.Popen(  # noqa: ASYNC220 - its pipes are read in a thread
        [sys.executable, "-m", "thaloom.worker", "--spec", str(folder / "spec.json")],
        env=os.environ | {"THALOOM_VIRTUAL_DEVICES": json.dumps([device])},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Worker(spec, process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def command(folder: Path, fault: str) -> None:
    """Make the device show a fault from its next step on."""
    write_atomic(folder / "faults", json.dumps([fault]))


async def streaming(made: Worker) -> Client:
    """A client in the middle of an answer of 200 tokens."""
    client = await made.connect()
    await client.say(ask([1, 2, 3], 200))
    assert isinstance(await client.hear(), Accepted)
    assert isinstance(await client.hear(), Tokens)
    return client


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_come_to_their_end(tmp_path: Path, signum: signal.Signals) -> None:
    async def story() -> None:
        async with worker(tmp_path) as made:
            stats = await made.ready()
            assert stats.pid == made.process.pid
            client = await streaming(made)
            made.process.send_signal(signum)
            replies = await client.rest()
            assert isinstance(replies[-1], Finished)
            assert replies[-1].completion_tokens == 200
            code, log = await made.end()
            assert code == 0
            assert [line["event"] for line in log] == [
                "WorkerListening", "WorkerReady", "WorkerDraining", "WorkerStopped",
            ]  # fmt: skip
            assert not Path(made.spec.socket).exists()
            assert not made.spec.failure_path.exists()

    asyncio.run(story())


def test_a_killed_worker_is_the_end_of_its_streams(tmp_path: Path) -> None:
    async def story() -> None:
        async with worker(tmp_path) as made:
            await made.ready()
            command(tmp_path, "slow")
            client = await streaming(made)
            made.process.kill()
            replies = await client.rest()
            assert not any(isinstance(reply, Finished) for reply in replies)

    asyncio.run(story())


def test_a_lost_device_ends_it_and_says_so_everywhere(tmp_path: Path) -> None:
    async def story() -> None:
        async with worker(tmp_path) as made:
            await made.ready()
            command(tmp_path, "slow")
            client = await streaming(made)
            command(tmp_path, "lost")
            replies = await client.rest()
            assert error_of(replies)["code"] == "device_lost"
            code, log = await made.end()
            assert code == 7
            assert (log[-1]["event"], log[-1]["code"], log[-1]["level"]) == ("WorkerFailed", "device_lost", "error")
            assert json.loads(made.spec.failure_path.read_text())["code"] == "device_lost"
            assert not Path(made.spec.socket).exists()

    asyncio.run(story())


def test_why_it_cannot_start_is_left_for_the_daemon(tmp_path: Path) -> None:
    async def story() -> None:
        async with worker(tmp_path, model="absent") as made:
            code, log = await made.end()
            assert code == 3
            assert log[-1]["code"] == "model_not_found"
            assert json.loads(made.spec.failure_path.read_text())["code"] == "model_not_found"

    asyncio.run(story())


def test_a_spec_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "thaloom.worker", "--spec", str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stderr)["code"] == "bad_parameter"
