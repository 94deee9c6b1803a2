"""The node itself, its processes and devices."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from thaloom import __version__
from thaloom.base.actions import Call
from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Absent
from thaloom.base.procs import resident_bytes
from thaloom.hal.types import Device, Reading
from thaloom.init.acting.node import Down
from thaloom.init.syscalls.asking import Asking
from thaloom.kernel.state.types import NodeStatus, PastEvent, ProcessStatus

SHOWN = 100
"""Services among what the node says of itself; more than a person reads."""


class NodeCalls(Asking):
    """Of the node itself."""

    async def status(self) -> NodeStatus:
        door = self._node.reporter.door()
        return NodeStatus(
            version=__version__,
            pid=os.getpid(),
            home=str(self._node.layout.home),
            url=self._config.url,
            started_at=self._node.started_at,
            door_pid=None if door is None else door.lease.pid,
            door_ready=door is not None and door.ready_since is not None,
            conditions=self._node.reporter.node_conditions(
                self._node.reconcile_loop.failures,
                (*self._node.certificates.conditions(), *self._node.low_memory.conditions()),
            ),
            memory=self._node.memory.report(self._node.supervisor),
            num_models=len(await asyncio.to_thread(self._node.models.list)),
            services=(page := self._node.reporter.statuses(limit=SHOWN)).items,
            num_services=page.total,
            num_passes=self._node.reconcile_loop.passes.num,
            last_pass_s=self._node.reconcile_loop.passes.last_s,
            last_pass_cpu_s=self._node.reconcile_loop.passes.last_cpu_s,
            slowest_pass_s=self._node.reconcile_loop.passes.slowest_s,
            standby_pid=self._node.standby.pid,
            standby_bytes=self._node.memory.kept_bytes,
        )

    async def processes(self) -> Sequence[ProcessStatus]:
        own = ProcessStatus(
            role="daemon",
            pid=os.getpid(),
            id="daemon",
            service=None,
            started_at=self._node.started_at,
            resident_bytes=resident_bytes(os.getpid()),
        )
        turns = {} if self._node.turns is None else self._node.turns.seated()
        kept = [
            ProcessStatus(
                role=process.lease.role,
                pid=process.lease.pid,
                id=process.id,
                service=process.lease.service,
                started_at=process.lease.started_at,
                resident_bytes=resident_bytes(process.lease.pid),
                turn_held_s=turns[process.id].held_s if process.id in turns else None,
                turn_waited_s=turns[process.id].waited_s if process.id in turns else None,
            )
            for process in self._node.supervisor
            if process.alive
        ]
        if (waiting := self._node.standby.present) is not None:
            kept.append(
                ProcessStatus(
                    role="standby",
                    pid=waiting.identity.pid,
                    id=waiting.id,
                    service=None,
                    started_at=waiting.started_at,
                    resident_bytes=resident_bytes(waiting.identity.pid),
                )
            )
        return [own, *sorted(kept, key=lambda process: (process.role, process.service or "", process.started_at))]

    async def events(self, limit: int) -> Sequence[PastEvent]:
        return self._node.history.latest(limit)

    async def down(self) -> int:
        await self._do(Call(Down.name))
        return os.getpid()

    def interrupt(self, signal_name: str) -> None:
        """Go down; who asks a second time does not want to wait for answers under way."""
        if self._node.reconcile_loop.going_down:
            self._node.supervisor.kill_all()
            self._node.jobs.kill_all()
        self._node.reconcile_loop.go_down(signal_name)

    async def devices(self) -> tuple[Sequence[tuple[Device, Reading | None]], Sequence[Absent]]:
        report = self._node.inventory.refresh()
        readings = {reading.device: reading for reading in self._node.inventory.readings()}
        return [(device, readings.get(device.id)) for device in report.devices], report.absent

    async def device(self, device: DeviceId) -> tuple[Device, Reading | None]:
        self._node.inventory.refresh()
        found = self._node.inventory.device(device)
        readings = {reading.device: reading for reading in self._node.inventory.readings()}
        return found, readings.get(device)
