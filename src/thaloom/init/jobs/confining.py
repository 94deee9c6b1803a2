"""The walls around a job, and finding out how it fared behind them.

A limit that was asked for holds or is refused. What nobody asked for by name (a default, a wall) is built where this
host can, and what is missing is told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import NotEnforceable
from thaloom.base.files import require_space
from thaloom.base.ids import JobName
from thaloom.base.procs import identify
from thaloom.init.jobs.config import JobsConfig
from thaloom.init.jobs.environment import MARK
from thaloom.init.jobs.files import JobFiles
from thaloom.init.jobs.reaper.plan import ENVIRONMENT_FD
from thaloom.init.layout import Layout
from thaloom.init.walls.confining import SandboxConfig, accelerators, secret_folders
from thaloom.kernel.sandbox.disk import LEFT_BYTES, find_disk
from thaloom.kernel.sandbox.ends import Met
from thaloom.kernel.sandbox.grouping import require
from thaloom.kernel.sandbox.latency import WEIGHTS, find_batch
from thaloom.kernel.sandbox.types import Ability, Confinement, Latency, Limits, Usage
from thaloom.kernel.sandbox.walls import Confined, Sandbox
from thaloom.kernel.state.jobs.types import EndedBy, JobSpec, workspace_variable

_LATENCY: Latency = "batch"
"""A job gives way to whoever answers somebody."""
_BY_WALL: dict[str, EndedBy] = {"MemoryLimit": "memory", "ProcessLimit": "pids", "DiskLimit": "disk"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Walled:
    """How an attempt is started."""

    command: tuple[str, ...]
    groups: tuple[str, ...]
    launcher: bool
    """Whether the command is the launcher, or the program itself."""


class JobWalls:
    """Every method may block for some milliseconds."""

    def __init__(self, home: Path, sandbox: Sandbox, config: SandboxConfig, jobs: JobsConfig) -> None:
        self._home = home
        self._sandbox = sandbox
        self._config = config
        self._jobs = jobs
        self._disk: Ability | None = None

    def check(self, spec: JobSpec) -> None:
        """Raises NotEnforceable for the first limit asked for that does not hold here, DiskFull for a disk that finds
        no room."""
        asked = Limits(
            memory_bytes=spec.resources.memory_bytes,
            cpu_permille=spec.resources.cpu_permille,
            num_pids=spec.resources.num_pids,
        )
        if self._sandbox.mode == "off" and asked.asked():
            limit = sorted(asked.asked())[0]
            raise NotEnforceable(
                f"limit {limit!r} cannot be enforced: walls are switched off (config.toml: sandbox.walls)",
                param=limit,
                limit=limit,
            )
        require(asked, self._sandbox.groups.abilities())
        if spec.resources.disk_bytes is not None:
            self._require_disk(spec.name, spec.resources.disk_bytes)

    def confine(
        self, spec: JobSpec, attempt: int, program: Sequence[str], folder: Path, files: JobFiles, devices: Sequence[str]
    ) -> Walled:
        """Makes its group and the plan of its walls. Raises NotEnforceable, OSError."""
        self.check(spec)
        if self._sandbox.mode == "off":
            return Walled(command=tuple(program), groups=(), launcher=False)
        wish = self._wish(spec, program, folder, files, devices)
        command = self._sandbox.confine(
            group_name(spec.name, attempt),
            wish,
            program,
            plan=files.walls(attempt),
            failure=files.failure(attempt),
        )
        group = self._confined(spec.name, attempt, files).group
        return Walled(command=tuple(command), groups=tuple(map(str, group.places.values())), launcher=True)

    def met(
        self, spec: JobSpec, attempt: int, files: JobFiles, *, status: int, words: str
    ) -> tuple[EndedBy, Met] | None:
        """The wall that ended it, if there is evidence of one. `status`: exit code or minus the signal."""
        confined = self._confined(spec.name, attempt, files)
        told = Confinement(limits=self._limits(spec), scratch_bytes=self._scratch_bytes(spec))
        met = confined.met(told, status=status, words=words)
        return None if met is None else (_BY_WALL.get(met.reason, "walls"), met)

    def usage(self, job: JobName, attempt: int, files: JobFiles) -> Usage:
        return self._confined(job, attempt, files).usage()

    def kill(self, job: JobName, attempt: int, files: JobFiles) -> None:
        """Everything in its group, at once."""
        self._confined(job, attempt, files).group.kill()

    def end(self, job: JobName, attempt: int, files: JobFiles, mark: str) -> bool:
        """After its reaper has ended: whatever is left of it is killed, and its group removed. False while the kernel
        still clears somebody away."""
        confined = self._confined(job, attempt, files)
        if confined.walled and confined.group.places:
            return confined.end()
        return not _kill_marked(mark)

    def workspaces(self, spec: JobSpec) -> dict[str, str]:
        """Variable -> path, of those it may write."""
        return workspaces(self._home, spec)

    def _confined(self, job: JobName, attempt: int, files: JobFiles) -> Confined:
        return Confined(group_name(job, attempt), files.walls(attempt))

    def _limits(self, spec: JobSpec) -> Limits:
        enforced = self._sandbox.enforced_limits()
        asked = spec.resources
        memory = asked.memory_bytes if asked.memory_bytes is not None else self._jobs.memory_bytes
        pids = asked.num_pids if asked.num_pids is not None else self._jobs.num_pids
        return Limits(
            memory_bytes=memory if "memory" in enforced else None,
            swap_bytes=0 if {"memory", "swap"} <= enforced else None,
            num_pids=pids if "pids" in enforced else None,
            cpu_permille=asked.cpu_permille,
            cpu_weight=WEIGHTS[_LATENCY] if "cpu_weight" in enforced else None,
        )

    def _scratch_bytes(self, spec: JobSpec) -> int:
        asked = spec.resources.memory_bytes
        memory = asked if asked is not None else self._jobs.memory_bytes
        return min(self._config.scratch_bytes, memory // 2)

    def _require_disk(self, job: JobName, num_bytes: int) -> None:
        """Looked for when somebody first asks: it takes a tenth of a second, and most nodes never need it."""
        if self._disk is None:
            self._disk = find_disk(Layout(self._home).run, self._sandbox.walls)
        if self._disk.why_not is not None:
            raise NotEnforceable(
                f"limit 'disk' cannot be enforced on this host: {self._disk.why_not}", param="disk_bytes", limit="disk"
            )
        image = JobFiles(Layout(self._home).jobs / job).disk
        if not image.exists():
            require_space(image, num_bytes + LEFT_BYTES)

    def _wish(
        self, spec: JobSpec, program: Sequence[str], folder: Path, files: JobFiles, devices: Sequence[str]
    ) -> Confinement:
        own_disk = spec.resources.disk_bytes is not None
        places = (*([] if own_disk else [str(folder)]), *spec.write, *workspaces(self._home, spec).values())
        hidden = (str(self._home), *secret_folders()) if spec.whole_host else ()
        return Confinement(
            limits=self._limits(spec),
            latency=_LATENCY if find_batch().enforced else "normal",
            network=spec.network,
            read=tuple(dict.fromkeys((*_places_of(program[0]), *spec.read))),
            write=tuple(dict.fromkeys(places)),
            disk=(str(files.disk), str(folder)) if own_disk else None,
            devices=accelerators() if any(not device.startswith("virtual") for device in devices) else (),
            whole_host=spec.whole_host,
            hidden=hidden,
            scratch_bytes=self._scratch_bytes(spec),
            folder=str(folder),
            environment_fd=ENVIRONMENT_FD,
            with_parent=True,
        )


def workspaces(home: Path, spec: JobSpec) -> dict[str, str]:
    """Where those lie that it may write: variable -> path."""
    return {workspace_variable(name): str(Layout(home).workspaces / name) for name in spec.workspaces}


GROUP = "job-"


def group_name(job: JobName, attempt: int) -> str:
    return f"{GROUP}{job}-{attempt}"


def _places_of(program: str) -> tuple[str, ...]:
    """The program itself; of one in a Python environment all of that, and the installation it was made of."""
    environment = Path(program).parent.parent
    try:
        lines = (environment / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return (program,)
    facts = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    base = [Path(os.path.realpath(program)).parent.parent]
    base += [Path(facts["home"]).parent] if facts.get("home", "").startswith("/") else []
    return (str(environment), *(str(place) for place in base if place != Path("/")))


def _kill_marked(mark: str) -> bool:
    """Whether anybody with this mark was there still."""
    found = False
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or folder.stat().st_uid != os.getuid():
                continue
            process = identify(int(folder.name))
            if process is None or wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
        except OSError:
            continue
        found |= process.send(signal.SIGKILL)
    return found
