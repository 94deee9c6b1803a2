"""A model is there when it is asked for: this protocol's clients do not start services, they name a model.

One that is in the store and not served yet is wished for as a service of its own name, as `thaloom run` does. How long
it stays loaded is the node's to heed, and who comes with no key may say it. Whether it fits is the node's decision, and
its refusal is what the client is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.errors import (
    BadParameter,
    DeadlineExceeded,
    ModelNotFound,
    NodeNotRunning,
    ServiceFailed,
    ServiceNotFound,
    ThaloomError,
)
from thaloom.edge.api.entrance.visits import allow, key_of_request, only_without_keys
from thaloom.edge.api.ollama.names import local_name
from thaloom.edge.api.ollama.node import Node
from thaloom.edge.api.routes.generation import find_served
from thaloom.edge.wire import control
from thaloom.work.runtime.types import Generation, ServedModel

LOAD_DEADLINE_S = 300.0
"""Source: Ollama, OLLAMA_LOAD_TIMEOUT, by default 5 minutes."""
_POLL_S = 0.05
_KEEP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    generation: Generation
    node: Node
    clock: Clock
    deadline_s: float = LOAD_DEADLINE_S

    async def ready(self, asked: str) -> tuple[str, float]:
        """The name under which the model is served now, and the seconds that took.

        Raises ModelNotFound, DeadlineExceeded, ServiceFailed, Forbidden for a model that the key of the request is not
        for, and what the node refuses with.
        """
        served = self._served(asked)
        allow(local_name(asked) if served is None else served.name)
        begun = self.clock.monotonic()
        if served is not None and served.ready:
            await self.generation.awake(served.name)
            return served.name, self.clock.monotonic() - begun if served.idle else 0.0
        try:
            async with asyncio.timeout(self.deadline_s):
                name = await self._wished(asked) if served is None else served.name
                await self._wait(name)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{asked!r} was not loaded within {self.deadline_s:g} s") from error
        return name, self.clock.monotonic() - begun

    async def unload(self, asked: str) -> None:
        """Give its memory back, once it is answering nobody. Raises ModelNotFound if there is no such model; one that
        is not served is unloaded. Raises Forbidden where a key let the request in."""
        only_without_keys("models are unloaded")
        served = self._served(asked)
        if served is None:
            await self._stored(asked)
            return
        with contextlib.suppress(ServiceNotFound):
            await self.node.keep_alive(served.name, 0.0)

    @contextlib.asynccontextmanager
    async def kept(self, name: str, keep_alive_s: float | None) -> AsyncIterator[None]:
        """While a request is answered that says how long the model is to stay: 0 once it is answered. Who came with a
        key does not decide that, and without its daemon a node unloads nothing."""
        if keep_alive_s is None or key_of_request() is not None:
            yield
            return
        if keep_alive_s:
            await self._keep(name, keep_alive_s)
        try:
            yield
        finally:
            if not keep_alive_s:
                await self._keep(name, 0.0)

    async def told_first(self, data: dict[str, Any], error: BadParameter) -> ThaloomError:
        """Of a request for a model that is not here, that; else `error`."""
        asked = data.get("model")
        if not isinstance(asked, str) or not asked:
            return error
        try:
            if self._served(asked) is None:
                await self._stored(asked)
        except ThaloomError as missing:
            return missing if isinstance(missing, ModelNotFound) else error
        return error

    async def _keep(self, name: str, keep_alive_s: float) -> None:
        served = find_served(self.generation, name)
        if served is None or served.keep_alive_s == keep_alive_s:
            return
        with contextlib.suppress(ThaloomError, TimeoutError):  # nobody's answer hangs on that
            async with asyncio.timeout(_KEEP_S):
                await self.node.keep_alive(name, keep_alive_s)

    def _served(self, asked: str) -> ServedModel | None:
        return find_served(self.generation, asked) or find_served(self.generation, local_name(asked))

    async def _wished(self, asked: str) -> str:
        model = await self._stored(asked)
        with contextlib.suppress(ServiceNotFound):  # wished for already, and not published yet
            return (await self.node.service(model.name)).name
        return (await self.node.serve(model.name, control.ServeRequest(model=model.name))).name

    async def _stored(self, asked: str) -> control.Model:
        try:
            return await self.node.model(local_name(asked))
        except ModelNotFound as error:
            raise ModelNotFound(f"model {asked!r} not found, try pulling it first", param="model") from error
        except NodeNotRunning as error:
            raise ModelNotFound(
                f"model {asked!r} not found: it is not served, and the node's daemon, which knows what is stored, "
                "does not answer",
                param="model",
            ) from error

    async def _wait(self, name: str) -> None:
        """Until requests are taken, or it is known why not. Without a daemon nothing becomes ready: then the request
        itself is refused, with what was last known."""
        while True:
            served = find_served(self.generation, name)
            if served is not None and served.ready:
                return
            try:
                service = await self._service(name)
            except NodeNotRunning:
                return
            if service.phase == "failed":
                ready = service.condition("Ready")
                raise ServiceFailed(f"{name!r} cannot be served: {ready.message if ready else 'failed'}")
            await asyncio.sleep(_POLL_S)

    async def _service(self, name: str) -> control.Service:
        try:
            return await self.node.service(name)
        except ServiceNotFound as error:
            raise ModelNotFound(f"model {name!r} was unloaded while it was being loaded", param="model") from error
