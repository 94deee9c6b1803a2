"""The workers behind the routes, from the door's side: who takes a request, how they are, what they count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from thaloom.base.errors import QueueFull, ServiceLoading, ThaloomError, WorkerLost
from thaloom.base.ids import ServiceName
from thaloom.kernel.state.types import Route
from thaloom.work.runtime.frontend.call import Call, Deadlines
from thaloom.work.runtime.frontend.routing import Balancer
from thaloom.work.runtime.frontend.waking import RouteSource, Waking
from thaloom.work.runtime.messages import Ask, Embed, Generate, Task, WorkerStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A request that a worker took."""

    call: Call
    service: ServiceName
    socket: str


class Workers:
    """Belongs to one event loop."""

    def __init__(self, routes: RouteSource, deadlines: Deadlines, waking: Waking | None = None) -> None:
        self._routes = routes
        self._waking = waking or Waking(routes)
        self._deadlines = deadlines
        self._balancer = Balancer()
        self._degraded: dict[str, str | None] = {}
        """By socket: what its worker said."""

    async def begin(self, service: ServiceName, message: Task, *, tried: Iterable[str] = ()) -> Placed:
        """A worker that took the request. One that is gone, or has no place left, is passed over for another, silently;
        a service that is idle, or came to be so in this moment, is woken.

        `tried`: sockets of those that were asked in vain before. Raises ServiceLoading, ServiceFailed, QueueFull,
        WorkerLost, and whatever forbids a start or the worker refuses the request with.
        """
        passed_over = set(tried)
        refusal: ThaloomError | None = None
        while True:
            route = await self.ready(service)
            sockets = [socket for socket in route.sockets if socket not in passed_over]
            if not sockets:
                raise refusal or ServiceLoading(f"no other worker serves {service!r} yet", retry_after_s=1.0)
            socket, work = self._balancer.choose(sockets, _prompt_of(message), _salt_of(message))
            try:
                call = await Call.begin(socket, message, self._deadlines, work)
            except (WorkerLost, ServiceLoading, QueueFull) as error:
                passed_over.add(socket)
                refusal = error
            else:
                return Placed(call=call, service=service, socket=socket)

    async def degraded(self, socket: str) -> str | None:
        """Whether the worker runs worse than wished, and why: asked once of each worker."""
        if socket not in self._degraded:
            try:
                stats = await Call.status(socket, self._deadlines)
            except (ThaloomError, TimeoutError):
                return None  # the answer itself will tell if the worker is gone; ask again with the next request
            living = {socket for route in self._routes.current().routes for socket in route.sockets}
            self._degraded = {known: said for known, said in self._degraded.items() if known in living}
            self._balancer.forget_all_but(living)
            self._degraded[socket] = stats.degraded
        return self._degraded[socket]

    async def status(self, service: ServiceName) -> WorkerStats:
        """What one of its workers says of itself. Raises ServiceLoading, ServiceFailed, WorkerLost."""
        refusal: ThaloomError | None = None
        for socket in (await self.ready(service)).sockets:
            try:
                return await Call.status(socket, self._deadlines)
            except TimeoutError:
                refusal = ServiceLoading(f"no worker of {service!r} answers in time", retry_after_s=1.0)
            except (WorkerLost, ServiceLoading) as error:
                refusal = error
        raise refusal or ServiceLoading(f"no worker serves {service!r} yet", retry_after_s=1.0)

    async def metrics(self) -> list[dict[str, Any]]:
        """types.Generation.worker_metrics."""
        pairs = [(route, socket) for route in self._routes.current().routes for socket in route.sockets]
        return list(await asyncio.gather(*(self._metrics_of(route, socket) for route, socket in pairs)))

    async def _metrics_of(self, route: Route, socket: str) -> dict[str, Any]:
        head: dict[str, Any] = {"service": route.name, "model": route.model}
        try:
            stats = await Call.status(socket, self._deadlines)
        except (ThaloomError, TimeoutError):
            return head | {"up": False}
        return msgspec.structs.asdict(stats) | head | {"up": True}

    async def ready(self, service: ServiceName) -> Route:
        """Its route, once somebody takes requests. Raises as Waking.ready."""
        return await self._waking.ready(service)


def _salt_of(message: Task) -> str:
    """Of the prefixes it may share."""
    if isinstance(message, Generate):
        return message.cache_salt
    return message.request.cache_salt if isinstance(message, Ask) else ""


def _prompt_of(message: Task) -> Sequence[int]:
    """What a worker would have to read, and may remember the beginning of. A foreign engine's prompt is text: its bytes
    stand for tokens, which is as good where all workers of a route are measured alike."""
    if isinstance(message, Generate | Embed):
        return message.prompt
    if not isinstance(message, Ask):
        return ()
    asked = message.request
    if asked.prompt_tokens is not None:
        return asked.prompt_tokens
    texts = [asked.prompt or ""] if asked.messages is None else [each.content for each in asked.messages]
    return "\0".join(texts).encode(errors="replace")
