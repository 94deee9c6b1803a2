"""The control API: what is kept and served on a node, and how it does. `client.node` of a client."""

from __future__ import annotations

from thaloom.edge.client.sdk.async_access import AsyncAccess
from thaloom.edge.client.sdk.async_actions import AsyncActions
from thaloom.edge.client.sdk.async_certificates import AsyncCertificates
from thaloom.edge.client.sdk.async_documents import AsyncDocuments
from thaloom.edge.client.sdk.async_encryption import AsyncEncryption
from thaloom.edge.client.sdk.async_jobs import AsyncJobs
from thaloom.edge.client.sdk.async_models import AsyncModels
from thaloom.edge.client.sdk.async_services import AsyncServices
from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class AsyncNode(
    AsyncModels, AsyncServices, AsyncJobs, AsyncDocuments, AsyncActions, AsyncEncryption, AsyncCertificates, AsyncAccess
):
    """Every method raises the leaf that the node raised, and NodeNotRunning where none answers.

    A model is named `NAME` or `NAME:TAG`. Sizes are bytes, durations seconds, moments seconds since the epoch.
    """

    # -- the node

    async def version(self) -> wire.Version:
        """What the node's daemon is.

        >>> (await client.node.version()).api
        'v1'
        """
        return await self._connection.ask(wire.Version, get(f"{_P}/version"))

    async def status(self) -> wire.NodeStatus:
        """The node with its memory and its services.

        >>> [memory.free_bytes for memory in (await client.node.status()).memory]
        """
        return await self._connection.ask(wire.NodeStatus, get(f"{_P}/status"))

    async def processes(self) -> list[wire.Process]:
        """The processes of this node.

        >>> [process.role for process in await client.node.processes()]
        """
        return (await self._connection.ask(wire.Processes, get(f"{_P}/processes"))).processes

    async def events(self, *, limit: int = 100) -> list[wire.Event]:
        """What happened last, the newest last.

        >>> [event.name for event in await client.node.events(limit=5)]
        """
        return (await self._connection.ask(wire.Events, get(f"{_P}/events", limit=limit))).events

    async def outgoing(self) -> wire.Outgoing:
        """Whether this node calls out, and which calls it did not make.

        >>> (await client.node.outgoing()).closed
        """
        return await self._connection.ask(wire.Outgoing, get(f"{_P}/outgoing"))

    async def down(self) -> wire.GoingDown:
        """Ask the node to stop. It has when the process named in the answer has ended.

        >>> (await client.node.down()).pid
        """
        return await self._connection.ask(wire.GoingDown, post(f"{_P}/down"))

    # -- devices

    async def devices(self) -> wire.Devices:
        """The devices that the drivers found, and the drivers that cannot be used, with the reason.

        >>> [device.id for device in (await client.node.devices()).devices]
        ['cpu']
        """
        return await self._connection.ask(wire.Devices, get(f"{_P}/devices"))

    async def device(self, device: str) -> wire.Device:
        """One device. Raises DeviceNotFound.

        >>> (await client.node.device("cpu")).num_cores
        """
        return await self._connection.ask(wire.Device, get(f"{_P}/devices/{{}}", device))

    async def openapi(self) -> dict[str, object]:
        """The control API, described (OpenAPI 3.1).

        >>> sorted((await client.node.openapi())["paths"])
        """
        return await self._connection.ask_object(get(f"{_P}/openapi.json"))
