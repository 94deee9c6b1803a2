"""The control API from the caller's side, for callers that wait in an event loop: the door's other protocols.

    async with contextlib.aclosing(node.pull(PullRequest(source="tiny"))) as lines:
        async for line in lines: ...

Methods are those of `control.ControlClient`, as far as they are needed, and raise the same leaves. Cancelling one
closes its connection, which the node takes for leaving.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from thaloom.base.errors import DeadlineExceeded, InternalError, NodeNotRunning, ThaloomError
from thaloom.edge.wire import control as wire

if TYPE_CHECKING:
    import httpx2

A = TypeVar("A", bound=wire.Answer)
CONNECT_DEADLINE_S = 2.0
SILENCE_DEADLINE_S = 30.0
"""Longest silence of a node that is taken for life; its streams say something every few seconds."""


class AsyncControlClient:
    """A caller of one node, by its socket. Belongs to one event loop; `close` it."""

    def __init__(self, socket: Path, *, silence_s: float = SILENCE_DEADLINE_S) -> None:
        self._socket = socket
        self._silence_s = silence_s
        self._client: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def models(self) -> list[wire.Model]:
        return (await self._call(wire.Models, "GET", "/models")).models

    async def model(self, name: str) -> wire.Model:
        return await self._call(wire.Model, "GET", f"/models/{_path(name)}")

    async def copy_model(self, name: str, request: wire.CopyRequest) -> wire.Model:
        return await self._call(wire.Model, "POST", f"/models/{_path(name)}/copy", request)

    async def remove_model(self, name: str) -> wire.Removed:
        return await self._call(wire.Removed, "DELETE", f"/models/{_path(name)}")

    async def pull(self, request: wire.PullRequest) -> AsyncGenerator[wire.Progress | wire.PullDone, None]:
        """Every step, and the model last. Raises what ended it otherwise."""
        async with self._answer("POST", "/models/pull", request) as response:
            async for line in response.aiter_lines():
                match wire.PULL_LINE.validate_json(line):
                    case wire.StreamError(error=error):
                        raise ThaloomError.from_dict(error.model_dump())
                    case wire.PullDone() as done:
                        yield done
                        return
                    case progress:
                        yield progress
        raise NodeNotRunning("the node went away before the model was there")

    async def services(self) -> list[wire.Service]:
        return (await self._call(wire.Services, "GET", "/services")).services

    async def service(self, name: str) -> wire.Service:
        return await self._call(wire.Service, "GET", f"/services/{_path(name)}")

    async def serve(self, name: str, request: wire.ServeRequest) -> wire.Service:
        return await self._call(wire.Service, "PUT", f"/services/{_path(name)}", request)

    async def stop(self, name: str) -> wire.Removed:
        return await self._call(wire.Removed, "DELETE", f"/services/{_path(name)}")

    async def wake(self, name: str) -> wire.Service:
        return await self._call(wire.Service, "POST", f"/services/{_path(name)}/wake")

    async def keep_alive(self, name: str, seconds: float) -> wire.Service:
        request = wire.KeepAliveRequest(seconds=seconds)
        return await self._call(wire.Service, "PUT", f"/services/{_path(name)}/keep-alive", request)

    # -- below: HTTP

    async def _call(self, kind: type[A], method: str, path: str, body: wire.Ask | None = None) -> A:
        async with self._answer(method, path, body) as response:
            content = await response.aread()
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            raise InternalError(f"the node's answer to {method} {path} is not understood: {error}") from error

    @contextlib.asynccontextmanager
    async def _answer(self, method: str, path: str, body: wire.Ask | None) -> AsyncIterator[httpx2.Response]:
        import httpx2

        headers = {"via": wire.VIA} | ({} if body is None else {"content-type": "application/json"})
        content = None if body is None else body.model_dump_json()
        url = f"http://localhost{wire.PREFIX}{path}"
        try:
            async with self._http().stream(method, url, headers=headers, content=content) as response:
                if response.status_code >= 400:
                    raise _refusal(response.status_code, await response.aread())
                yield response
        except httpx2.ConnectTimeout as error:
            raise NodeNotRunning("the node's daemon does not answer; models go on being served") from error
        except httpx2.TimeoutException as error:
            raise DeadlineExceeded(f"the node's daemon fell silent for {self._silence_s:g} s") from error
        except httpx2.TransportError as error:
            raise NodeNotRunning("the node's daemon does not answer; models go on being served") from error

    def _http(self) -> httpx2.AsyncClient:
        import httpx2  # slow to import, and many doors never need it

        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(uds=str(self._socket)),
                timeout=httpx2.Timeout(self._silence_s, connect=CONNECT_DEADLINE_S),
                trust_env=False,
            )
        return self._client


def _path(name: str) -> str:
    """As one part of a path, and never one that is walked."""
    return quote(name, safe="").replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def _refusal(status: int, content: bytes) -> ThaloomError:
    try:
        return ThaloomError.from_dict(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return InternalError(f"the node answered {status}: {content[:200]!r}")
