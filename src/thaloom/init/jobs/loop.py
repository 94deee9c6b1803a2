"""The rounds over jobs: look, decide, do, look again, until there is nothing to do; then sleep until something happens.

Beside the services' own loop, so that ten thousand jobs cost no service a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from thaloom.base.clock import Clock, first_of
from thaloom.base.errors import OutOfMemory, ThaloomError
from thaloom.base.events import Emit
from thaloom.base.ids import JobName
from thaloom.base.procs import ProcessIdentity
from thaloom.init.events import RoundFailed
from thaloom.init.jobs.config import JobsConfig
from thaloom.init.jobs.confining import JobWalls, group_name
from thaloom.init.jobs.decide import Ask, Close, Conclude, Forget, Snapshot, Start, Step, decide, next_look_at
from thaloom.init.jobs.events import JobStepFailed
from thaloom.init.jobs.files import job_folders
from thaloom.init.jobs.hands import Hands, process_id
from thaloom.init.jobs.memory import JobMemory, owner
from thaloom.init.jobs.runs import REAPER, Runs
from thaloom.init.layout import Layout
from thaloom.init.recovery import Running
from thaloom.kernel.state.jobs.types import Job
from thaloom.kernel.state.reserve import is_full
from thaloom.kernel.state.store import StateStore

_MOST_PASSES = 10_000
"""In one round; more means that doing something does not make it so."""
_AFTER_ERROR_S = 1.0
_CLEARING_S = 0.05


class JobLoop:
    """What it remembers is in the store and in Runs; everything else it looks up."""

    def __init__(
        self,
        layout: Layout,
        config: JobsConfig,
        *,
        store: StateStore,
        walls: JobWalls,
        memory: JobMemory,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        emit: Emit,
        tick_s: float,
        going_down: Callable[[], bool],
    ) -> None:
        self._layout = layout
        self._config = config
        self._store = store
        self._walls = walls
        self._memory = memory
        self._tasks = tasks
        self._clock = clock
        self._emit = emit
        self._tick_s = tick_s
        self.going_down = going_down
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._waiting: set[asyncio.Future[None]] = set()
        self._next: float | None = None
        self._ends: tuple[int, list[tuple[float, JobName]]] = (0, [])
        self.failures = 0
        """Rounds that ended in an error of ours."""
        self.runs = Runs(layout.jobs, walls=walls, tasks=tasks, clock=clock, emit=emit, wake=self.wake)
        self._hands = Hands(store, runs=self.runs, walls=walls, memory=memory, config=config, clock=clock, emit=emit)
        memory.memory.others = self._used

    def wake(self) -> None:
        """Something changed: look again soon."""
        self._news.set()

    async def changed(self, within_s: float) -> None:
        """Return after the next round, or after so many seconds."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await waiting
        finally:
            self._waiting.discard(waiting)

    # -- the start

    def adopt(self, running: Sequence[Running]) -> set[str]:
        """Take over what an earlier daemon had begun; returns how that is called in the journal. `running`: all
        processes of this user. Blocks for some milliseconds."""
        alive: set[str] = set()
        for name, job in self._store.jobs.active.items():
            state = job.state
            if state.phase == "running" and self.runs.look_for(job.spec, state.num_attempts, running):
                alive.add(process_id(name, state.num_attempts))
                self._memory.adopt(job.spec, state.last.devices if state.last else ())
        return alive

    def kept_groups(self, running: Sequence[Running]) -> set[str]:
        """The control groups that somebody owns, strangers too: those end in an orderly way."""
        kept = {name: self.runs.get(name) for name in self._store.jobs.active}
        strangers = {group_name(name, attempt) for name, attempt, _ in self._strangers(running)}
        return strangers | {group_name(name, run.attempt) for name, run in kept.items() if run is not None}

    async def sweep(self, running: Sequence[Running]) -> None:
        """What nobody owns any more: reapers of jobs that are gone, folders, files of attempts that are over."""
        for name, attempt, reaper in self._strangers(running):
            self._tasks.create_task(self._end_stranger(name, attempt, reaper), name=f"stop stranger {name}")
        await asyncio.to_thread(self._sweep_folders)

    def _strangers(self, running: Sequence[Running]) -> Iterator[tuple[JobName, int, ProcessIdentity]]:
        """Reapers of attempts that nobody knows."""
        for process in running:
            plan = next((Path(word) for word in process.arguments if word.startswith(f"{self._layout.jobs}/")), None)
            if plan is None or str(REAPER) not in process.arguments or not plan.stem.isdigit():
                continue
            name, attempt = JobName(plan.parent.name), int(plan.stem)
            kept = self.runs.get(name)
            if kept is None or kept.attempt != attempt:
                yield name, attempt, process.identity

    async def _end_stranger(self, name: JobName, attempt: int, reaper: ProcessIdentity) -> None:
        """By SIGTERM: it ends its program in an orderly way, and by itself."""
        files = self.runs.files(name)
        reaper.send(signal.SIGTERM)
        await reaper.wait()
        while not await asyncio.to_thread(self._walls.end, name, attempt, files, self.runs.mark(name, attempt)):
            await self._clock.sleep(_CLEARING_S)
        files.forget(attempt)
        if self._store.jobs.find(name) is None:
            await asyncio.to_thread(files.remove)

    def _sweep_folders(self) -> None:
        for name, files in job_folders(self._layout.jobs):
            job = self._store.jobs.find(name)
            if job is None and files.keeper() is None:
                files.remove()
            elif job is not None:
                present = job.state.num_attempts if job.state.phase == "running" else 0
                for attempt in files.attempts() - {present, job.state.num_attempts + 1}:
                    files.forget(attempt)

    # -- the rounds

    async def hold_still(self) -> None:
        """Return when nothing is being started; nothing begins any more."""
        await self._turn.acquire()

    async def run(self) -> None:
        """Rounds, until the node is going down and no job runs."""
        while not await self.settle():
            await self._sleep()

    async def settle(self) -> bool:
        """One whole round now; whether all is at rest for good. An error of ours is told and counted."""
        async with self._turn:
            try:
                return await self._round()
            except Exception as error:  # noqa: BLE001 - a supervisor: logged, counted, tried again
                self.failures += 1
                self._emit(RoundFailed(failures=self.failures, message=f"{type(error).__name__}: {error}"))
                self._retry_soon()
                return False

    def look(self) -> Snapshot:
        """The present."""
        jobs = self._store.jobs
        return Snapshot(
            now=self._clock.now(),
            going_down=self.going_down(),
            active=jobs.active,
            known=jobs.known,
            runs=self.runs.observe(),
            free_bytes=self._memory.free_bytes() if jobs.active else 0,
            free_devices=self._memory.free_devices() if jobs.active else 0,
            default_bytes=self._config.memory_bytes,
            max_running=self._config.max_running,
            disk_full=is_full(self._layout.home),
            expired=self._expired(),
        )

    async def _round(self) -> bool:
        self._news.clear()
        for _ in range(_MOST_PASSES):
            snapshot = self.look()
            steps = decide(snapshot)
            if not steps:
                break
            if not await self._perform(steps):
                self._retry_soon()
                break
        else:
            raise RuntimeError(f"{_MOST_PASSES} passes and no end; the last step: {steps[0]!r}")
        self._next = self._next_look(snapshot)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        return snapshot.going_down and not snapshot.runs

    async def _perform(self, steps: Sequence[Step]) -> bool:
        """Whether to go on with this round: what failed is tried again later."""
        closing = [step for step in steps if isinstance(step, Close)]
        forgetting = [step for step in steps if isinstance(step, Forget)]
        went_well = True
        for step in steps:
            match step:
                case Start():
                    went_well &= await self._start(step)
                case Ask():
                    self._hands.ask(step)
                case Conclude():
                    self._hands.conclude(step)
                case Close() | Forget():
                    pass
        if closing:
            self._hands.close(closing)
        if forgetting:
            await self._hands.forget(forgetting)
        return went_well

    async def _start(self, step: Start) -> bool:
        """Whether to go on with this round: what failed is tried again later."""
        try:
            await self._hands.start(step)
        except OutOfMemory:  # somebody else was faster; a later look sees it
            return False
        except (ThaloomError, OSError) as error:
            message = error.message if isinstance(error, ThaloomError) else str(error)
            self._emit(JobStepFailed(job=step.job, step="start", message=message))
            return False
        return True

    def _expired(self) -> tuple[JobName, ...]:
        """Over for longer than was wished, or the oldest of too many."""
        jobs = self._store.jobs
        if self._ends[0] != jobs.version:
            ends = [
                (0.0 if job.state.remove_asked else job.state.since + (job.spec.ttl_s or 0.0), name)
                for name, job in jobs.known.items()
                if (job.spec.ttl_s is not None or job.state.remove_asked) and job.state.over
            ]
            if (surplus := len(jobs.known) - len(jobs.active) - self._config.keep_ended) > 0:
                over = sorted((job.state.since, name) for name, job in jobs.known.items() if job.state.over)
                ends += [(0.0, name) for _, name in over[:surplus]]
            self._ends = (jobs.version, sorted(ends))
        now = self._clock.now()
        return tuple(dict.fromkeys(name for moment, name in self._ends[1] if moment <= now))

    def _next_look(self, snapshot: Snapshot) -> float | None:
        moments = [moment for moment, _ in self._ends[1] if moment > snapshot.now][:1]
        if (moment := next_look_at(snapshot)) is not None:
            moments.append(moment)
        return min(moments, default=None)

    def _used(self) -> dict[str, int]:
        """What running jobs hold of the host's memory, as far as it is counted."""
        found = {}
        for name in self.runs.observe():
            if (used := self.used_bytes(name)) is not None:
                found[owner(name)] = used
        return found

    def used_bytes(self, job: JobName) -> int | None:
        kept = self.runs.get(job)
        if kept is None or kept.end is not None:
            return None
        return self._walls.usage(job, kept.attempt, kept.files).memory_bytes

    def pid(self, job: Job) -> int | None:
        """Of its program."""
        kept = self.runs.get(job.spec.name)
        claim = None if kept is None or kept.end is not None else kept.files.claim(kept.attempt)
        return None if claim is None or claim.program is None else claim.program.pid

    async def _sleep(self) -> None:
        """Until there is news, something is due, or the slow tick comes."""
        wait_s = self._tick_s
        if self._next is not None:
            wait_s = min(wait_s, max(0.0, self._next - self._clock.now()))
        await first_of(self._news.wait(), self._clock.sleep(wait_s))

    def _retry_soon(self) -> None:
        asyncio.get_running_loop().call_later(_AFTER_ERROR_S, self.wake)
