"""How calls travel: one pool of connections to the door, one to the control socket where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx2
from pydantic import BaseModel

from thaloom import __version__
from thaloom.base.errors import InternalError, ThaloomError, WorkerLost
from thaloom.edge.client.lines import Lines, event_data
from thaloom.edge.client.sdk.answers import (
    piece,
    refusal,
    translated,
    understood,
    understood_object,
    was_sent,
)
from thaloom.edge.client.sdk.calls import Call
from thaloom.edge.client.sdk.settings import CONNECT_TIMEOUT_S, Settings

A = TypeVar("A", bound=BaseModel)
T = TypeVar("T")


class AsyncStream(Generic[T]):
    """Pieces of one answer as they are made; asked for with the first. Left early, its connection is closed, which ends
    the request in the node:

        async with client.stream_chat("tiny", "Hello") as chunks:
            async for chunk in chunks:
                print(chunk.choices[0].delta.content)
    """

    def __init__(self, pieces: AsyncGenerator[T, None]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncConnection:
    """Raises leaves of base.errors and nothing else. Close it."""

    def __init__(self, settings: Settings, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """`transport`: what carries everything instead of sockets."""
        self._settings = settings
        self._door = self._http(settings.url, transport)
        self._node = self._door
        if settings.socket is not None:
            socket = transport or httpx2.AsyncHTTPTransport(uds=str(settings.socket))
            self._node = self._http("http://localhost", socket)

    async def aclose(self) -> None:
        await self._door.aclose()
        await self._node.aclose()

    async def ask(self, kind: type[A], call: Call) -> A:
        return understood(kind, call, await self.content(call))

    async def ask_object(self, call: Call) -> dict[str, Any]:
        return understood_object(call, await self.content(call))

    async def content(self, call: Call) -> bytes:
        return (await self._patiently(call, whole=True)).content

    def events(self, kind: type[A], call: Call) -> AsyncStream[A]:
        """The messages of an answer in server-sent events. One that breaks off is WorkerLost: a part of an answer never
        passes for a whole one."""

        async def messages() -> AsyncGenerator[A, None]:
            async with contextlib.aclosing(self.lines(call)) as lines:
                async for line in lines:
                    data = event_data(line)
                    if data == b"[DONE]":
                        return
                    if data:
                        yield piece(kind, call, data)
            raise WorkerLost("the answer broke off before its end; it may be asked for again")

        return AsyncStream(messages())

    async def lines(self, call: Call) -> AsyncGenerator[bytes, None]:
        """As they come, without their ends. Close it."""
        response = await self._patiently(call, whole=False)
        lines = Lines()
        try:
            with translated(self._settings, call):
                async for content in response.aiter_bytes():
                    for line in lines.feed(content):
                        yield line
                for line in lines.rest():
                    yield line
        finally:
            await response.aclose()

    async def _patiently(self, call: Call, *, whole: bool) -> httpx2.Response:
        """The answer, once there is a good one: read to its end, or ready to be read."""
        retries, num_done = self._settings.retries, 0
        while True:
            try:
                return await self._once(call, whole=whole)
            except ThaloomError as error:
                if retries is None:
                    raise
                sent, chance = was_sent(error), random.random()
                pause_s = retries.pause_s(
                    error, num_done=num_done, repeatable=call.repeatable, was_sent=sent, random=chance
                )
                if pause_s is None:
                    raise
            num_done += 1
            await asyncio.sleep(pause_s)

    async def _once(self, call: Call, *, whole: bool) -> httpx2.Response:
        http = self._node if call.is_control else self._door
        silence_s = None if call.endless else self._settings.timeout_s
        headers = {} if call.content is None else {"content-type": "application/json"}
        with translated(self._settings, call):
            request = http.build_request(
                call.method,
                call.target,
                content=call.content,
                headers=headers,
                timeout=httpx2.Timeout(silence_s, connect=min(CONNECT_TIMEOUT_S, self._settings.timeout_s)),
            )
            response = await http.send(request, stream=True)
            try:
                if whole or not response.is_success:
                    await response.aread()
            except BaseException:
                await response.aclose()
                raise
        if response.is_success:
            return response
        if response.is_redirect:  # followed, it could carry the key to another host
            raise InternalError(f"the node sends us elsewhere: {response.headers.get('location')!r}")
        raise refusal(response.status_code, response.headers, response.content)

    def _http(self, url: str, transport: httpx2.AsyncBaseTransport | None) -> httpx2.AsyncClient:
        headers = {"user-agent": f"thaloom/{__version__}"}
        if self._settings.api_key is not None:
            headers["authorization"] = f"Bearer {self._settings.api_key}"
        # The environment's proxies are not for a node. A socket has no TLS, whatever the door has.
        verify = self._settings.verify() if transport is None else False
        return httpx2.AsyncClient(base_url=url, headers=headers, transport=transport, trust_env=False, verify=verify)


class AsyncAsking:
    """Methods that ask over one connection, which is somebody else's to close."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
