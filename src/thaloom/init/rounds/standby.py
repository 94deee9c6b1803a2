"""The worker that waits, everything imported, for the next that is to be started (work/runtime/worker/standby.py).

There is one at most. It is started when a while nothing was, in the control group of the id it will have, and gives way
to everybody; it counts as free memory, and is ended for who needs that. A worker that it becomes is like any other: the
same id on its command line, the same walls, the same lease. If it cannot, it is ended, and a process started the usual
way with what was prepared already.

No daemon ever finds one: it reads the end of the one that started it, and ends. One that had all its orders by then is
a worker, found by its command line and the journal's intent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from thaloom import __version__
from thaloom.base.clock import Clock, first_of
from thaloom.base.errors import ThaloomError
from thaloom.base.events import Emit
from thaloom.base.ids import WorkerId, new_worker_id
from thaloom.base.procs import ProcessIdentity, resident_bytes
from thaloom.base.units import MIB
from thaloom.init.commands import worker_command
from thaloom.init.events import StandbyLost, StandbyReady, StandbyUnused
from thaloom.init.layout import Layout
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.init.rounds.waiting import Waiting, start_waiting
from thaloom.init.walls.confining import Confiner
from thaloom.init.walls.fencing import Fences
from thaloom.init.walls.leftovers import clear_away
from thaloom.kernel.state.types import ServiceSpec
from thaloom.work.runtime.worker.standby import Orders, Waits

QUIET_S = 2.0
"""For so long nothing was started: what loads, and what heals, has the processors for itself."""
READY_S = 120.0
PATIENCE_S = 5.0
"""For its walls: they take some ten milliseconds."""
ROOM_BYTES = 256 * MIB
"""What must be free for one to be started: it takes a fifth of that, and should not be ended again at once."""
_LOOK_S = 1.0
_LONGEST_S = 600.0
"""Between two tries where each one failed."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For workers of our own engine. NumPy's threads compute nothing there, the driver has its own; and a process that has
several cannot put up its walls."""


class Standby:
    """Owner of the one that waits. On the event loop's thread."""

    def __init__(
        self,
        layout: Layout,
        *,
        enabled: bool,
        driver: str | None,
        fences: Fences,
        confiner: Confiner,
        memory: NodeMemory,
        supervisor: Supervisor,
        clock: Clock,
        emit: Emit,
    ) -> None:
        """`driver`: of the host's own device; None: there is none to get ready for."""
        self._layout = layout
        self._driver = driver
        self._fences = fences
        self._confiner = confiner
        self._memory = memory
        self._supervisor = supervisor
        self._clock = clock
        self._emit = emit
        self._waiting: Waiting | None = None
        self._claimed: Waiting | None = None
        """One whose id, and all there is by it, is a worker's: nothing of that is cleared away here any more."""
        self.use(enabled=enabled)
        self._wanted = False
        self._busy_at = clock.monotonic()
        self._failures = 0
        self._not_before = 0.0

    def use(self, *, enabled: bool) -> None:
        """Heeded from the next round on."""
        self._enabled = enabled and self._driver is not None

    @property
    def present(self) -> Waiting | None:
        """The one that waits, until it has its orders."""
        waiting = self._waiting or self._claimed
        return None if waiting is None or waiting.has_orders else waiting

    @property
    def pid(self) -> int | None:
        return None if self.present is None else self.present.identity.pid

    def look(self, *, wanted: bool) -> None:
        """Heed the present: whether there is a service it could be a worker of, and whether any is loading."""
        self._wanted = wanted and self._enabled
        if any(process.alive and process.ready_since is None for process in self._supervisor):
            self._busy_at = self._clock.monotonic()
        if not self._wanted:
            self.end()
        elif self._waiting is not None:
            self._memory.keep(resident_bytes(self._waiting.identity.pid) or 0)

    def offered(self, spec: ServiceSpec) -> WorkerId | None:
        """The id of a worker for it that would be there at once."""
        return self._waiting.id if self._waiting is not None and fits(spec) else None

    def claim(self, worker: WorkerId) -> None:
        """That id is the caller's from now on, with its files and its group. Before anything is awaited after
        `offered`; `become` or `drop` is to follow."""
        if self._waiting is not None and self._waiting.id == worker:
            self._claimed, self._waiting = self._waiting, None
            self._claimed.given.set()

    def hand_over(self, worker: WorkerId) -> None:
        """What it holds is part of what is booked for that worker from now on. Before it is booked, and before
        `become`."""
        if self._claimed is not None and self._claimed.id == worker:
            self._memory.hand_over()

    async def drop(self, worker: WorkerId) -> None:
        """That worker is not to be, after all. What is there by its id is the caller's to clear away."""
        waiting = self._claimed
        if waiting is None or waiting.id != worker:
            return
        try:
            await waiting.ended()
        finally:  # only then: until there is nobody claimed no other is started, whose memory this would forget
            self._memory.keep(0)
            self._claimed = None

    async def become(
        self, worker: WorkerId, *, plan: Path | None, environment: Mapping[str, str], told: Mapping[str, str], log: Path
    ) -> ProcessIdentity | None:
        """The process that is this worker now; None: another has to be started, and that is told where it is a
        surprise. `plan`: of its walls, if it is to have any; `told`: variables that hold numbers of our descriptors."""
        waiting = self._claimed
        if waiting is None or waiting.id != worker:
            return None
        orders = Orders(
            started_at=waiting.started_at,
            plan=None if plan is None else str(plan),
            environment=dict(environment),
            descriptors=tuple(told),
        )
        reason = await waiting.become(orders, [int(number) for number in told.values()], log, PATIENCE_S)
        self._claimed = None
        self._busy_at = self._clock.monotonic()
        if reason is None:
            self._failures = 0
            return waiting.identity
        await waiting.ended()
        self._emit(StandbyUnused(worker=worker, reason=reason))
        return None

    def end(self) -> int:
        """End the one that waits, if there is one and it is nobody's yet; how many bytes it had."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return 0
        num_bytes = resident_bytes(waiting.identity.pid) or 0
        self._memory.keep(0)
        waiting.end()
        return num_bytes

    async def run(self) -> None:
        """Have one wait whenever one is wanted, until this is cancelled."""
        while True:
            await self._clock.sleep(_LOOK_S)
            if self._wanted and self._claimed is None and self._is_quiet() and self._has_room():
                await self._keep_one()

    def _is_quiet(self) -> bool:
        return self._clock.monotonic() >= max(self._not_before, self._busy_at + QUIET_S)

    def _has_room(self) -> bool:
        return self._memory.host_free_bytes(self._supervisor) >= ROOM_BYTES

    async def _keep_one(self) -> None:
        """From its start to its end, or until it is somebody's."""
        begun = self._clock.monotonic()
        try:
            waiting = await self._start()
        except (ThaloomError, OSError, ValueError) as error:
            return self._lost(str(error) or type(error).__name__)
        self._waiting = waiting
        resident = resident_bytes(waiting.identity.pid) or 0
        self._memory.keep(resident)
        after_s = round(self._clock.monotonic() - begun, 3)
        self._emit(StandbyReady(id=waiting.id, pid=waiting.identity.pid, after_s=after_s, resident_bytes=resident))
        try:
            await first_of(waiting.identity.wait(), waiting.given.wait())
            if self._waiting is waiting:
                self._lost("it ended")
        finally:
            if not waiting.given.is_set():
                self.end()
                await self._clear(waiting)

    async def _start(self) -> Waiting:
        """Raises ThaloomError, OSError, ValueError; nothing is left behind then."""
        assert self._driver is not None, "there is a driver, or none is wanted"
        worker = new_worker_id()
        started_at = self._clock.now()
        waiting = None
        try:
            command = worker_command(self._layout.worker_spec(worker), standby=self._driver)
            command = await asyncio.to_thread(self._fences.standby, worker, command)
            environment = os.environ | {"THALOOM_HOME": str(self._layout.home)} | ONE_THREAD
            waiting = start_waiting(worker, command, environment, self._layout.standby_log, started_at)
            report = await waiting.heard(READY_S)
            if report != Waits(version=__version__):
                raise ValueError(f"it is no worker of version {__version__}: {report}")
        except BaseException:
            if waiting is not None:
                await waiting.ended()
            await self._clear_id(worker)
            raise
        return waiting

    def _lost(self, reason: str) -> None:
        self._failures += 1
        retry_in_s = min(_LONGEST_S, QUIET_S * 2.0**self._failures)
        self._not_before = self._clock.monotonic() + retry_in_s
        self._emit(StandbyLost(reason=reason, retry_in_s=retry_in_s))

    async def _clear(self, waiting: Waiting) -> None:
        await waiting.ended()
        await self._clear_id(waiting.id)

    async def _clear_id(self, worker: WorkerId) -> None:
        await clear_away(self._layout, self._confiner, worker)


def fits(spec: ServiceSpec) -> bool:
    """Whether it has imported what a worker of this service needs: guests and their like bring their own."""
    return spec.engine == "thaloom"
