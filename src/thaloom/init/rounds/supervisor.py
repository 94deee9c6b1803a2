"""The processes of this node: started, watched by pidfd, asked how they are, stopped in an orderly way.

It keeps no wishes and decides nothing: it knows what runs, tells `on_end` when something ended, and wakes the
reconciler. A process that is silent stays; only its end or an order takes it away.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from thaloom.base.clock import Clock
from thaloom.base.events import Emit
from thaloom.base.ids import WorkerId
from thaloom.base.procs import ProcessIdentity, spawn
from thaloom.init.events import HeartbeatLate, ProcessAdopted, ProcessReady, ProcessStarted, ProcessStopped
from thaloom.init.rounds import probes
from thaloom.init.rounds.last_words import LastWords, read_last_words
from thaloom.init.rounds.reconcile import Observed
from thaloom.kernel.state.types import Lease
from thaloom.work.runtime.messages import WorkerStats

_YOUNG_POLL_S, _YOUNG_S = 0.02, 2.0
_LOADING_POLL_S = 0.1
"""Between two looks at a process that is not ready yet: one that was waiting to be started, and finds its weights
where they were, is ready in a tenth of a second."""
LATE_AFTER_S = 10.0
"""Silence of a worker that is worth a condition."""
UNLOADING_S = 10.0
"""For what has nothing to answer any more: to give back what it holds, of which there may be much."""
_QUESTIONS = 3
"""How often a worker is asked to unload that does not say whether it will."""
LAST_STEP_S = 1.0
"""What a process may take beyond its grace to end by itself, before it is killed."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Supervised:
    """One process of ours. Changed by the Supervisor alone."""

    lease: Lease
    identity: ProcessIdentity
    log: Path
    log_offset: int
    """Where its own words begin in `log`; 0 for an adopted one."""
    born_at: float
    """Monotonic; of an adopted one, the moment of its adoption."""
    alive: bool = True
    stop_reason: str | None = None
    killed: bool = False
    """It was asked to end, did not, and was killed."""
    ready_since: float | None = None
    answered_at: float | None = None
    late: bool = False
    stats: WorkerStats | None = None
    """Of a worker: its last account of itself."""

    @property
    def id(self) -> WorkerId:
        return self.lease.id

    def idle_s(self, now: float) -> float | None:
        """For how long nobody has asked it anything; None: it is answering, or not ready, or silent: nobody knows."""
        told = None if self.stats is None or self.late else self.stats.idle_s
        return None if told is None or self.answered_at is None else told + now - self.answered_at

    def observed(self) -> Observed:
        return Observed(
            id=self.lease.id,
            role=self.lease.role,
            service=self.lease.service,
            revision=self.lease.revision,
            address=self.lease.socket,
            alive=self.alive,
            was_ready=self.ready_since is not None,
            stopping=self.stop_reason is not None,
        )


