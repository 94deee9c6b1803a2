"""What the protocol needs of the node beside its models' answers. `edge.client.control_async` is it in real life."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from thaloom.base.access import seen_name, tenant_of
from thaloom.edge.api.entrance.visits import kept_model, only_of_node, tenant_of_request
from thaloom.edge.wire import control


class Node(Protocol):
    """Every method may raise a leaf of the tree: NodeNotRunning, ModelNotFound, ServiceNotFound, ModelInUse ..."""

    async def models(self) -> list[control.Model]: ...
    async def model(self, name: str) -> control.Model: ...
    async def copy_model(self, name: str, request: control.CopyRequest) -> control.Model: ...
    async def remove_model(self, name: str) -> control.Removed: ...
    async def services(self) -> list[control.Service]: ...
    async def service(self, name: str) -> control.Service: ...
    async def serve(self, name: str, request: control.ServeRequest) -> control.Service: ...
    async def stop(self, name: str) -> control.Removed: ...
    async def keep_alive(self, name: str, seconds: float) -> control.Service: ...

    def pull(self, request: control.PullRequest) -> AsyncGenerator[control.Progress | control.PullDone, None]:
        """Closing the iterator leaves the pull."""
        ...


class OfHolder:
    """A node as the holder of the request's key sees it: his tenant's services by the names he has for them, and no
    others'. The store is the node's: he may look, and change nothing of it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def models(self) -> list[control.Model]:
        return await self._node.models()

    async def model(self, name: str) -> control.Model:
        return await self._node.model(name)

    async def copy_model(self, name: str, request: control.CopyRequest) -> control.Model:
        only_of_node("the store")
        return await self._node.copy_model(name, request)

    async def remove_model(self, name: str) -> control.Removed:
        only_of_node("the store")
        return await self._node.remove_model(name)

    async def services(self) -> list[control.Service]:
        tenant = tenant_of_request()
        found = await self._node.services()
        return [_seen(service, tenant) for service in found if tenant_of(service.name) == tenant]

    async def service(self, name: str) -> control.Service:
        return _seen(await self._node.service(kept_model(name)), tenant_of_request())

    async def serve(self, name: str, request: control.ServeRequest) -> control.Service:
        only_of_node("starting a service by asking for it")
        return await self._node.serve(name, request)

    async def stop(self, name: str) -> control.Removed:
        only_of_node("stopping a service")
        return await self._node.stop(name)

    async def keep_alive(self, name: str, seconds: float) -> control.Service:
        only_of_node("how long a model stays")
        return await self._node.keep_alive(name, seconds)

    def pull(self, request: control.PullRequest) -> AsyncGenerator[control.Progress | control.PullDone, None]:
        only_of_node("the store")
        return self._node.pull(request)


def _seen(service: control.Service, tenant: str | None) -> control.Service:
    name = seen_name(service.name, tenant)
    return service.model_copy(update={"name": name, "spec": service.spec.model_copy(update={"name": name})})
