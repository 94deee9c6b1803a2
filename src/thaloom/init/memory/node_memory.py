"""Bytes promised to workers, and bytes really free: the ledger beside the measure, the smaller one counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from thaloom.base.errors import OutOfMemory
from thaloom.base.ids import DeviceId, WorkerId
from thaloom.base.procs import resident_bytes, unshared_bytes
from thaloom.hal.types import Device, Reading
from thaloom.init.memory.admission import WORKER_BASE_BYTES, Estimate
from thaloom.init.memory.lending import Lending
from thaloom.init.rounds.supervisor import Supervised
from thaloom.kernel.memory.ledger import Ledger
from thaloom.kernel.state.types import GUESTS, DeviceMemory

_PROGRAM = "program"
_PROCESS = "process"
"""What a worker holds besides weights, keys and values, and scratch: interpreter and libraries."""
_KV_HOST = "kv_host"
"""Keys and values that left the device."""
STANDBY = "standby"
"""Owner of what a worker holds that waits (init.rounds.standby)."""


class Sharing(Protocol):
    """Memory of the host that workers use together, or come back for."""

    def held(self) -> Mapping[str, tuple[int, frozenset[WorkerId]]]:
        """Bytes and users of each that anybody uses, by owner: each is booked once, whoever uses it."""
        ...

    def idle_bytes(self) -> int:
        """What of it nobody uses: free, as far as the asking goes."""
        ...

    def make_room(self, needed_bytes: int) -> int:
        """Give back so many of them, or all; how many that were."""
        ...


class NothingShared:
    def held(self) -> Mapping[str, tuple[int, frozenset[WorkerId]]]:
        return {}

    def idle_bytes(self) -> int:
        return 0

    def make_room(self, needed_bytes: int) -> int:  # noqa: ARG002
        return 0


class NodeMemory:
    """The ledger of this node's devices, kept by worker."""

    def __init__(
        self,
        devices: Iterable[Device],
        *,
        host_total_bytes: int,
        host_available: Callable[[], int],
        readings: Callable[[], Mapping[DeviceId, Reading]],
        headroom_bytes: int,
    ) -> None:
        self._on_host = frozenset(device.id for device in devices if device.kind == "cpu")
        self._capacity = {
            device.id: (
                max(0, min(device.memory_bytes, host_total_bytes) - headroom_bytes)
                if device.id in self._on_host
                else device.memory_bytes
            )
            for device in devices
        }
        self._ledger = Ledger(self._capacity)
        self._host_available = host_available
        self._readings = readings
        self._headroom_bytes = headroom_bytes
        self.lending: Lending | None = None
        """Where workers of the host lend each other pages, if they do."""
        self._coming: dict[str, int] = {}
        """Bytes promised to workers that have not sat down there yet, if they lived to."""
        self.others: Callable[[], Mapping[str, int]] = dict
        """What those hold now who book memory and are no workers, by owner, as far as it is counted."""
        self.sharing: Sharing = NothingShared()
        self._shared: set[str] = set()
        """Owners that are booked for it."""
        self._promised_bytes = 0
        """Of the host, as of the last look."""
        self.kept_bytes = 0
        """What the standby holds, as of the last look."""
        self.give_up: Callable[[], int] = lambda: 0
        """Ends what is kept (`keep`); how many bytes it had."""

    async def admit(self, worker: WorkerId, device: DeviceId, estimate: Estimate, *, lends: bool) -> None:
        """Book an estimate, and wait for what of it is lent. Raises OutOfMemory with the figures, and then nothing is
        booked."""
        self.reserve(worker, device, estimate)
        try:
            if lends:
                self._coming[worker] = estimate.kv_bytes
            if host_bytes := self._host_bytes(device, estimate):
                await self.take_back(worker, host_bytes)
        except BaseException:
            self.release(worker)
            raise

    async def take_back(self, owner: str, num_bytes: int) -> None:
        """When what was just booked of the host's memory is lent to nobody any more. Raises OutOfMemory naming those
        who keep it."""
        if self.lending is not None:
            await self.lending.take_back(owner, num_bytes, self._coming)

    def settle(self, processes: Iterable[Supervised]) -> None:
        """Lend what nobody has booked, and no more than there is: what is shared and idle counts as free, but only
        until somebody books it."""
        if self.lending is not None:
            free = self.free_bytes(processes)[self.lending.device]
            self.lending.settle(self._coming, free - self._idle_bytes())

    def expect(self, worker: WorkerId, device: DeviceId, estimate: Estimate, *, lends: bool) -> None:
        """Book for one that is loading already, under an earlier daemon's eyes: never refused."""
        for purpose, num_bytes in _purposes(estimate).items():
            self._correct(worker, device, num_bytes, purpose)
        if lends:
            self._coming[worker] = estimate.kv_bytes

    def reserve(self, worker: WorkerId, device: DeviceId, estimate: Estimate) -> None:
        """Book an estimate. Raises OutOfMemory with the figures, and then nothing is booked."""
        if host_bytes := self._host_bytes(device, estimate):
            self._make_room(host_bytes)
        try:
            for purpose, num_bytes in _purposes(estimate).items():
                self._ledger.reserve(worker, self._where(device, purpose), num_bytes, purpose=purpose)
        except BaseException:
            self._ledger.release(worker)
            raise

    def _where(self, device: DeviceId, purpose: str) -> DeviceId:
        """Whose memory it is: what left a device lies in the host's."""
        return self.host or device if purpose == _KV_HOST else device

    def _host_bytes(self, device: DeviceId, estimate: Estimate) -> int:
        return estimate.total_bytes if device in self._on_host else estimate.kv_host_bytes

    def _correct(self, worker: WorkerId, device: DeviceId, num_bytes: int, purpose: str) -> None:
        """Whatever was booked for it before, if anything was."""
        device = self._where(device, purpose)
        if not any(entry.owner == worker and entry.purpose == purpose for entry in self._ledger.holdings()):
            self._ledger.reserve(worker, device, 0, purpose=purpose)
        self._ledger.correct(worker, device, num_bytes, purpose=purpose)

    def measured(self, process: Supervised) -> None:
        """Put what the worker says it took in the place of the estimates; also books one that was adopted."""
        stats = process.stats
        if stats is None or not stats.ready or stats.device not in self._capacity:
            return
        device = DeviceId(stats.device)
        self._coming.pop(process.id, None)  # it sits at the board by now, or will not
        if stats.engine in GUESTS:
            self._measured_foreign(process.id, device, stats.weight_bytes)
            return
        has_owner = any(process.id in users for _, users in self.sharing.held().values())
        weights = stats.weight_bytes - (stats.shared_weight_bytes if has_owner else 0)
        taken = {"weights": weights, "kv": stats.kv_bytes, "scratch": stats.scratch_bytes}
        if stats.kv_host_bytes:
            taken[_KV_HOST] = stats.kv_host_bytes
        held = sum(taken.values())
        if device in self._on_host:  # pages not touched yet are not resident: never below what an empty worker takes
            lent = 0
            if self.lending is not None:
                self.lending.look()
                lent = self.lending.lent_bytes().get(process.id, 0)
            taken[_PROCESS] = max(WORKER_BASE_BYTES, _own_bytes(process) - held - lent)
        for purpose, num_bytes in taken.items():
            self._correct(process.id, device, num_bytes, purpose)

    def measured_sharing(self) -> None:
        """Book what workers share, each once, and nothing for what nobody uses any more."""
        held = {} if self.host is None else self.sharing.held()
        for owner in self._shared - held.keys():
            self._ledger.release(owner)
        for owner, (num_bytes, _) in held.items():
            assert self.host is not None, "memory is shared on a node that has none"
            if owner not in self._shared:
                self._ledger.reserve(owner, self.host, 0, purpose="weights")
            self._ledger.correct(owner, self.host, num_bytes, purpose="weights")
        self._shared = set(held)

    def _measured_foreign(self, worker: WorkerId, device: DeviceId, resident: int) -> None:
        """Of a foreign engine only what its processes hold is seen, and on the host alone: never less than estimated,
        for what it has not touched yet it may touch any moment."""
        if device not in self._on_host:
            return
        booked = {entry.purpose: entry.num_bytes for entry in self._ledger.holdings(device) if entry.owner == worker}
        rest = booked.get("kv", 0) + booked.get("scratch", 0)
        weights = max(booked.get("weights", 0), resident - rest)
        for purpose, num_bytes in (("weights", weights), (_PROCESS, WORKER_BASE_BYTES)):
            if purpose not in booked:
                self._ledger.reserve(worker, device, 0, purpose=purpose)
            self._ledger.correct(worker, device, num_bytes, purpose=purpose)

    def release(self, worker: WorkerId) -> None:
        self._ledger.release(worker)
        self._coming.pop(worker, None)
        if self.lending is not None:
            self.lending.sweep()

    def free_bytes(self, processes: Iterable[Supervised]) -> dict[DeviceId, int]:
        """What each device can still be asked for: by the ledger, and by measure less what is promised but not yet
        in use."""
        if self.lending is not None:
            self.lending.look()
        resident: dict[str, int] = {process.id: _resident(process) for process in processes if process.alive}
        resident |= self.others()
        resident |= {owner: num_bytes for owner, (num_bytes, _) in self.sharing.held().items()}
        resident[STANDBY] = self.kept_bytes
        lent = {} if self.lending is None else self.lending.lent_bytes()
        idle = self._idle_bytes()
        readings = self._readings()
        free = {}
        for device in self._capacity:
            measured = self._measured_free(device, readings)
            promised = self._promised(device, resident, lent) - idle if device in self._on_host else 0
            by_ledger = self._ledger.free_bytes(device)
            if device == self.host:
                self._promised_bytes = promised + idle
                by_ledger += self.kept_bytes
            free[device] = by_ledger if measured is None else min(by_ledger, measured - promised)
        return free

    def held_bytes(self, workers: Iterable[WorkerId], device: DeviceId) -> int:
        """What these workers hold there: comes back when they end."""
        owners: set[str] = set(workers)
        if device in self._on_host:
            owners |= {owner for owner, (_, users) in self.sharing.held().items() if users <= owners}
        return sum(entry.num_bytes for entry in self._ledger.holdings(device) if entry.owner in owners)

    def devices_of(self, worker: WorkerId) -> tuple[DeviceId, ...]:
        """Where it holds anything."""
        return tuple({entry.device: None for entry in self._ledger.holdings() if entry.owner == worker})

    # -- programs that are no workers: memory of the host, and devices for themselves alone

    @property
    def host(self) -> DeviceId | None:
        """The device whose memory is the host's; None on a node that has no driver for it."""
        return min(self._on_host, default=None)

    def host_capacity_bytes(self) -> int:
        """All there is to be given, whoever holds it now."""
        return 0 if self.host is None else self._ledger.capacity_bytes(self.host)

    def host_free_bytes(self, processes: Iterable[Supervised]) -> int:
        return 0 if self.host is None else self.free_bytes(processes)[self.host]

    def accelerators(self) -> tuple[DeviceId, ...]:
        return tuple(sorted(device for device in self._capacity if device not in self._on_host))

    def idle_accelerators(self) -> tuple[DeviceId, ...]:
        """Those nobody holds anything of."""
        held = {entry.device for entry in self._ledger.holdings()}
        return tuple(device for device in self.accelerators() if device not in held)

    def book(self, owner: str, num_bytes: int, num_devices: int) -> tuple[DeviceId, ...]:
        """Memory of the host, and devices as a whole; returns those. Raises OutOfMemory, and then nothing is booked."""
        devices = self.idle_accelerators()[:num_devices]
        if len(devices) < num_devices or self.host is None:
            raise OutOfMemory(f"{owner} needs {num_devices} devices, {len(devices)} are free", needed=num_devices)
        self._make_room(num_bytes)
        self._ledger.reserve(owner, self.host, num_bytes, purpose=_PROGRAM)
        for device in devices:
            self._ledger.reserve(owner, device, self._ledger.capacity_bytes(device), purpose=_PROGRAM)
        return devices

    def adopt(self, owner: str, num_bytes: int, devices: Iterable[str]) -> None:
        """Book for one that holds it already: never refused."""
        for device, held in [(self.host, num_bytes), *((DeviceId(name), None) for name in devices)]:
            if device is not None and device in self._capacity:
                self._ledger.reserve(owner, device, 0, purpose=_PROGRAM)
                num = self._ledger.capacity_bytes(device) if held is None else held
                self._ledger.correct(owner, device, num, purpose=_PROGRAM)

    def give_back(self, owner: str) -> None:
        """All it has booked."""
        self._ledger.release(owner)

    def keep(self, num_bytes: int) -> None:
        """Book what the standby holds; 0: there is none. It counts as free, for it is ended when memory is asked for
        that is not there without."""
        if self.host is None:
            return
        self._came_back(max(0, self.kept_bytes - num_bytes))
        self.hand_over()
        self.kept_bytes = num_bytes
        if num_bytes:
            self._ledger.reserve(STANDBY, self.host, 0, purpose=_PROCESS)
            self._ledger.correct(STANDBY, self.host, num_bytes, purpose=_PROCESS)

    def hand_over(self) -> None:
        """What the standby held is part of what a worker is booked for from now on: it did not come back, and lending
        has none of it."""
        self.kept_bytes = 0
        self._ledger.release(STANDBY)

    def report(self, processes: Iterable[Supervised] = ()) -> tuple[DeviceMemory, ...]:
        """The books, and beside them what the system says the processes hold that are in them."""
        lent = sum(self.lending.lent_bytes().values()) if self.lending is not None else 0
        measured = sum(_resident(process) for process in processes if process.alive) + sum(self.others().values())
        measured += sum(num_bytes for num_bytes, _ in self.sharing.held().values()) + self.kept_bytes
        return tuple(
            DeviceMemory(
                device=device,
                capacity_bytes=capacity,
                reserved_bytes=capacity - self._ledger.free_bytes(device),
                free_bytes=self._ledger.free_bytes(device),
                lent_bytes=lent if device in self._on_host else 0,
                measured_bytes=measured if device in self._on_host else None,
            )
            for device, capacity in self._capacity.items()
        )

    def check(self) -> None:
        self._ledger.check()

    def _make_room(self, needed_bytes: int) -> None:
        """For what is about to be promised: what is idle counts as free, and so has to go when it is asked for."""
        really_free = self._host_available() - self._headroom_bytes - self._promised_bytes
        booked_free = really_free if self.host is None else self._ledger.free_bytes(self.host)
        if self.kept_bytes and needed_bytes > min(really_free, booked_free):
            really_free += self.give_up()
        if needed_bytes > really_free:
            self._came_back(self.sharing.make_room(needed_bytes - really_free))

    def _came_back(self, num_bytes: int) -> None:
        if self.lending is not None:
            self.lending.freed(num_bytes)

    def _idle_bytes(self) -> int:
        return self.sharing.idle_bytes() + self.kept_bytes

    def _measured_free(self, device: DeviceId, readings: Mapping[DeviceId, Reading]) -> int | None:
        if device in self._on_host:
            return self._host_available() - self._headroom_bytes
        reading = readings.get(device)
        return None if reading is None else reading.memory_free_bytes

    def _promised(self, device: DeviceId, resident: Mapping[str, int], lent: Mapping[str, int]) -> int:
        """What is promised and not yet in use, less what is in use and only lent."""
        booked: dict[str, int] = {}
        for entry in self._ledger.holdings(device):
            booked[entry.owner] = booked.get(entry.owner, 0) + entry.num_bytes
        return sum(max(num_bytes - resident.get(owner, 0), -lent.get(owner, 0)) for owner, num_bytes in booked.items())


def _purposes(estimate: Estimate) -> dict[str, int]:
    taken = {
        "weights": estimate.weight_bytes,
        "kv": estimate.kv_bytes,
        "scratch": estimate.scratch_bytes,
        _PROCESS: estimate.process_bytes,
    }
    return taken | ({_KV_HOST: estimate.kv_host_bytes} if estimate.kv_host_bytes else {})


def _resident(process: Supervised) -> int:
    """With what a foreign engine's processes hold, which are not the worker's own."""
    stats = process.stats
    foreign = stats.weight_bytes if stats is not None and stats.ready and stats.engine in GUESTS else 0
    return foreign + _own_bytes(process)


def _own_bytes(process: Supervised) -> int:
    """Resident, without weights that it shares: those are another owner's."""
    stats, pid = process.stats, process.lease.pid
    shares = stats is None or not stats.ready or stats.shared_weight_bytes > 0
    return (unshared_bytes(pid) if shares else resident_bytes(pid)) or 0
