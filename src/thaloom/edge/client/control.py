"""The control API from the caller's side, over the node's unix socket.

    with ControlClient() as node:
        node.serve("tiny", ServeRequest(model="tiny"))
        node.wait_ready("tiny", timeout_s=60)

Every method raises the very leaf the node raised, NodeNotRunning when no node answers on the socket, Forbidden when
its folder is another user's, and DeadlineExceeded when one does not answer in time.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from thaloom.base import config
from thaloom.base.errors import DeadlineExceeded, Forbidden, InternalError, NodeNotRunning, ServiceFailed, ThaloomError
from thaloom.edge.wire import control as wire

if TYPE_CHECKING:
    import httpx2

A = TypeVar("A", bound=wire.Answer)
TIMEOUT_S = 30.0
"""Longest silence of a node that is taken for life. It answers plain questions in milliseconds; streams tell of
themselves at least once in 5 s."""
_POLL_S = 0.05


def control_socket(home: Path | None = None) -> Path:
    """Where the node of that home listens for control."""
    return (home or config.home()) / "run" / "control.sock"


class ControlClient:
    """A caller of one node. Not for several threads at once; close it, or use it as a context manager."""

    def __init__(self, home: Path | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._home = home or config.home()
        self._timeout_s = timeout_s
        self._client: httpx2.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- the node

    def version(self) -> wire.Version:
        return self._get(wire.Version, "/version")

    def status(self) -> wire.NodeStatus:
        return self._get(wire.NodeStatus, "/status")

    def processes(self) -> list[wire.Process]:
        return self._get(wire.Processes, "/processes").processes

    def events(self, *, limit: int = 100) -> list[wire.Event]:
        return self._get(wire.Events, f"/events?limit={limit}").events

    def down(self) -> wire.GoingDown:
        """Ask the node to stop. It has when the process named in the answer has ended."""
        return self._call(wire.GoingDown, "POST", "/down")

    # -- devices

    def devices(self) -> wire.Devices:
        return self._get(wire.Devices, "/devices")

    def device(self, device: str) -> wire.Device:
        return self._get(wire.Device, f"/devices/{quote(device, safe='')}")

    # -- models

    def models(self) -> list[wire.Model]:
        return self._get(wire.Models, "/models").models

    def model(self, name: str) -> wire.Model:
        return self._get(wire.Model, f"/models/{quote(name, safe='')}")

    def pull(self, request: wire.PullRequest, on_progress: Callable[[wire.Progress], None] | None = None) -> wire.Model:
        """Import a model. Leaving (an exception, Ctrl-C) cancels the import; nothing half-done stays behind."""
        with self._stream("POST", "/models/pull", request) as lines:
            for line in lines:
                match wire.PULL_LINE.validate_json(line):
                    case wire.Progress() as progress:
                        if on_progress is not None:
                            on_progress(progress)
                    case wire.StreamError(error=error):
                        raise ThaloomError.from_dict(error.model_dump())
                    case wire.PullDone(model=model):
                        return model
        raise NodeNotRunning("the node went away before the import was done")

    def verify(self, name: str, on_progress: Callable[[wire.Progress], None] | None = None) -> wire.Verification:
        """Have every byte of the model read again. Leaving cancels."""
        with self._stream("POST", f"/models/{quote(name, safe='')}/verify") as lines:
            for line in lines:
                match wire.VERIFY_LINE.validate_json(line):
                    case wire.Progress() as progress:
                        if on_progress is not None:
                            on_progress(progress)
                    case wire.StreamError(error=error):
                        raise ThaloomError.from_dict(error.model_dump())
                    case wire.VerifyDone(verification=verification):
                        return verification
        raise NodeNotRunning("the node went away before the model was verified")

    def remove_model(self, name: str) -> wire.Removed:
        return self._call(wire.Removed, "DELETE", f"/models/{quote(name, safe='')}")

    # -- services

    def services(self) -> list[wire.Service]:
        return self._get(wire.Services, "/services").services

    def service(self, name: str) -> wire.Service:
        return self._get(wire.Service, f"/services/{quote(name, safe='')}")

    def serve(self, name: str, request: wire.ServeRequest) -> wire.Service:
        """Wish for a service, or change the wish. Returns at once; see `wait_ready`."""
        return self._call(wire.Service, "PUT", f"/services/{quote(name, safe='')}", request)

    def stop(self, name: str) -> wire.Removed:
        """Wish for the service no longer. Its worker ends what it is answering first."""
        return self._call(wire.Removed, "DELETE", f"/services/{quote(name, safe='')}")

    def wait_ready(
        self, name: str, *, timeout_s: float, on_change: Callable[[wire.Service], None] | None = None
    ) -> wire.Service:
        """The service once it is ready. Raises ServiceFailed with its reason, or DeadlineExceeded."""
        deadline = time.monotonic() + timeout_s
        seen: wire.Service | None = None
        while True:
            service = self.service(name)
            if on_change is not None and (seen is None or service.phase != seen.phase):
                on_change(service)
            seen = service
            ready = service.condition("Ready")
            if service.phase == "ready":
                return service
            if service.phase == "failed":
                raise ServiceFailed(f"{name!r}: {ready.message if ready else 'failed'}", service=name)
            if time.monotonic() >= deadline:
                why = f" ({ready.message})" if ready and ready.message else ""
                raise DeadlineExceeded(f"{name!r} is still {service.phase} after {timeout_s:g} s{why}", service=name)
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def logs(self, name: str, *, follow: bool = False, tail: int = 100) -> Iterator[Iterator[str]]:
        """The last `tail` lines of a service's log, without line ends; with `follow`, then all that come."""
        path = f"/services/{quote(name, safe='')}/logs?follow={str(follow).lower()}&tail={tail}"
        with self._stream("GET", path, endless=follow) as lines:
            yield lines

    # -- below: HTTP

    def _get(self, kind: type[A], path: str) -> A:
        return self._call(kind, "GET", path)

    def _call(self, kind: type[A], method: str, path: str, body: wire.Ask | None = None) -> A:
        with self._errors():
            response = self._http().request(method, wire.PREFIX + path, **_content(body))
        _raise_for(response.status_code, response.content)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise InternalError(f"the node's answer to {method} {path} is not understood: {error}") from error

    @contextlib.contextmanager
    def _stream(
        self, method: str, path: str, body: wire.Ask | None = None, *, endless: bool = False
    ) -> Iterator[Iterator[str]]:
        import httpx2

        timeout = httpx2.Timeout(self._timeout_s, read=None if endless else self._timeout_s)
        with self._errors():
            with self._http().stream(method, wire.PREFIX + path, timeout=timeout, **_content(body)) as response:
                if response.status_code >= 400:
                    _raise_for(response.status_code, response.read())
                yield response.iter_lines()

    def _http(self) -> httpx2.Client:
        path = control_socket(self._home)
        try:  # the HTTP library would notice too, but it leaves its socket open when nobody listens
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(str(path))
        except PermissionError as error:
            raise Forbidden(f"the node in {str(self._home)!r} belongs to another user") from error
        except OSError as error:
            raise self._not_running() from error
        if self._client is None:
            import httpx2

            # A unix socket speaks no TLS: loading the machine's certificates for it would take 50 ms.
            transport = httpx2.HTTPTransport(uds=str(path), verify=False)
            self._client = httpx2.Client(
                transport=transport, base_url="http://localhost", timeout=self._timeout_s, trust_env=False
            )
        return self._client

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.TimeoutException as error:
            raise DeadlineExceeded(f"the node did not answer within {self._timeout_s:g} s") from error
        except httpx2.TransportError as error:
            raise self._not_running() from error

    def _not_running(self) -> NodeNotRunning:
        return NodeNotRunning(f"no node is running in {str(self._home)!r} (start one: thaloom up)")


def _content(body: wire.Ask | None) -> dict[str, Any]:
    if body is None:
        return {}
    return {"content": body.model_dump_json(), "headers": {"Content-Type": "application/json"}}


def _raise_for(status: int, content: bytes) -> None:
    """Raise the leaf that an answer of 400 or more carries."""
    if status < 400:
        return
    try:
        error = json.loads(content)["error"]
        raise ThaloomError.from_dict(error)
    except (ValueError, KeyError, TypeError) as unreadable:
        raise InternalError(f"the node answered {status}: {content[:200]!r}") from unreadable
