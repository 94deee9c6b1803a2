"""What forbids a service: a name that cannot be, a model or device that is not there, bytes that are not free."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from thaloom.base.errors import BadParameter, OutOfMemory, ThaloomError
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.init.access.tenancy import Tenancy
from thaloom.init.aliasing import Aliasing
from thaloom.init.memory.idling import Idling
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.placement import Placement, Planner
from thaloom.init.memory.shortage import counterfactual, needs
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.sched.idling import Loaded, room_for, room_in_s
from thaloom.kernel.state.types import ServiceSpec
from thaloom.work.runtime.engines.places import place_of

_SERVICE = re.compile(r"[a-z0-9][A-Za-z0-9._:-]{0,126}(@[a-z0-9][a-z0-9-]{0,31})?")
"""With its tenant, where it has one."""
_RESERVED = ("daemon", "door")
"""Their logs lie beside the services' logs."""


class ServiceGuard:
    """Refuses a wish that cannot be met as things are."""

    def __init__(
        self,
        models: ModelStore,
        *,
        planner: Planner,
        memory: NodeMemory,
        supervisor: Supervisor,
        aliasing: Aliasing,
        tenancy: Tenancy,
        idling: Idling,
        engine_hosts: tuple[str, ...],
        walls: Callable[[ServiceSpec], None],
    ) -> None:
        """`walls`: raises for what no wall of this host can hold."""
        self._models = models
        self._planner = planner
        self._memory = memory
        self._supervisor = supervisor
        self._aliasing = aliasing
        self._tenancy = tenancy
        self._idling = idling
        self.engine_hosts = engine_hosts
        self._walls = walls

    async def completed(self, spec: ServiceSpec) -> ServiceSpec:
        """The wish, with the one engine there is for the model where the caller left that open."""
        if spec.engine != "thaloom":
            return spec
        manifest = await asyncio.to_thread(self._models.get, spec.model)
        return dataclasses.replace(spec, engine="onnx") if manifest.card.family == "onnx" else spec

    async def check(self, spec: ServiceSpec) -> None:
        """Raises BadParameter, NotEnforceable, NameTaken, OutOfMemory and QuotaExceeded with the figures, and what the
        planner says of the model."""
        await self.check_all([spec])

    async def check_all(self, specs: Sequence[ServiceSpec], *, leaving: Iterable[ServiceName] = ()) -> None:
        """Of several that are wished at once, in the place of those that leave. Raises as `check`; `subject` among the
        details says of which."""
        known: dict[str, Placement] = {}
        plans = [await self._planned(spec, known) for spec in specs]
        changing = {spec.name for spec in specs} | set(leaving)
        mine = [process.id for process in self._supervisor if process.lease.service in changing]
        free = self._memory.free_bytes(self._supervisor)
        held = {device: self._memory.held_bytes(mine, device) for device in {plan.device for plan in plans}}
        for device, num_bytes in self._idling.leaving_bytes().items():
            free[device] += num_bytes
        others = [one for one in self._idling.loaded() if one.service not in changing]
        needed: Counter[DeviceId] = Counter()
        for spec, plan in zip(specs, plans, strict=True):
            needed[plan.device] += plan.estimate.total_bytes * spec.replicas
            free_bytes = free[plan.device] + held[plan.device]
            if needed[plan.device] > free_bytes:
                self._require_room(spec.name, plan, needed[plan.device], free_bytes, others)
            await self._tenancy.check_service(spec, plan.estimate.total_bytes * spec.replicas)

    def _require_room(
        self, service: ServiceName, plan: Placement, needed_bytes: int, free_bytes: int, others: Sequence[Loaded]
    ) -> None:
        """Idle services make it, if they hold enough (init.rounds.reconcile sees to that). Raises OutOfMemory."""
        device = plan.device
        there = [one for one in others if one.device == device]
        if room_for(needed_bytes, free_bytes, there) is not None:
            return
        raise OutOfMemory(
            f"{service!r} {needs(service, device, needed_bytes, free_bytes, others)}",
            retry_after_s=room_in_s(needed_bytes, free_bytes, there),
            device=device,
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            weight_bytes=plan.estimate.weight_bytes,
            kv_bytes=plan.estimate.kv_bytes,
            subject=f"service/{service}",
            would_fit_without=counterfactual(service, device, needed_bytes, free_bytes, others),
        )

    async def _planned(self, spec: ServiceSpec, known: dict[str, Placement]) -> Placement:
        try:
            require_service_name(spec.name)
            self._walls(spec)
            if spec.engine == "openai":
                place_of(spec.url, self.engine_hosts)
            self._aliasing.refuse_name(spec.name)
            return await self._planner.make_alike(spec, known)
        except ThaloomError as error:
            error.details = {"subject": f"service/{spec.name}"} | error.details
            raise

    def workers(self, service: ServiceName) -> list[str]:
        """Who serves it now."""
        return [process.id for process in self._supervisor if process.lease.service == service and process.alive]


def is_service_name(name: str) -> bool:
    return bool(_SERVICE.fullmatch(name)) and ".." not in name and name not in _RESERVED


def require_service_name(name: str) -> None:
    if not is_service_name(name):
        raise BadParameter(
            f"not a name for a service: {name!r} (letters, digits, '.', '_', '-', ':'; not {' or '.join(_RESERVED)})",
            param="name",
        )
