"""Real child processes, but no waiting: they end because they are told to."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.events import Recorder
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.init.events import HeartbeatLate, ProcessAdopted, ProcessReady, ProcessStarted, ProcessStopped
from thaloom.init.rounds import probes
from thaloom.init.rounds import supervisor as module
from thaloom.init.rounds.last_words import LastWords
from thaloom.init.rounds.supervisor import Supervised, Supervisor
from thaloom.kernel.state.types import Lease
from thaloom.work.runtime.messages import GetStatus, Shutdown, WorkerStats, encode, read_request

SLEEPER = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]
W = WorkerId("w-1")


class Stage:
    """A supervisor and what it told."""

    def __init__(self, tasks: asyncio.TaskGroup, folder: Path) -> None:
        self.clock = ManualClock()
        self.events = Recorder()
        self.ended: list[tuple[Supervised, LastWords]] = []
        self.told_of_ready: list[int] = []
        """How many events there were, each time it was told."""
        self.news = asyncio.Event()
        self.log = folder / "log"
        self.socket = folder / "w.sock"
        self.supervisor = Supervisor(
            tasks,
            clock=self.clock,
            emit=self.events,
            heartbeat_s=1.0,
            wake=self.news.set,
            on_end=lambda process, words: self.ended.append((process, words)),
            on_ready=lambda: self.told_of_ready.append(len(self.events.of(ProcessReady))),
        )

    def start(self, command: list[str], *, role: str = "worker") -> Supervised:
        return self.supervisor.start(self.lease(role), command, log=self.log, env={})

    def lease(self, role: str = "worker", pid: int = 0, start_ticks: int = 0) -> Lease:
        return Lease(
            id=W,
            role=role,  # type: ignore[arg-type]
            service=ServiceName("a") if role == "worker" else None,
            pid=pid,
            start_ticks=start_ticks,
            socket=str(self.socket) if role == "worker" else "127.0.0.1:9",
            started_at=0.0,
        )

    async def let_time_pass(self, until: Callable[[], bool]) -> None:
        """Virtual seconds, and in between whatever the sockets have to say."""
        async with asyncio.timeout(30):
            while not until():
                await self.clock.advance(1.0)
                await asyncio.sleep(0)

    async def until_ended(self, process: Supervised) -> None:
        while process.alive:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 30)

    async def until_written(self, text: str) -> None:
        """The child has come as far as to say this."""
        async with asyncio.timeout(30):
            while not (self.log.exists() and text in self.log.read_text()):
                await asyncio.sleep(0)


def run(folder: Path, test: Callable[[Stage], Awaitable[None]]) -> None:
    async def go() -> None:
        async with asyncio.TaskGroup() as tasks:
            stage = Stage(tasks, folder)
            try:
                await test(stage)
                stage.supervisor.check()
            finally:
                stage.supervisor.kill_all()

    asyncio.run(go())


def test_an_end_nobody_asked_for_is_told_with_the_last_words(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        stage.log.write_text("an earlier life\n")
        process = stage.start([sys.executable, "-c", "raise SystemExit('boom')"])
        assert process.lease.pid == process.identity.pid > 0
        await stage.until_ended(process)
        ((ended, words),) = stage.ended
        assert ended is process
        assert words == LastWords(message="boom")
        assert stage.supervisor.observe()[0].alive is False
        stage.supervisor.forget(W)
        assert stage.supervisor.observe() == ()
        assert len(stage.events.of(ProcessStarted)) == 1

    run(tmp_path, test)


def test_a_worker_that_takes_no_message_is_stopped_by_signal(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        process = stage.start(SLEEPER)
        stage.supervisor.stop(process, reason="no longer wished", grace_s=30)
        stage.supervisor.stop(process, reason="again", grace_s=30)
        assert stage.supervisor.observe()[0].stopping
        await stage.until_ended(process)
        assert stage.ended == []
        (stopped,) = stage.events.of(ProcessStopped)
        assert stopped.fields()["reason"] == "no longer wished"

    run(tmp_path, test)


def test_a_process_deaf_to_signals_is_killed_after_its_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_STEP_S", 0.0)

    async def test(stage: Stage) -> None:
        process = stage.start(STUBBORN, role="door")
        await stage.until_written("deaf")
        stage.supervisor.stop(process, reason="down", grace_s=0.01)
        await stage.until_ended(process)
        assert len(stage.events.of(ProcessStopped)) == 1

    run(tmp_path, test)


def test_killing_all_counts_as_asked_for(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        process = stage.start(STUBBORN, role="door")
        await stage.until_written("deaf")
        stage.supervisor.stop(process, reason="down", grace_s=600)
        stage.supervisor.kill_all()
        await stage.until_ended(process)
        assert stage.ended == []

    run(tmp_path, test)


def test_a_worker_tells_how_it_is_and_takes_the_word_to_finish(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        asked: list[object] = []
        process = stage.start(SLEEPER)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await read_request(reader)
            asked.append(request)
            if isinstance(request, GetStatus):
                writer.write(encode(stats(pid=process.lease.pid)))
            elif isinstance(request, Shutdown):
                process.identity.send(signal.SIGKILL)
            writer.close()

        server = await asyncio.start_unix_server(answer, str(stage.socket))
        async with server:
            await stage.let_time_pass(lambda: process.ready_since is not None)
            assert process.stats is not None
            assert process.stats.model == "m"
            assert len(stage.events.of(ProcessReady)) == 1
            assert stage.told_of_ready == [0], "once, and before others"
            stage.supervisor.stop(process, reason="down", grace_s=5.0)
            await stage.until_ended(process)
        assert Shutdown(grace_s=5.0) in asked

    run(tmp_path, test)


def test_a_worker_is_unloaded_when_it_agrees_and_not_before(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        asked: list[Shutdown] = []
        agrees = False
        process = stage.start(SLEEPER)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await read_request(reader)
            told = msgspec.structs.replace(stats(pid=process.lease.pid), idle_s=60.0)
            if isinstance(request, Shutdown):
                asked.append(request)
                told = msgspec.structs.replace(told, phase="stopping" if agrees else "ready")
            writer.write(encode(told))
            writer.close()

        async with await asyncio.start_unix_server(answer, str(stage.socket)):
            await stage.let_time_pass(lambda: process.ready_since is not None)
            now = stage.clock.monotonic()
            assert process.idle_s(now + 5.0) == pytest.approx(65.0 + now - (process.answered_at or 0.0))
            assert not await stage.supervisor.unload(process, 30.0, reason="idle")
            assert (process.stop_reason, process.idle_s(now)) == (None, None)
            agrees = True
            assert await stage.supervisor.unload(process, 30.0, reason="idle")
            assert process.stop_reason == "idle"
            assert [one.if_idle_s for one in asked[:2]] == [30.0, 30.0]
        process.identity.send(signal.SIGTERM)
        await stage.until_ended(process)
        assert stage.ended == []

    run(tmp_path, test)


def test_a_worker_that_is_silent_is_not_unloaded(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        process = stage.start(SLEEPER)
        process.stats, process.answered_at = msgspec.structs.replace(stats(), idle_s=60.0), 0.0
        process.late = True
        assert process.idle_s(1000.0) is None
        assert not await stage.supervisor.unload(process, 0.0, reason="idle")
        assert process.stop_reason is None
        assert process.identity.alive()

    run(tmp_path, test)


def test_the_socket_of_another_worker_is_not_taken_for_ours(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        process = stage.start(SLEEPER)
        questions = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal questions
            questions += 1
            await read_request(reader)
            writer.write(encode(stats(worker="w-other")))
            writer.close()

        async with await asyncio.start_unix_server(answer, str(stage.socket)):
            await stage.let_time_pass(lambda: questions >= 3)
        assert process.ready_since is None
        assert process.stats is None

    run(tmp_path, test)


def test_silence_is_told_once_and_nothing_is_done_about_it(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        process = stage.start(SLEEPER)
        process.ready_since = 0.0
        await stage.let_time_pass(lambda: process.late)
        told_at = stage.clock.monotonic()
        await stage.let_time_pass(lambda: stage.clock.monotonic() > told_at + 3 * module.LATE_AFTER_S)
        (late,) = stage.events.of(HeartbeatLate)
        assert late.fields()["silent_s"] >= module.LATE_AFTER_S
        assert process.alive
        assert process.identity.alive()
        assert stage.ended == []

    run(tmp_path, test)


def test_an_adopted_process_that_was_ready_counts_as_ready(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        started = stage.start(SLEEPER)
        identity = started.identity
        stage.supervisor.forget(W)
        lease = stage.lease(pid=identity.pid, start_ticks=identity.start_ticks)
        adopted = await stage.supervisor.adopt(lease, log=stage.log, was_ready=True)
        assert adopted.ready_since is not None
        assert len(stage.events.of(ProcessAdopted)) == 1
        identity.send(signal.SIGKILL)
        await stage.until_ended(adopted)

    run(tmp_path, test)


def stats(*, worker: str = W, pid: int = 1) -> WorkerStats:
    numbers = {
        name: 1
        for name in WorkerStats.__struct_fields__
        if name.endswith(("_total", "_bytes", "_blocks")) or name in ("num_threads", "context_length", "vocab_size")
    }
    return WorkerStats(
        worker=worker,
        service="a",
        model="m",
        model_digest="d",
        pid=pid,
        ready=True,
        device="cpu",
        driver="cpu",
        exact=True,
        operator_levels={},
        degraded=None,
        running=0,
        waiting=0,
        **numbers,  # type: ignore[arg-type]
    )


def test_a_worker_that_agreed_and_was_not_heard_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends all the same: that it did is no loss, and nobody starts it again."""
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_S", 0.2)

    async def test(stage: Stage) -> None:
        asked = 0
        process = stage.start(SLEEPER)
        process.ready_since = 0.0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            if isinstance(await read_request(reader), Shutdown):
                asked += 1
                if asked == 1:
                    await reader.read()  # it took the question, and its answer comes too late
                else:
                    writer.write(encode(msgspec.structs.replace(stats(pid=process.lease.pid), phase="stopping")))
            writer.close()

        async with await asyncio.start_unix_server(answer, str(stage.socket)):
            assert await stage.supervisor.unload(process, 30.0, reason="idle")
        assert asked >= 2
        process.identity.send(signal.SIGTERM)
        await stage.until_ended(process)
        assert stage.ended == []

    run(tmp_path, test)


def test_a_worker_that_took_its_socket_away_has_agreed(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        process = stage.start(SLEEPER)
        process.ready_since = 0.0
        assert not stage.socket.exists()
        assert await stage.supervisor.unload(process, 30.0, reason="idle")
        process.identity.send(signal.SIGTERM)
        await stage.until_ended(process)
        assert stage.ended == []

    run(tmp_path, test)
