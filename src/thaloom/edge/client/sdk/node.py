# Made from async_node.py by tools/generate_sync_client.py (make docs): change that one.
"""The control API: what is kept and served on a node, and how it does. `client.node` of a client."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Unpack

from thaloom.base.errors import DeadlineExceeded, InternalError, NodeNotRunning, ServiceFailed, ThaloomError
from thaloom.edge.client.sdk.answers import understood_line
from thaloom.edge.client.sdk.calls import Call, delete, get, post, put
from thaloom.edge.client.sdk.connection import Connection, Stream
from thaloom.edge.client.sdk.options import ServeOptions
from thaloom.edge.wire import control as wire

OnProgress = Callable[[wire.Progress], None]
POLL_S = 0.05
_P = wire.PREFIX


class Node:
    """Every method raises the leaf that the node raised, and NodeNotRunning where none answers.

    A model is named `NAME` or `NAME:TAG`. Sizes are bytes, durations seconds, moments seconds since the epoch.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

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

    # -- models

    def models(self) -> list[wire.Model]:
        """The models in the store, served or not.

        >>> [model.name for model in client.node.models()]
        """
        return (self._connection.ask(wire.Models, get(f"{_P}/models"))).models

    def model(self, name: str) -> wire.Model:
        """A model's card and files. Raises ModelNotFound.

        >>> (client.node.model("tiny")).card.num_parameters
        """
        return self._connection.ask(wire.Model, get(f"{_P}/models/{{}}", name))

    def pull(
        self, source: str, *, name: str | None = None, replace: bool = False, on_progress: OnProgress | None = None
    ) -> wire.Model:
        """Import a model: an absolute path on the node's machine, or the name of a bundled model. Leaving (an
        exception, Ctrl-C) ends the import; nothing half-done stays behind.

        >>> client.node.pull("tiny", on_progress=lambda step: print(step.stage, step.done_bytes))
        """
        call = post(f"{_P}/models/pull", source=source, name=name, replace=replace)
        return self._made(call, on_progress)

    def quantise(
        self,
        model: str,
        *,
        to: str,
        name: str | None = None,
        replace: bool = False,
        text: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> wire.Model:
        """Make a model in whole numbers (`to`: int8 or int4) of one in floats. Leaving ends the work.

        >>> (client.node.quantise("tiny", to="int8")).card.quantisation
        """
        call = post(f"{_P}/models/{{}}/quantise", model, to=to, name=name, replace=replace, text=text)
        return self._made(call, on_progress)

    def verify(self, name: str, *, on_progress: OnProgress | None = None) -> wire.Verification:
        """Have every byte of the model read again. Leaving ends the work.

        >>> (client.node.verify("tiny")).faults
        """
        call = post(f"{_P}/models/{{}}/verify", name, repeatable=True)
        done = self._followed(call, on_progress)
        if isinstance(done, wire.VerifyDone):
            return done.verification
        raise InternalError(f"the answer to {call.method} {call.target} is not a verification")

    def remove_model(self, name: str) -> wire.Removed:
        """Take a model out of the store. Raises ModelInUse while it is served.

        >>> client.node.remove_model("tiny-int8")
        """
        return self._connection.ask(wire.Removed, delete(f"{_P}/models/{{}}", name))

    # -- services

    def services(self) -> list[wire.Service]:
        """What is served, as it is now.

        >>> [(service.name, service.phase) for service in client.node.services()]
        """
        return (self._connection.ask(wire.Services, get(f"{_P}/services"))).services

    def service(self, name: str) -> wire.Service:
        """One service. Raises ServiceNotFound.

        >>> (client.node.service("tiny")).running
        """
        return self._connection.ask(wire.Service, get(f"{_P}/services/{{}}", name))

    def serve(self, name: str, *, model: str | None = None, **wish: Unpack[ServeOptions]) -> wire.Service:
        """Wish for a service, or change the wish; `model`: by default the model of the same name. Returns at once, see
        `wait_ready`.

        >>> client.node.serve("chat", model="tiny", context_length=1024)
        >>> client.node.wait_ready("chat")
        """
        return self._connection.ask(wire.Service, put(f"{_P}/services/{{}}", name, model=model or name, **wish))

    def stop(self, name: str) -> wire.Removed:
        """Wish for the service no longer. Its worker ends what it is answering first.

        >>> client.node.stop("chat")
        """
        return self._connection.ask(wire.Removed, delete(f"{_P}/services/{{}}", name))

    def wait_ready(self, name: str, *, timeout_s: float = 300.0) -> wire.Service:
        """The service once it is ready. Raises ServiceFailed with its reason, or DeadlineExceeded.

        >>> (client.node.wait_ready("tiny", timeout_s=60)).phase
        'ready'
        """
        deadline = time.monotonic() + timeout_s
        while True:
            service = self.service(name)
            ready = service.condition("Ready")
            if service.phase == "ready":
                return service
            why = ready.message if ready else ""
            if service.phase == "failed":
                raise ServiceFailed(f"{name!r}: {why or 'failed'}", service=name)
            if time.monotonic() >= deadline:
                told = f"{name!r} is still {service.phase} after {timeout_s:g} s"
                raise DeadlineExceeded(f"{told} ({why})" if why else told, service=name)
            time.sleep(POLL_S)

    def logs(self, name: str, *, follow: bool = False, tail: int = 100) -> Stream[str]:
        """The last `tail` lines of a service's log, without line ends; with `follow`, then all that come.

        >>> with client.node.logs("tiny", tail=10) as lines:
        ...     for line in lines:
        ...         print(line)
        """
        call = get(f"{_P}/services/{{}}/logs", name, follow=follow, tail=tail, endless=follow)

        def texts() -> Generator[str, None, None]:
            with contextlib.closing(self._connection.lines(call)) as lines:
                for line in lines:
                    yield line.decode(errors="replace")

        return Stream(texts())

    def openapi(self) -> dict[str, object]:
        """The control API, described (OpenAPI 3.1).

        >>> sorted((client.node.openapi())["paths"])
        """
        return self._connection.ask_object(get(f"{_P}/openapi.json"))

    # -- below

    def _made(self, call: Call, on_progress: OnProgress | None) -> wire.Model:
        done = self._followed(call, on_progress)
        if isinstance(done, wire.PullDone):
            return done.model
        raise InternalError(f"the answer to {call.method} {call.target} is not a model")

    def _followed(self, call: Call, on_progress: OnProgress | None) -> wire.PullDone | wire.VerifyDone:
        """The last word of an answer that tells of its progress."""
        with contextlib.closing(self._connection.lines(call)) as lines:
            for line in lines:
                match understood_line(call, line):
                    case wire.Progress() as progress:
                        if on_progress is not None:
                            on_progress(progress)
                    case wire.StreamError(error=error):
                        raise ThaloomError.from_dict(error.model_dump())
                    case wire.PullDone() | wire.VerifyDone() as done:
                        return done
        raise NodeNotRunning("the node went away before it was done")
