"""The attempts that run: their reapers, started, found again, watched by pidfd, asked to end.

It decides nothing and writes nothing down that lasts: that is done by the reapers themselves (init.jobs.reaper). So a
daemon that is killed loses nothing, and the next one finds out by `look_for` what an attempt has come to.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from thaloom.base.clock import Clock
from thaloom.base.events import Emit
from thaloom.base.ids import JobName
from thaloom.base.procs import ProcessIdentity, spawn
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.decide import Run
from thaloom.init.jobs.events import JobAdopted, JobAsked, JobStarted
from thaloom.init.jobs.files import JobFiles
from thaloom.init.jobs.lifecycle import End
from thaloom.init.jobs.reaper.plan import ReaperPlan
from thaloom.init.recovery import Running
from thaloom.init.rounds.last_words import LastWords, last_lines, read_last_words
from thaloom.kernel.sandbox.inside.words import encode
from thaloom.kernel.state.jobs.types import EndedBy, JobSpec

REAPER = Path(__file__).parent / "reaper" / "__main__.py"
_CLEARING_S = 0.05
_STUMBLES = 4
"""How often in a row a reaper may end before anything has begun; then it is the host that cannot start it."""
_STUMBLE_S = 0.2


@dataclasses.dataclass(slots=True, kw_only=True)
class Kept:
    """One attempt. Changed by Runs alone."""

    spec: JobSpec
    attempt: int
    files: JobFiles
    log_offset: int
    reaper: ProcessIdentity | None
    end: End | None = None
    asked: Literal["", "stopped", "down"] = ""
    """Why it was asked to end."""


class Runs:
    """Owner of every Kept, and, by `tasks`, of what waits for it."""

    def __init__(
        self,
        jobs: Path,
        *,
        walls: JobWalls,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        emit: Emit,
        wake: Callable[[], None],
    ) -> None:
        self.jobs = jobs
        self._walls = walls
        self._tasks = tasks
        self._clock = clock
        self._emit = emit
        self._wake = wake
        self._kept: dict[JobName, Kept] = {}
        self._stumbles: dict[tuple[JobName, int], int] = {}

    def observe(self) -> dict[JobName, Run]:
        kept = self._kept.items()
        return {name: Run(attempt=one.attempt, end=one.end, asked=bool(one.asked)) for name, one in kept}

    def get(self, job: JobName) -> Kept | None:
        return self._kept.get(job)

    def __len__(self) -> int:
        return len(self._kept)

    def files(self, job: JobName) -> JobFiles:
        return JobFiles(self.jobs / job)

    def start(self, spec: JobSpec, plan: ReaperPlan, variables: Mapping[str, str]) -> None:
        """Start a reaper for the attempt; harmless where it was made already. Raises OSError."""
        files = self.files(spec.name)
        files.plan(plan.attempt).write_bytes(plan.encode())
        environment = os.memfd_create("variables", os.MFD_CLOEXEC)
        try:
            os.write(environment, encode(list(variables.items())))
            os.lseek(environment, 0, os.SEEK_SET)
            reaper = spawn(
                reaper_command(files.plan(plan.attempt), environment),
                log=files.reaper_log,
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=(environment,),
            )
        finally:
            os.close(environment)
        self._keep(spec, plan.attempt, files, reaper, _size(files.log))
        self._emit(JobStarted(job=spec.name, attempt=plan.attempt, pid=reaper.pid))

    def look_for(self, spec: JobSpec, attempt: int, running: Iterable[Running]) -> bool:
        """Find an attempt that an earlier daemon began: False if it never came to anything, and can be started again.
        `running`: the processes there are."""
        files = self.files(spec.name)
        reaper = files.keeper() or _by_command(files.plan(attempt), running)
        if reaper is not None:
            self._emit(JobAdopted(job=spec.name, attempt=attempt, pid=reaper.pid))
        elif files.ended(attempt) is None:
            claim = files.claim(attempt)
            if claim is None or claim.program is None:
                files.claim_file(attempt).unlink(missing_ok=True)
                return False
        self._keep(spec, attempt, files, reaper, 0)
        return True

    def ask(self, job: JobName, reason: Literal["stopped", "down"]) -> None:
        """Ask it to end; its reaper kills it after its grace. A second time does nothing."""
        kept = self._kept[job]
        if not kept.asked:
            kept.asked = reason
            self._emit(JobAsked(job=job, attempt=kept.attempt, reason=reason))
            if kept.reaper is not None:
                kept.reaper.send(signal.SIGTERM)

    def kill_all(self) -> None:
        """Cut every grace short."""
        for job, kept in self._kept.items():
            if kept.end is None:
                kept.asked = kept.asked or "down"
                self._walls.kill(job, kept.attempt, kept.files)

    def forget(self, job: JobName) -> None:
        """Its end is written down. It may never have run."""
        kept = self._kept.pop(job, None)
        if kept is not None:
            self._stumbles.pop((job, kept.attempt), None)

    def mark(self, job: JobName, attempt: int) -> str:
        """What its processes bear among their variables."""
        home = hashlib.sha256(os.fsencode(self.jobs)).hexdigest()[:8]
        return f"{home}/{job}/{attempt}"

    def may_stumble(self, job: JobName, attempt: int) -> bool:
        """Whether to try once more what failed by no fault of its own, as far as is known."""
        times = self._stumbles[job, attempt] = self._stumbles.get((job, attempt), 0) + 1
        if times >= _STUMBLES:
            del self._stumbles[job, attempt]
        return times < _STUMBLES

    def _keep(
        self, spec: JobSpec, attempt: int, files: JobFiles, reaper: ProcessIdentity | None, log_offset: int
    ) -> None:
        kept = Kept(spec=spec, attempt=attempt, files=files, log_offset=log_offset, reaper=reaper)
        self._kept[spec.name] = kept
        self._tasks.create_task(self._watch(kept), name=f"job {spec.name}")

    async def _watch(self, kept: Kept) -> None:
        """Until nobody keeps it any more; then find out how it ended, and leave nothing of it behind."""
        while kept.reaper is not None:
            await kept.reaper.wait()
            kept.reaper = kept.files.keeper()  # another one was faster
            if kept.reaper is not None and kept.asked:
                kept.reaper.send(signal.SIGTERM)
        name = kept.spec.name
        try:
            end = await asyncio.to_thread(self._end_of, kept)
        except OSError as error:  # its files cannot be read: that must not end the node
            end = End(by="lost", at=self._clock.now(), message=f"how it ended cannot be read: {error}")
        mark = self.mark(name, kept.attempt)
        while not await asyncio.to_thread(self._walls.end, name, kept.attempt, kept.files, mark):
            await self._clock.sleep(_CLEARING_S)
        if end is None:
            await self._stumbled(kept)
        else:
            kept.end = end
        self._wake()

    async def _stumbled(self, kept: Kept) -> None:
        """Its reaper has ended, and nothing was ever run: it can be started again."""
        key = (kept.spec.name, kept.attempt)
        if not self.may_stumble(*key) or kept.asked:
            words = last_lines(kept.files.reaper_log) or "its reaper ended before it could start it"
            by: EndedBy = kept.asked or "not_started"
            kept.end = End(by=by, at=self._clock.now(), message=words)
            return
        await self._clock.sleep(_STUMBLE_S * 2 ** (self._stumbles[key] - 1))
        kept.files.claim_file(kept.attempt).unlink(missing_ok=True)
        self._kept.pop(kept.spec.name, None)

    def _end_of(self, kept: Kept) -> End | None:
        """How it ended; None if it never began. Blocks."""
        written = kept.files.ended(kept.attempt)
        if written is None:
            claim = kept.files.claim(kept.attempt)
            if claim is None or claim.program is None:
                return None
            message = "what kept it was killed, or the machine went down; how its program ended is not known"
            if words := last_lines(kept.files.reaper_log):
                message += f": {words}"
            return End(by="lost", at=self._clock.now(), message=message)
        status = written.exit_code if written.exit_code is not None else -(written.signal or 0)
        by, message = written.by, ""
        if written.log_lost_bytes:
            message = f"{written.log_lost_bytes} bytes of its output could not be written. "
        if by == "exit" and status == 0:
            return End(by="exit", at=written.ended_at, exit_code=0, message=message.strip())
        failure = _words_of_failure(kept.files.failure(kept.attempt))
        words = last_lines(kept.files.log, kept.log_offset)
        if by in ("exit", "signal"):
            met = self._walls.met(kept.spec, kept.attempt, kept.files, status=status, words=words)
            if failure:
                by, words = "not_started", failure
            elif met is not None:
                by, words = met[0], met[1].message
        elif by == "deadline":
            words = f"it was not over in {kept.spec.deadline_s:g} s"
        elif by == "stopped":
            by = kept.asked or "down"  # the machine goes down, and us with it
        return End(
            by=by,  # type: ignore[arg-type]  # the reaper writes these words and no others
            at=written.ended_at,
            exit_code=written.exit_code,
            signal=written.signal,
            message=message + words,
        )


def reaper_command(plan: Path, environment: int) -> list[str]:
    return [sys.executable, "-I", "-S", str(REAPER), str(plan), str(environment)]


def _words_of_failure(path: Path) -> str:
    """What a launcher left, in words; empty if it left nothing."""
    if not path.exists() or not path.stat().st_size:
        return ""
    words = read_last_words(path, path)
    return "" if words == LastWords() else words.message


def _by_command(plan: Path, running: Iterable[Running]) -> ProcessIdentity | None:
    """A reaper that is about to take the lock."""
    return next((process.identity for process in running if str(plan) in process.arguments), None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
