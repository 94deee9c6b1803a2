"""What jobs hold of the node's memory and devices: booked in the one ledger, like everything else."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.errors import DeviceNotFound, OutOfMemory
from thaloom.base.ids import JobName
from thaloom.base.units import format_bytes
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.kernel.state.jobs.types import JobSpec


@dataclass(frozen=True, slots=True)
class JobMemory:
    memory: NodeMemory
    supervisor: Supervisor
    default_bytes: int

    def check(self, spec: JobSpec) -> None:
        """Raises OutOfMemory, DeviceNotFound with the figures for a job that can never fit, whatever else ends."""
        needed = self.needed_bytes(spec)
        most = self.memory.host_capacity_bytes()
        if needed > most:
            raise OutOfMemory(
                f"job {spec.name!r} needs {format_bytes(needed)}, and this host can give {format_bytes(most)} in all",
                needed_bytes=needed,
                free_bytes=most,
            )
        devices = len(self.memory.accelerators())
        if spec.resources.num_devices > devices:
            raise DeviceNotFound(
                f"job {spec.name!r} needs {spec.resources.num_devices} devices, and this host has {devices}",
                needed=spec.resources.num_devices,
                there=devices,
            )

    def needed_bytes(self, spec: JobSpec) -> int:
        asked = spec.resources.memory_bytes
        return self.default_bytes if asked is None else asked

    def free_bytes(self) -> int:
        """Of the host's memory, now."""
        return self.memory.host_free_bytes(self.supervisor)

    def free_devices(self) -> int:
        return len(self.memory.idle_accelerators())

    def book(self, spec: JobSpec) -> tuple[str, ...]:
        """Its memory and its devices, whose names are returned. Raises OutOfMemory, and then nothing is booked.
        A second time it books the same."""
        return self.memory.book(owner(spec.name), self.needed_bytes(spec), spec.resources.num_devices)

    async def returned(self, spec: JobSpec) -> None:
        """When what is booked for it is lent to nobody any more. Raises OutOfMemory."""
        await self.memory.take_back(owner(spec.name), self.needed_bytes(spec))

    def adopt(self, spec: JobSpec, devices: tuple[str, ...]) -> None:
        """Of one that runs already."""
        self.memory.adopt(owner(spec.name), self.needed_bytes(spec), devices)

    def release(self, job: JobName) -> None:
        self.memory.give_back(owner(job))


def owner(job: JobName) -> str:
    """How a job is called in the ledger."""
    return f"job/{job}"
