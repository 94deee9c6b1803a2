"""Carrying out what was decided on jobs. A start is in the journal before it is made, and how it went after."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thaloom.base.actions import RECONCILER
from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, DiskFull, ThaloomError
from thaloom.base.events import Emit
from thaloom.base.ids import JobName
from thaloom.init.jobs.config import JobsConfig
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.decide import Ask, Close, Conclude, Forget, Start
from thaloom.init.jobs.environment import variables
from thaloom.init.jobs.events import JobAttemptFailed, JobEnded, JobFailed, JobForgotten
from thaloom.init.jobs.files import JobFiles
from thaloom.init.jobs.lifecycle import End, begun, ended, over
from thaloom.init.jobs.memory import JobMemory
from thaloom.init.jobs.reaper.plan import ReaperPlan
from thaloom.init.jobs.runs import Runs
from thaloom.kernel.sandbox.disk import make_disk
from thaloom.kernel.state.jobs.types import Job, JobSpec
from thaloom.kernel.state.reserve import is_full
from thaloom.kernel.state.store import StateStore


class Hands:
    """Each method is one step; it raises ThaloomError or OSError if it failed, and can be asked for again."""

    def __init__(
        self,
        store: StateStore,
        *,
        runs: Runs,
        walls: JobWalls,
        memory: JobMemory,
        config: JobsConfig,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._store = store
        self._runs = runs
        self._walls = walls
        self._memory = memory
        self._config = config
        self._clock = clock
        self._emit = emit

    async def start(self, step: Start) -> None:
        """Order: journal, the attempt in the state, files, the reaper, journal. A kill in between leaves an attempt
        that is begun again, for it came to nothing, or is found (Runs.look_for)."""
        job = self._store.jobs.find(step.job)
        if job is None or not _still(job, step.attempt):
            return
        journal, by = self._store.journal, str(RECONCILER)
        process = process_id(step.job, step.attempt)
        record = {"job": step.job, "attempt": step.attempt, "process": process}
        intent = journal.append("StartJob", record, phase="intent", by=by)
        outcome: dict[str, Any] = {"process": process, "done": False}
        try:
            failed = await self._start(job, step.attempt)
            outcome |= {"done": True} if failed is None else {"error": failed}
        except Exception as error:
            outcome["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            journal.append(intent.kind, outcome, action=intent.action, by=by)

    async def _start(self, job: Job, attempt: int) -> str | None:
        """Why it cannot be started; None if it was. Raises OSError, DiskFull while the node's disk is full: that says
        nothing about the job, which is begun again under the same number."""
        spec, state, now = job.spec, job.state, self._clock.now()
        files = self._runs.files(spec.name)
        self._memory.release(spec.name)
        try:
            devices = self._memory.book(spec)
            await self._memory.returned(spec)
            if state.num_attempts < attempt:
                state = begun(state, now, devices)
            if state.last is not None and state.last.devices != devices:
                state = dataclasses.replace(
                    state, attempts=(*state.attempts[:-1], dataclasses.replace(state.last, devices=devices))
                )
            self._store.jobs.set_state(spec.name, state)
        except BaseException:
            self._memory.release(spec.name)
            raise
        try:
            plan, environment = await asyncio.to_thread(self._plan, spec, attempt, files, devices, state.started_at)
            self._runs.start(spec, plan, environment)
        except (ThaloomError, OSError) as error:
            self._walls.end(spec.name, attempt, files, self._runs.mark(spec.name, attempt))
            if self._for_want_of_room(error, spec.name, attempt):
                self._memory.release(spec.name)
                raise
            message = error.message if isinstance(error, ThaloomError) else str(error)
            self._conclude(spec.name, attempt, End(by="not_started", at=self._clock.now(), message=message))
            return message
        return None

    def _for_want_of_room(self, error: ThaloomError | OSError, job: JobName, attempt: int) -> bool:
        """Whether it is the host that lacks room at this moment, and not this job that asks for too large a disk. A
        shortage that does not show by now (it is over, or one of inodes, or a quota) is believed some times."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return is_full(self._runs.jobs) or self._runs.may_stumble(job, attempt)
        return isinstance(error, DiskFull) and is_full(self._runs.jobs)

    def _plan(
        self, spec: JobSpec, attempt: int, files: JobFiles, devices: tuple[str, ...], started_at: float | None
    ) -> tuple[ReaperPlan, dict[str, str]]:
        files.create()
        if spec.resources.disk_bytes is not None:
            make_disk(files.disk, spec.resources.disk_bytes)
        folder = Path(spec.directory) if spec.directory is not None else files.work
        environment = variables(
            spec,
            attempt=attempt,
            folder=str(folder),
            mark=self._runs.mark(spec.name, attempt),
            devices=devices,
            inherited=os.environ,
        )
        environment |= self._walls.workspaces(spec)
        program = [find_program(spec.command[0], folder, environment["PATH"]), *spec.command[1:]]
        walled = self._walls.confine(spec, attempt, program, folder, files, devices)
        left_s = None
        if spec.deadline_s is not None:
            left_s = max(0.0, (started_at or 0.0) + spec.deadline_s - self._clock.now())
        plan = ReaperPlan(
            attempt=attempt,
            claim=str(files.claim_file(attempt)),
            ended=str(files.ended_file(attempt)),
            lock=str(files.lock),
            log=str(files.log),
            log_bytes=self._config.log_bytes,
            grace_s=spec.grace_s,
            command=walled.command,
            walled=walled.launcher,
            deadline_s=left_s,
            folder=str(folder),
            groups=walled.groups,
        )
        return plan, environment

    def ask(self, step: Ask) -> None:
        self._runs.ask(step.job, step.reason)

    def conclude(self, step: Conclude) -> None:
        self._conclude(step.job, step.attempt, step.end)
        self._runs.forget(step.job)

    def _conclude(self, name: JobName, attempt: int, end: End) -> None:
        job = self._store.jobs.find(name)
        if job is not None and job.state.phase == "running" and job.state.num_attempts == attempt:
            state = ended(job.spec, job.state, end)
            self._tell(self._store.jobs.set_state(name, state), end)
        self._memory.release(name)
        self._runs.files(name).forget(attempt)
        if job is None:
            self._runs.files(name).remove()

    def close(self, steps: Iterable[Close]) -> None:
        """All of them at once: thousands may wait for one job that failed."""
        now = self._clock.now()
        states = {
            step.job: over(self._store.jobs.get(step.job).state, step.phase, step.by, now, step.message)
            for step in steps
            if self._store.jobs.find(step.job) is not None
        }
        for job in self._store.jobs.set_states(states):
            self._tell(job, None)

    async def forget(self, steps: Iterable[Forget]) -> None:
        names = [step.job for step in steps]
        self._store.jobs.delete(*names)
        for name in names:
            await asyncio.to_thread(self._runs.files(name).remove)
            self._emit(JobForgotten(job=name))

    def _tell(self, job: Job, end: End | None) -> None:
        name, state = job.spec.name, job.state
        code = None if end is None else end.exit_code
        if state.phase == "failed" and state.ended_by is not None:
            self._emit(
                JobFailed(job=name, by=state.ended_by, attempts=state.failures, exit_code=code, message=state.message)
            )
        elif state.over and state.ended_by is not None:
            self._emit(JobEnded(job=name, phase=state.phase, by=state.ended_by, exit_code=code, message=state.message))
        elif end is not None:
            self._emit(
                JobAttemptFailed(
                    job=name,
                    attempt=state.num_attempts,
                    by=end.by,
                    retry_in_s=round(max(0.0, state.next_try_at - self._clock.now()), 3),
                    exit_code=code,
                    message=end.message,
                )
            )


def find_program(word: str, folder: Path, path: str) -> str:
    """The absolute path of a program. Raises BadParameter if there is none."""
    found = str(folder / word) if "/" in word else shutil.which(word, path=path)
    if found is None or not os.access(found, os.X_OK) or Path(found).is_dir():
        raise BadParameter(f"no program {word!r} can be run here", param="command")
    return os.path.normpath(found)


def process_id(job: JobName, attempt: int) -> str:
    """How an attempt is called in the journal."""
    return f"job/{job}/{attempt}"


def _still(job: Job, attempt: int) -> bool:
    """Whether what was decided a moment ago still holds."""
    state = job.state
    if state.over or state.stop_asked:
        return False
    return attempt == state.num_attempts + (state.phase == "pending")
