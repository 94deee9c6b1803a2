"""Jobs that run all the time: each says in a file that no fault reaches what it did, and must end as it was made to."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.chaos.facts import Worked
from tests.chaos.stage import Living, Stage
from thaloom.base.actions import Terms
from thaloom.base.errors import DiskFull, JobNotFound, NodeNotRunning
from thaloom.base.procs import ProcessIdentity
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import Job, JobRequest, JobResources
from thaloom.init.jobs.files import JobFiles, job_folders

T = TypeVar("T")
NUM_EMPLOYERS = 4
RETRIES = 1000
"""A job that is killed is tried again, however often it is."""
ENDS = (0, 0, 7)
"""Exit codes; what is not 0 is not tried again."""
LASTS_S = (0.2, 8.0)
PATIENCE_S = 120.0
_LOOK_S = 0.4
_AGAIN_S = 0.1
_PROGRAM = """
echo "begin $THALOOM_JOB_ATTEMPT" >> {marks}
echo "attempt $THALOOM_JOB_ATTEMPT of {name}"
sleep {lasts_s}
echo "end $THALOOM_JOB_ATTEMPT" >> {marks}
exit {code}
"""


class Employer:
    """One who has one job after the other done."""

    def __init__(self, stage: Stage, number: int, seed: int, folder: Path) -> None:
        """`folder`: not on the node's disk."""
        self._stage = stage
        self._number = number
        self._chance = random.Random(f"{seed} employer {number}")
        self._folder = folder
        self.leaving = False

    async def work(self) -> None:
        """Until `leaving`; the last job is seen to its end."""
        count = 0
        while not self.leaving:
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
            name = f"job-{self._number}-{count}"
            await self._one(name, self._chance.choice(ENDS), round(self._chance.uniform(*LASTS_S), 2))
            count += 1

    async def _one(self, name: str, code: int, lasts_s: float) -> None:
        marks = self._folder / f"{name}.marks"
        program = _PROGRAM.format(marks=marks, name=name, lasts_s=lasts_s, code=code)
        wish = JobRequest(
            command=["sh", "-c", program],
            directory=str(self._folder),
            retries=0 if code else RETRIES,
            backoff_s=0.1,
            max_backoff_s=1.0,
            resources=JobResources(memory_bytes=64 << 20),
        )
        await self._insist(f"run-{name}", lambda node: node.run_job(name, wish))
        done = await self._over(name)
        if done is None:
            return
        lines = marks.read_text().splitlines() if marks.exists() else []
        last = done.attempts[-1] if done.attempts else None
        self._stage.facts.jobs.append(
            Worked(
                name=name,
                wanted=code,
                phase=done.phase,
                exit_code=None if last is None else last.exit_code,
                ended_by=done.ended_by or "",
                num_attempts=done.num_attempts,
                begun=tuple(int(line.split()[1]) for line in lines if line.startswith("begin ")),
                ended=tuple(int(line.split()[1]) for line in lines if line.startswith("end ")),
                words="; ".join(f"{each.number} {each.ended_by} {each.message[-80:]!r}" for each in done.attempts),
            )
        )
        with contextlib.suppress(JobNotFound):
            await self._insist(f"remove-{name}", lambda node: node.remove_job(name))

    async def _over(self, name: str) -> Job | None:
        deadline = self._stage.clock() + PATIENCE_S
        while True:
            with contextlib.suppress(NodeNotRunning):
                found = await self._stage.call(lambda node: node.job(name))
                if found.over:
                    return found
                if self._stage.clock() > deadline:
                    self._stage.fail(f"{name} is not over after {PATIENCE_S:g} s: {found.phase}, {found.conditions}")
                    return None
            await asyncio.sleep(_LOOK_S)

    async def _insist(self, action: str, what: Callable[[ControlClient], T]) -> T:
        """The same by one id, until there is an answer that is not about the daemon or the disk."""
        terms, attempt = Terms(action=action), 0
        while True:
            try:
                return await asyncio.to_thread(what, ControlClient(self._stage.node.home, terms=terms))
            except NodeNotRunning:
                pass
            except DiskFull:
                attempt += 1
                terms = Terms(action=f"{action}-{attempt}")
            await asyncio.sleep(_AGAIN_S)


def running(stage: Stage, *, programs: bool) -> list[Living]:
    """The jobs that run, by their programs or by those who keep them; also while there is no daemon."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name, files in job_folders(stage.node.home / "jobs"):
            identity = _program(files) if programs else files.keeper()
            if identity is not None and identity.alive():
                found.append(Living(role="job", service=str(name), identity=identity, started_at=0.0))
    return found


def _program(files: JobFiles) -> ProcessIdentity | None:
    claims = [claim for attempt in sorted(files.attempts()) if (claim := files.claim(attempt)) is not None]
    return next((claim.program for claim in reversed(claims) if claim.program and claim.program.alive()), None)
