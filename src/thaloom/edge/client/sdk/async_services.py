"""What a node serves, and under which names."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Unpack

from thaloom.base.errors import DeadlineExceeded, ServiceFailed
from thaloom.edge.client.sdk.async_connection import AsyncAsking, AsyncStream
from thaloom.edge.client.sdk.calls import delete, get, post, put
from thaloom.edge.client.sdk.options import ServeOptions
from thaloom.edge.wire import control as wire

POLL_S = 0.05
_P = wire.PREFIX


class AsyncServices(AsyncAsking):
    """The part of `AsyncNode` that is about services."""

    async def services(self, *, limit: int | None = None, after: str | None = None) -> list[wire.Service]:
        """What is served, as it is now.

        >>> [(service.name, service.phase) for service in await client.node.services()]
        """
        return (await self._connection.ask(wire.Services, get(f"{_P}/services", limit=limit, after=after))).services

    async def service(self, name: str) -> wire.Service:
        """One service. Raises ServiceNotFound.

        >>> (await client.node.service("tiny")).running
        """
        return await self._connection.ask(wire.Service, get(f"{_P}/services/{{}}", name))

    async def serve(self, name: str, *, model: str | None = None, **wish: Unpack[ServeOptions]) -> wire.Service:
        """Wish for a service, or change the wish; `model`: by default the model of the same name. Returns at once, see
        `wait_ready`.

        >>> await client.node.serve("chat", model="tiny", context_length=1024)
        >>> await client.node.wait_ready("chat")
        """
        return await self._connection.ask(wire.Service, put(f"{_P}/services/{{}}", name, model=model or name, **wish))

    async def wake(self, name: str) -> wire.Service:
        """Begin to start a service that is idle; a request for it does the same, and waits. Raises OutOfMemory that
        says what would make it fit.

        >>> (await client.node.wake("tiny")).phase
        """
        return await self._connection.ask(wire.Service, post(f"{_P}/services/{{}}/wake", name, repeatable=True))

    async def keep_alive(self, name: str, seconds: float) -> wire.Service:
        """Have it stay loaded for so long after each request, until it is unloaded; below 0: always.

        >>> (await client.node.keep_alive("tiny", 600)).keep_alive_s
        """
        return await self._connection.ask(wire.Service, put(f"{_P}/services/{{}}/keep-alive", name, seconds=seconds))

    async def stop(self, name: str) -> wire.Removed:
        """Wish for the service no longer. Its worker ends what it is answering first.

        >>> await client.node.stop("chat")
        """
        return await self._connection.ask(wire.Removed, delete(f"{_P}/services/{{}}", name))

    async def wait_ready(self, name: str, *, timeout_s: float = 300.0) -> wire.Service:
        """The service once it takes requests. Raises ServiceFailed with its reason, or DeadlineExceeded.

        >>> (await client.node.wait_ready("tiny", timeout_s=60)).phase
        'ready'
        """
        deadline = time.monotonic() + timeout_s
        while True:
            service = await self.service(name)
            ready = service.condition("Ready")
            if service.phase in ("ready", "idle"):
                return service
            why = ready.message if ready else ""
            if service.phase == "failed":
                raise ServiceFailed(f"{name!r}: {why or 'failed'}", service=name)
            if time.monotonic() >= deadline:
                told = f"{name!r} is still {service.phase} after {timeout_s:g} s"
                raise DeadlineExceeded(f"{told} ({why})" if why else told, service=name)
            await asyncio.sleep(POLL_S)

    def logs(self, name: str, *, follow: bool = False, tail: int = 100) -> AsyncStream[str]:
        """The last `tail` lines of a service's log, without line ends; with `follow`, then all that come.

        >>> async with client.node.logs("tiny", tail=10) as lines:
        ...     async for line in lines:
        ...         print(line)
        """
        call = get(f"{_P}/services/{{}}/logs", name, follow=follow, tail=tail, endless=follow)

        async def texts() -> AsyncGenerator[str, None]:
            async with contextlib.aclosing(self._connection.lines(call)) as lines:
                async for line in lines:
                    yield line.decode(errors="replace")

        return AsyncStream(texts())

    # -- aliases

    async def aliases(self) -> list[wire.Alias]:
        """Names that stand for services.

        >>> [(alias.name, alias.canary) for alias in await client.node.aliases()]
        """
        return (await self._connection.ask(wire.Aliases, get(f"{_P}/aliases"))).aliases

    async def alias(self, name: str) -> wire.Alias:
        """One alias. Raises AliasNotFound.

        >>> (await client.node.alias("best")).shares
        """
        return await self._connection.ask(wire.Alias, get(f"{_P}/aliases/{{}}", name))

    async def put_alias(self, name: str, services: Mapping[str, int], *, canary: str | None = None) -> wire.Alias:
        """Let a name stand for services, each with its weight, or change the wish. `canary`: one of them, which gets no
        more requests once it does worse than the others.

        >>> await client.node.put_alias("best", {"chat": 95, "tiny": 5}, canary="tiny")
        """
        return await self._connection.ask(wire.Alias, put(f"{_P}/aliases/{{}}", name, services=services, canary=canary))

    async def remove_alias(self, name: str) -> wire.Removed:
        """Let the name stand for nothing any more; the services stay.

        >>> await client.node.remove_alias("best")
        """
        return await self._connection.ask(wire.Removed, delete(f"{_P}/aliases/{{}}", name))

    async def return_canary(self, name: str, *, revision: int, reason: str) -> wire.Alias:
        """Tell the node that the canary of this revision did worse: no door sends it requests any more.

        >>> alias = await client.node.alias("best")
        >>> await client.node.return_canary("best", revision=alias.revision, reason="its answers are worse")
        """
        call = post(f"{_P}/aliases/{{}}/return", name, revision=revision, reason=reason)
        return await self._connection.ask(wire.Alias, call)