class Supervisor:
    """Owner of every Supervised, and, by `tasks`, of everything that waits for one."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        *,
        clock: Clock,
        emit: Emit,
        heartbeat_s: float,
        wake: Callable[[], None],
        on_end: Callable[[Supervised, LastWords], None],
        on_ready: Callable[[], None] = lambda: None,
        named: Callable[[WorkerId, int | None, LastWords, Path], LastWords] = lambda _id, _status, words, _log: words,
    ) -> None:
        """`on_end(process, last_words)` is told of each end nobody had asked for, `on_ready()` of each that has come to
        be ready, before anybody can ask. `named(id, status, last_words, log)` may know better what ended it; `status`
        as ProcessIdentity.wait gives it."""
        self._tasks = tasks
        self._clock = clock
        self._emit = emit
        self.heartbeat_s = heartbeat_s
        self._wake = wake
        self._on_end = on_end
        self._on_ready = on_ready
        self._named = named
        self._processes: dict[WorkerId, Supervised] = {}

    def __iter__(self) -> Iterator[Supervised]:
        return iter(list(self._processes.values()))

    def get(self, process: WorkerId) -> Supervised | None:
        return self._processes.get(process)

    def observe(self) -> tuple[Observed, ...]:
        return tuple(process.observed() for process in self)

    def start(
        self, lease: Lease, command: Sequence[str], *, log: Path, env: dict[str, str], pass_fds: Sequence[int] = ()
    ) -> Supervised:
        """Run `command`; the lease comes back in the Supervised with the pid it has got. Raises OSError."""
        log_offset = size_of(log)
        return self.take(lease, spawn(command, log=log, env=env, pass_fds=pass_fds), log=log, log_offset=log_offset)

    def take(self, lease: Lease, identity: ProcessIdentity, *, log: Path, log_offset: int) -> Supervised:
        """Supervise one that has just begun; the lease comes back with its pid."""
        lease = dataclasses.replace(lease, pid=identity.pid, start_ticks=identity.start_ticks)
        process = self._keep(lease, identity, log, log_offset)
        self._emit(ProcessStarted(role=lease.role, id=lease.id, pid=lease.pid, service=lease.service))
        return process

    async def adopt(self, lease: Lease, *, log: Path, was_ready: bool) -> Supervised:
        """Take over the living process of an earlier daemon; nothing is done to it, and it is asked how it is.

        One that was ready counts as ready even if it is silent now.
        """
        identity = ProcessIdentity(pid=lease.pid, start_ticks=lease.start_ticks)
        process = self._keep(lease, identity, log, 0)
        if await self._ask(process):
            process.answered_at = self._clock.monotonic()
        if was_ready and process.ready_since is None:
            process.ready_since = self._clock.monotonic()
        self._emit(ProcessAdopted(role=lease.role, id=lease.id, pid=lease.pid, service=lease.service))
        return process

    def stop(self, process: Supervised, *, reason: str, grace_s: float) -> None:
        """Begin to stop it; a second time does nothing. It stays among the processes until `forget`."""
        if process.stop_reason is None and process.alive:
            process.stop_reason = reason
            self._tasks.create_task(self._stop(process, grace_s), name=f"stop {process.id}")

    async def unload(self, process: Supervised, if_idle_s: float, *, reason: str) -> bool:
        """Begin to stop a worker if it agrees that nobody has asked it anything for so long; whether it did."""
        if not process.alive or process.stop_reason is not None:
            return True
        process.stop_reason = reason  # before it is asked: it may have ended before its answer is read
        if await self._agrees(process, if_idle_s):
            self._tasks.create_task(self._stop(process, UNLOADING_S), name=f"stop {process.id}")
            return True
        process.stop_reason = None
        if process.stats is not None:  # until it says otherwise
            process.stats = msgspec.structs.replace(process.stats, idle_s=None)
        return not process.alive

    async def _agrees(self, process: Supervised, if_idle_s: float) -> bool:
        """Whether it ends if it is idle. It is asked again where it did not say: it answers the same, or is gone."""
        socket = Path(process.lease.socket)
        for _ in range(_QUESTIONS):
            answer = await probes.ask_to_unload(socket, if_idle_s=if_idle_s, grace_s=UNLOADING_S)
            if answer is not None:
                return answer
        return process.ready_since is not None and _is_gone(socket)  # it takes that away when it ends

    def kill_all(self) -> None:
        """Cut short what is being stopped, and stop the rest the same way."""
        for process in self:
            if process.alive:
                process.stop_reason = process.stop_reason or "killed"
                process.killed = process.identity.send(signal.SIGKILL)

    def forget(self, process: WorkerId) -> None:
        """Drop one that has ended."""
        self._processes.pop(process, None)

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        for key, process in self._processes.items():
            assert key == process.lease.id, "a process lies under another's id"
            assert process.lease.pid == process.identity.pid, "a lease names another process"
            assert process.alive or not process.identity.alive(), "a living process is booked as dead"

    def _keep(self, lease: Lease, identity: ProcessIdentity, log: Path, log_offset: int) -> Supervised:
        process = Supervised(
            lease=lease, identity=identity, log=log, log_offset=log_offset, born_at=self._clock.monotonic()
        )
        self._processes[lease.id] = process
        self._tasks.create_task(self._watch(process), name=f"watch {lease.id}")
        return process

    async def _watch(self, process: Supervised) -> None:
        probe = self._tasks.create_task(self._probe(process), name=f"probe {process.id}")
        status = await process.identity.wait()
        probe.cancel()
        process.alive = False
        if process.stop_reason is not None:
            lease = process.lease
            self._emit(
                ProcessStopped(
                    role=lease.role,
                    id=lease.id,
                    pid=lease.pid,
                    reason=process.stop_reason,
                    service=lease.service,
                    killed=process.killed,
                )
            )
        else:
            self._on_end(process, self._named(process.id, status, self._last_words(process), process.log))
        self._wake()

    def _last_words(self, process: Supervised) -> LastWords:
        return read_last_words(Path(f"{process.lease.socket}.failure.json"), process.log, process.log_offset)

    async def _probe(self, process: Supervised) -> None:
        while True:
            answered = await self._ask(process)
            now = self._clock.monotonic()
            if answered:
                process.answered_at, process.late = now, False
            elif process.ready_since is not None:
                self._note_silence(process, now)
            await self._clock.sleep(self._next_look_s(process, now))

    def _next_look_s(self, process: Supervised, now: float) -> float:
        if process.ready_since is not None:
            return self.heartbeat_s
        return _YOUNG_POLL_S if now - process.born_at < _YOUNG_S else _LOADING_POLL_S

    async def _ask(self, process: Supervised) -> bool:
        if process.lease.role == "door":
            answered = ready = await probes.door_answers(process.lease.socket)
        else:
            stats = await probes.worker_stats(Path(process.lease.socket))
            answered = stats is not None and stats.worker == process.id
            ready = answered and stats is not None and stats.ready
            if answered:
                process.stats = stats
        if ready and process.ready_since is None:
            self._note_ready(process)
        return answered

    def _note_ready(self, process: Supervised) -> None:
        process.ready_since = self._clock.monotonic()
        lease = process.lease
        after_s = round(process.ready_since - process.born_at, 3)
        self._on_ready()
        self._emit(ProcessReady(role=lease.role, id=lease.id, pid=lease.pid, after_s=after_s, service=lease.service))
        self._wake()

    def _note_silence(self, process: Supervised, now: float) -> None:
        silent_s = now - (process.answered_at or process.born_at)
        if silent_s >= LATE_AFTER_S and not process.late:
            process.late = True
            self._emit(HeartbeatLate(service=process.lease.service, worker=process.id, silent_s=round(silent_s, 1)))
            self._wake()

    async def _stop(self, process: Supervised, grace_s: float) -> None:
        """Orderly first: a worker by message (it finishes its answers), a door by SIGTERM; then SIGKILL."""
        if process.lease.role == "worker" and await probes.ask_to_finish(Path(process.lease.socket), grace_s):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s + LAST_STEP_S):
                    await process.identity.wait()
            process.killed = process.identity.send(signal.SIGKILL)
        else:
            await self._end(process, grace_s + LAST_STEP_S)

    async def _end(self, process: Supervised, grace_s: float) -> None:
        process.identity.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await process.identity.wait()
        process.killed = process.identity.send(signal.SIGKILL)


def _is_gone(path: Path) -> bool:
    return not path.exists()


def size_of(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0
