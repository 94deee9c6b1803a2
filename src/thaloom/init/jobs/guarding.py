"""What forbids a job: limits that do not hold here, bytes it can never have, others it waits for that are not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import BadParameter, DocumentNotFound, JobNotFound, WrongState
from thaloom.base.ids import JobName
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.environment import secrets
from thaloom.init.jobs.hands import find_program
from thaloom.init.jobs.memory import JobMemory
from thaloom.kernel.state.jobs.store import JobStore
from thaloom.kernel.state.jobs.types import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JobGuard:
    """Refuses a wish that cannot be met, now or ever."""

    home: Path
    jobs: JobStore
    walls: JobWalls
    memory: JobMemory
    is_workspace: Callable[[str], bool]

    def check(
        self, spec: JobSpec, *, coming: Collection[str] = frozenset(), gone: Collection[str] = frozenset()
    ) -> None:
        """Raises NotEnforceable, OutOfMemory, DeviceNotFound, JobNotFound, DocumentNotFound, BadParameter. Blocks for a
        moment. `coming`, `gone`: subjects (`job/a`, `workspace/b`) that come and go together with it."""
        self.walls.check(spec)
        self.memory.check(spec)
        for dependency in spec.depends_on:
            subject = f"job/{dependency.job}"
            if subject not in coming and (subject in gone or self.jobs.find(dependency.job) is None):
                raise JobNotFound(f"no job {dependency.job!r}, which it is to wait for", param="depends_on")
        for workspace in spec.workspaces:
            subject = f"workspace/{workspace}"
            if subject not in coming and (subject in gone or not self.is_workspace(workspace)):
                raise DocumentNotFound(f"no workspace {workspace!r}, which it is to write in", param="workspaces")
        self._check_paths(spec)
        secrets(spec, os.environ)
        if "/" not in spec.command[0]:  # what has a path may be made by a job before it
            find_program(spec.command[0], Path("/"), spec.env.get("PATH", os.environ.get("PATH", os.defpath)))

    def waiting_for(self, name: str) -> list[JobName]:
        """Jobs that are not over and wait for its end."""
        return [
            other
            for other, job in self.jobs.active.items()
            if any(dependency.job == name for dependency in job.spec.depends_on)
        ]

    def require_unneeded(self, name: str) -> None:
        """Raises WrongState."""
        if needed_by := self.waiting_for(name):
            shown = ", ".join(map(repr, needed_by[:5]))
            raise WrongState(f"job {name!r} is waited for by {shown}; stop or remove those first", param="name")

    def _check_paths(self, spec: JobSpec) -> None:
        for param, paths in (
            ("directory", (spec.directory,) if spec.directory is not None else ()),
            ("read", spec.read),
            ("write", spec.write),
        ):
            for path in paths:
                real = Path(os.path.realpath(path))
                if real.is_relative_to(self.home) or self.home.is_relative_to(real):
                    raise BadParameter(f"{path!r} holds the node's own files, which no job sees", param=param)
                if not real.exists():
                    raise BadParameter(f"{path!r} is not there", param=param)
                if param == "directory" and not real.is_dir():
                    raise BadParameter(f"{path!r} is no folder", param=param)
