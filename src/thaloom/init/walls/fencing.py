"""Fences around our own processes that are not workers: a control group each, and no other wall.

The door and the errands (pulls, quantising) are our own code with all of the node's files; but they read what strangers
send, and one that grows without end must meet its own limit before the host's. The door's end is seen and named like a
worker's (init.walls.confining), an errand's by who runs it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.ids import WorkerId
from thaloom.init.layout import Layout
from thaloom.init.walls.confining import SandboxConfig
from thaloom.kernel.sandbox.ends import Met
from thaloom.kernel.sandbox.latency import WEIGHTS, find_batch
from thaloom.kernel.sandbox.types import Confinement, Latency, Limits
from thaloom.kernel.sandbox.walls import Confined, Sandbox

_CLEARING, _CLEARING_S = 20, 0.05
"""The kernel takes a moment to clear away what was killed; what is left then is swept at the next start."""
_ERRAND_OOM_SCORE = 300
"""When the host is out of memory an errand goes before a worker (200): it can be begun again, and disturbs nobody."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Around one errand."""

    name: str
    plan: Path
    sandbox: Sandbox
    limits: Limits

    def command(self, command: Sequence[str]) -> list[str]:
        """Blocks for a moment. Raises NotEnforceable, OSError."""
        latency: Latency = "batch" if find_batch().enforced else "normal"
        return self.sandbox.fence(self.name, self.limits, latency, command, plan=self.plan, oom_score=_ERRAND_OOM_SCORE)

    def met(self, status: int | None) -> Met | None:
        """The limit that ended it, if one did."""
        confined = Confined(self.name, self.plan)
        return confined.met(Confinement(limits=self.limits), status=status, words="")

    def release(self) -> bool:
        """Once it has ended; False while the kernel still clears somebody away."""
        done = Confined(self.name, self.plan).end()
        if done:
            self.plan.unlink(missing_ok=True)
        return done


class Fences:
    """For the processes of one node."""

    def __init__(self, layout: Layout, config: SandboxConfig, sandbox: Sandbox) -> None:
        self._layout = layout
        self._config = config
        self._sandbox = sandbox
        self._serial = itertools.count()

    def door(self, door: WorkerId, command: Sequence[str]) -> list[str]:
        """The command line that starts it inside. Blocks for a moment. Raises NotEnforceable, OSError."""
        latency: Latency = "interactive" if self._sandbox.latency("interactive").enforced else "normal"
        limits = self._limits(self._config.door_memory_bytes, latency)
        return self._sandbox.fence(door, limits, latency, command, plan=self._layout.worker_walls(door))

    def standby(self, worker: WorkerId, command: Sequence[str]) -> list[str]:
        """As `door`, for a worker that waits: in the group that will be its own, whose memory it is from the first
        page on, and giving way to everybody until then."""
        plan, score = self._layout.worker_walls(worker), Confinement().oom_score
        limits = self._limits(self._config.errand_memory_bytes, "batch")
        return self._sandbox.fence(worker, limits, "normal", command, plan=plan, oom_score=score)

    @asynccontextmanager
    async def errand(self, what: str, memory_bytes: int = 0) -> AsyncIterator[Fence]:
        """For one run of it, with at least so much memory; its group is gone afterwards."""
        name = f"errand-{what}-{next(self._serial)}"
        limits = self._limits(max(memory_bytes, self._config.errand_memory_bytes), "batch")
        fence = Fence(name, self._layout.worker_walls(WorkerId(name)), self._sandbox, limits)
        try:
            yield fence
        finally:
            for _ in range(_CLEARING):
                if await asyncio.to_thread(fence.release):
                    break
                await asyncio.sleep(_CLEARING_S)

    def _limits(self, memory_bytes: int, latency: Latency) -> Limits:
        """Only what holds here: nobody asked for these."""
        enforced = self._sandbox.enforced_limits()
        return Limits(
            memory_bytes=memory_bytes if "memory" in enforced else None,
            num_pids=self._config.num_pids if "pids" in enforced else None,
            cpu_weight=WEIGHTS[latency] if "cpu_weight" in enforced else None,
        )
