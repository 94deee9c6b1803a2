"""The life of some jobs, in a process that is killed at a point that is named: a write of the database, or the start of
a reaper.

    python -m tests.system.job_suite HOME NUMBER before|after

It does what the daemon does for jobs, without the rest of a node: real reapers, real walls, real programs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.system.killing import kill_at
from thaloom.base.actions import LOCAL, Call
from thaloom.base.clock import SystemClock
from thaloom.base.events import ignore
from thaloom.base.ids import DeviceId, JobName
from thaloom.hal.types import Device
from thaloom.init.acting.documents import Apply, ApplyWish
from thaloom.init.acting.jobs import JobRemoval, JobWish, RemoveJob, RunJob, StopJob
from thaloom.init.acting.kinds import ActionKind, Named, call
from thaloom.init.acting.performing import Performer
from thaloom.init.documents.forms import written
from thaloom.init.documents.jobs import Jobs
from thaloom.init.documents.kinds import DocumentKinds
from thaloom.init.documents.workspaces import Workspaces
from thaloom.init.jobs import runs
from thaloom.init.jobs.config import JobsConfig
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.jobs.guarding import JobGuard
from thaloom.init.jobs.loop import JobLoop
from thaloom.init.jobs.memory import JobMemory
from thaloom.init.layout import Layout
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.recovery import running
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.init.walls.confining import SandboxConfig
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name
from thaloom.kernel.sandbox.host import find_walls
from thaloom.kernel.sandbox.walls import Sandbox
from thaloom.kernel.state.jobs.types import Dependency, JobSpec
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Document
from thaloom.kernel.trust.seals import node_key, sealing

GIB = 1 << 30
PATIENCE_S = 60.0
ACKS = "acks"
"""Where it says what it was told: which action is done, and which job is in which phase."""
_PROGRAM = """mkdir alone-$THALOOM_JOB || echo TWICE AT ONCE >> tally
echo $THALOOM_JOB $THALOOM_JOB_ATTEMPT >> tally
sleep 0.05; rmdir alone-$THALOOM_JOB; {end}"""


def suite(out: Path) -> list[tuple[str, Call, str]]:
    """(id, what is asked for, the phase of which job is waited for then)."""

    def spec(name: str, end: str, **more: Any) -> JobSpec:
        words = ("sh", "-c", _PROGRAM.format(end=end))
        return JobSpec(name=JobName(name), command=words, directory=str(out), backoff_s=0.01, grace_s=5.0, **more)

    again = "test $THALOOM_JOB_ATTEMPT -ge 2 || exit 9"
    wishes: list[tuple[str, Any, str]] = [
        (RunJob.name, JobWish(spec=spec("once", "echo said; exit 3")), "once failed"),
        (RunJob.name, JobWish(spec=spec("tried", again, retries=1)), "tried succeeded"),
        (RunJob.name, JobWish(spec=spec("long", "exec sleep 1000")), "long running"),
        (StopJob.name, Named(name="long"), "long stopped"),
        (RemoveJob.name, JobRemoval(name="tried"), ""),
        (Apply.name, ApplyWish(documents=_documents(spec)), "next succeeded"),
        (Apply.name, ApplyWish(remove=("job/next", "job/paper", "workspace/data")), ""),
    ]
    return [(f"step-{number}", call(kind, wish), phase) for number, (kind, wish, phase) in enumerate(wishes)]


def _documents(spec: Callable[..., JobSpec]) -> tuple[Document, ...]:
    """A folder, a job that leaves something there, and one that waits for it and takes it away."""
    data = Document(kind="Workspace", name="data")
    paper = spec("paper", "mkdir $THALOOM_WORKSPACE_DATA/page", workspaces=("data",))
    after = spec(
        "next",
        "rmdir $THALOOM_WORKSPACE_DATA/page",
        workspaces=("data",),
        depends_on=(Dependency(job=paper.name),),
    )
    return data, written("Job", paper), written("Job", after)


class Machine:
    """Made inside the TaskGroup that owns its waiting."""

    def __init__(self, home: Path, tasks: asyncio.TaskGroup) -> None:
        clock = SystemClock()
        self.tasks = tasks
        self.layout = Layout(home)
        self.layout.create()
        self.store = StateStore(self.layout.state, clock, seal=sealing(node_key(self.layout.node_key)))
        host = Device(
            id=DeviceId("cpu"),
            driver="cpu",
            kind="cpu",
            name="cpu",
            vendor="",
            memory_bytes=64 * GIB,
            num_cores=2,
            dtypes=frozenset({"f32"}),
            isolation="none",
        )
        memory = NodeMemory(
            [host], host_total_bytes=64 * GIB, host_available=lambda: 64 * GIB, readings=dict, headroom_bytes=0
        )
        self.groups = find_groups(folder_name(home))
        sandbox = Sandbox(walls=find_walls(self.layout.run), groups=self.groups)
        walls = JobWalls(home, sandbox, SandboxConfig(), JobsConfig())
        held = JobMemory(memory, cast(Supervisor, []), GIB)
        self.loop = JobLoop(
            self.layout,
            JobsConfig(),
            store=self.store,
            walls=walls,
            memory=held,
            tasks=tasks,
            clock=clock,
            emit=ignore,
            tick_s=0.2,
            going_down=lambda: False,
        )
        self.workspaces = Workspaces(self.store, self.layout.workspaces, users=self.store.jobs.users_of_workspace)
        guard = JobGuard(
            home=home, jobs=self.store.jobs, walls=walls, memory=held, is_workspace=self.workspaces.is_there
        )
        desk = JobDesk(self.store.jobs, loop=self.loop, guard=guard, clock=clock, require_up=lambda: None)
        services = SimpleNamespace(settle=self._no_services)
        documents = DocumentKinds([Jobs(desk, ignore), self.workspaces])
        apply = Apply(documents, self.store, cast(ReconcileLoop, services), lambda: None)
        self.kinds: list[ActionKind[Any]] = [RunJob(desk, ignore), StopJob(desk), RemoveJob(desk), apply]
        self.performer = Performer(self.kinds, journal=self.store.journal, tasks=tasks, clock=clock)

    async def start(self) -> None:
        """As a node does: take over, sweep, bring to an end what was begun, go on."""
        processes = list(running())
        living = self.loop.adopt(processes)
        kept = self.loop.kept_groups(processes)
        for group in self.groups.list():
            if group.name not in kept:
                group.kill()
                group.delete()
        await self.loop.sweep(processes)
        self.workspaces.sweep()
        for entry in self.store.journal.unfinished():
            await self.performer.resume(entry, living)
        self._rounds = self.tasks.create_task(self.loop.run())

    async def _no_services(self) -> bool:
        return False

    async def phase(self, wanted: str, out: Path) -> None:
        """Return when that job is in that phase; one that runs has said so. Raises TimeoutError."""
        if not wanted:
            return
        name, phase = wanted.split()
        async with asyncio.timeout(PATIENCE_S):
            while (job := self.store.jobs.find(name)) is None or job.state.phase != phase:
                if job is None or job.state.over:
                    return  # of a step that was done before
                await asyncio.sleep(0.01)
            while phase == "running" and f"{name} 1" not in _text(out / "tally"):
                await asyncio.sleep(0.01)

    def close(self) -> None:
        self._rounds.cancel()
        self.store.close()
        self.groups.close()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def carry_out(machine: Machine, out: Path, undone: frozenset[str] = frozenset()) -> None:
    for action, asked, phase in suite(out):
        await machine.performer.perform(asked, LOCAL, action=f"{action}-again" if action in undone else action)
        _acknowledge(machine, action)
        await machine.phase(phase, out)
        if phase:
            _acknowledge(machine, phase)


def _acknowledge(machine: Machine, what: str) -> None:
    with (machine.layout.home / ACKS).open("a") as told:
        told.write(f"{what}\n")


def record_reapers() -> None:
    """Where this process is recorded (power/record.c), what keeps its jobs is too."""
    start = runs.spawn
    heard = {name: os.environ[name] for name in ("LD_PRELOAD", "RECORD_BELOW", "RECORD_TO") if name in os.environ}

    def spawn(*words: Any, env: dict[str, str], **more: Any) -> Any:
        return start(*words, env=env | heard, **more)

    runs.spawn = spawn  # type: ignore[attr-defined]


async def on_machine(home: Path, work: Callable[[Machine], Any]) -> None:
    async with asyncio.TaskGroup() as tasks:
        machine = Machine(home, tasks)
        try:
            await work(machine)
        finally:
            machine.close()


def main() -> None:
    home, number, when = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    out = home.parent / "out"
    out.mkdir(exist_ok=True)

    async def work(machine: Machine) -> None:
        kill_at(number, after=when == "after", writes="all", calls=[(runs, "spawn")])
        record_reapers()
        await machine.start()
        await carry_out(machine, out)

    asyncio.run(on_machine(home, work))


if __name__ == "__main__":
    main()
