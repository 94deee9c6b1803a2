"""Requests for a service that is idle: it is started once for all of them, and they wait until somebody takes them.

A start belongs to nobody: who leaves does not end it, and a service that was woken in vain is idle again by itself.
What is waited for is the route that the node publishes, so a daemon that is killed meanwhile ends no wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from thaloom.base.errors import (
    DeadlineExceeded,
    NodeNotRunning,
    OutOfMemory,
    ServiceFailed,
    ServiceLoading,
    ThaloomError,
)
from thaloom.base.ids import ServiceName
from thaloom.kernel.state.types import Route, Routes

Wake = Callable[[ServiceName], Awaitable[object]]
"""Has the node begin to start it. Raises what forbids that, NodeNotRunning while there is no daemon."""
WAKE_LIMIT_S = 300.0
NO_DAEMON_S = 10.0
"""So long one that is away is waited for: it is started again by whoever keeps it."""
_STARTS = 3
"""Waited for by one request: what is unloaded again and again before it is asked is not waited for without end."""
_POLL_S = 0.02
_AGAIN_S = 1.0
"""Between two requests to start what is idle again at once, at most."""


class RouteSource(Protocol):
    """The last published snapshot, cheap to ask for; kernel.state.routes has the real one."""

    def current(self) -> Routes: ...


async def nobody_wakes(service: ServiceName) -> None:
    raise NodeNotRunning(f"nobody here can wake {service!r}")


class Waking:
    """Belongs to one event loop; `close` it."""

    def __init__(self, routes: RouteSource, wake: Wake = nobody_wakes, limit_s: float = WAKE_LIMIT_S) -> None:
        self._routes = routes
        self._wake = wake
        self._limit_s = limit_s
        self._starts: dict[ServiceName, asyncio.Task[None]] = {}

    def close(self) -> None:
        for start in self._starts.values():
            start.cancel()

    async def ready(self, service: ServiceName) -> Route:
        """Its route, once somebody takes requests; at once, unless it is idle. Raises ServiceLoading, ServiceFailed,
        and what forbids its start."""
        for _ in range(_STARTS):
            route = self._find(service)
            if route.phase == "ready" or not route.takes_requests:
                break
            await self._started(service)
        return require_ready(self._find(service))

    async def _started(self, service: ServiceName) -> None:
        start = self._starts.get(service)
        if start is None:
            start = self._starts[service] = asyncio.create_task(self._start(service), name=f"wake {service}")
            start.add_done_callback(lambda done: self._over(service, done))
        try:
            await asyncio.shield(start)
        except ThaloomError as error:  # one of its own for each who waits
            raise ThaloomError.from_dict(error.to_dict()) from error

    def _over(self, service: ServiceName, done: asyncio.Task[None]) -> None:
        self._starts.pop(service, None)
        if not done.cancelled():
            done.exception()  # heard, if nobody waits any more

    async def _start(self, service: ServiceName) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                await self._until_ready(service)
        except TimeoutError as error:
            raise ServiceLoading(
                f"{service!r} was idle, and is not ready after {self._limit_s:g} s", retry_after_s=5.0
            ) from error

    async def _until_ready(self, service: ServiceName) -> None:
        attempts = 0
        while True:
            route = self._find(service)
            if route.phase == "idle":
                if attempts:
                    await asyncio.sleep(min(_AGAIN_S, _POLL_S * 2.0**attempts))
                attempts += 1
                await self._asked(service)
            elif route.phase != "loading":  # ready, or it is known why not
                require_ready(route)
                return
            await asyncio.sleep(_POLL_S)

    async def _asked(self, service: ServiceName) -> None:
        """Where others are about to make room for it, that is waited for: a refusal that says when to come again is
        for who cannot wait."""
        try:
            await self._ask(service)
        except OutOfMemory as error:
            if error.retry_after_s is None:
                raise
            await asyncio.sleep(min(_AGAIN_S, error.retry_after_s))

    async def _ask(self, service: ServiceName) -> None:
        away: ThaloomError | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NO_DAEMON_S):
                while True:
                    try:
                        await self._wake(service)
                        return
                    except (NodeNotRunning, DeadlineExceeded) as error:
                        away = error
                    await asyncio.sleep(10 * _POLL_S)
        raise ServiceLoading(
            f"{service!r} is idle, and the node's daemon, which would start it, does not answer", retry_after_s=5.0
        ) from away

    def _find(self, service: ServiceName) -> Route:
        found = next((route for route in self._routes.current().routes if route.name == service), None)
        if found is None:
            raise ServiceLoading(f"{service!r} was stopped", retry_after_s=2.0)
        return found


def require_ready(route: Route) -> Route:
    """It, if somebody takes requests. Raises ServiceLoading, ServiceFailed."""
    if route.phase == "failed":
        raise ServiceFailed(f"{route.name!r} cannot be served: {route.reason or 'no reason was given'}")
    if route.phase != "ready" or not route.sockets:
        why = f": {route.reason}" if route.reason else ""
        raise ServiceLoading(f"{route.name!r} is {route.phase}{why}", retry_after_s=route.retry_after_s or 2.0)
    return route
