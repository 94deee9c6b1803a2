"""What forbids a service: a name that cannot be, a model or device that is not there, bytes that are not free."""

from __future__ import annotations

import asyncio
import dataclasses
import re

from thaloom.base.errors import BadParameter, OutOfMemory
from thaloom.base.ids import ServiceName
from thaloom.init.aliasing import Aliasing
from thaloom.init.node_memory import NodeMemory
from thaloom.init.placement import Planner
from thaloom.init.reconcile import shortage
from thaloom.init.supervisor import Supervisor
from thaloom.init.tenancy import Tenancy
from thaloom.kernel.models.store import ModelStore
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
        engine_hosts: tuple[str, ...],
    ) -> None:
        self._models = models
        self._planner = planner
        self._memory = memory
        self._supervisor = supervisor
        self._aliasing = aliasing
        self._tenancy = tenancy
        self.engine_hosts = engine_hosts

    async def completed(self, spec: ServiceSpec) -> ServiceSpec:
        """The wish, with the one engine there is for the model where the caller left that open."""
        if spec.engine != "thaloom":
            return spec
        manifest = await asyncio.to_thread(self._models.get, spec.model)
        return dataclasses.replace(spec, engine="onnx") if manifest.card.family == "onnx" else spec

    async def check(self, spec: ServiceSpec) -> None:
        """Raises BadParameter, NameTaken, OutOfMemory and QuotaExceeded with the figures, and what the planner says of
        the model."""
        require_service_name(spec.name)
        if spec.engine == "openai":
            place_of(spec.url, self.engine_hosts)
        self._aliasing.refuse_name(spec.name)
        plan = await self._planner.make(spec)
        mine = [process.id for process in self._supervisor if process.lease.service == spec.name]
        free = self._memory.free_bytes(self._supervisor)[plan.device] + self._memory.held_bytes(mine, plan.device)
        needed_bytes = plan.estimate.total_bytes * spec.replicas
        if needed_bytes > free:
            raise OutOfMemory(
                shortage(spec.name, plan.device, needed_bytes, free),
                device=plan.device,
                needed_bytes=needed_bytes,
                free_bytes=free,
                weight_bytes=plan.estimate.weight_bytes,
                kv_bytes=plan.estimate.kv_bytes,
            )
        await self._tenancy.check_service(spec, needed_bytes)

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
