# Made from async_node.py by tools/generate_sync_client.py (make docs): change that one.
"""The control API: what is kept and served on a node, and how it does. `client.node` of a client."""

from __future__ import annotations

from thaloom.edge.client.sdk.access import Access
from thaloom.edge.client.sdk.actions import Actions
from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.client.sdk.certificates import Certificates
from thaloom.edge.client.sdk.documents import Documents
from thaloom.edge.client.sdk.encryption import Encryption
from thaloom.edge.client.sdk.jobs import Jobs
from thaloom.edge.client.sdk.models import Models
from thaloom.edge.client.sdk.services import Services
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class Node(Models, Services, Jobs, Documents, Actions, Encryption, Certificates, Access):
    """Every method raises the leaf that the node raised, and NodeNotRunning where none answers.

    A model is named `NAME` or `NAME:TAG`. Sizes are bytes, durations seconds, moments seconds since the epoch.
    """

    # -- the node

    def version(self) -> wire.Version:
        """What the node's daemon is.

        >>> (client.node.version()).api
        'v1'
        """
        return self._connection.ask(wire.Version, get(f"{_P}/version"))

    def status(self) -> wire.NodeStatus:
        """The node with its memory and its services.

        >>> [memory.free_bytes for memory in (client.node.status()).memory]
        """
        return self._connection.ask(wire.NodeStatus, get(f"{_P}/status"))

    def processes(self) -> list[wire.Process]:
        """The processes of this node.

        >>> [process.role for process in client.node.processes()]
        """
        return (self._connection.ask(wire.Processes, get(f"{_P}/processes"))).processes

    def events(self, *, limit: int = 100) -> list[wire.Event]:
        """What happened last, the newest last.

        >>> [event.name for event in client.node.events(limit=5)]
        """
        return (self._connection.ask(wire.Events, get(f"{_P}/events", limit=limit))).events

    def outgoing(self) -> wire.Outgoing:
        """Whether this node calls out, and which calls it did not make.

        >>> (client.node.outgoing()).closed
        """
        return self._connection.ask(wire.Outgoing, get(f"{_P}/outgoing"))

    def down(self) -> wire.GoingDown:
        """Ask the node to stop. It has when the process named in the answer has ended.

        >>> (client.node.down()).pid
        """
        return self._connection.ask(wire.GoingDown, post(f"{_P}/down"))

    # -- devices

    def devices(self) -> wire.Devices:
        """The devices that the drivers found, and the drivers that cannot be used, with the reason.

        >>> [device.id for device in (client.node.devices()).devices]
        ['cpu']
        """
        return self._connection.ask(wire.Devices, get(f"{_P}/devices"))

    def device(self, device: str) -> wire.Device:
        """One device. Raises DeviceNotFound.

        >>> (client.node.device("cpu")).num_cores
        """
        return self._connection.ask(wire.Device, get(f"{_P}/devices/{{}}", device))

    def openapi(self) -> dict[str, object]:
        """The control API, described (OpenAPI 3.1).

        >>> sorted((client.node.openapi())["paths"])
        """
        return self._connection.ask_object(get(f"{_P}/openapi.json"))
