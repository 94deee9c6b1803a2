# Made from async_connection.py by tools/generate_sync_client.py (make docs): change that one.
"""How calls travel: one pool of connections to the door, one to the control socket where there is one."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Generator
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


class Stream(Generic[T]):
    """Pieces of one answer as they are made; asked for with the first. Left early, its connection is closed, which ends
    the request in the node:

        with client.stream_chat("tiny", "Hello") as chunks:
            for chunk in chunks:
                print(chunk.choices[0].delta.content)
    """

    def __init__(self, pieces: Generator[T, None, None]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Connection:
    """Raises leaves of base.errors and nothing else. Close it."""

    def __init__(self, settings: Settings, transport: httpx2.BaseTransport | None = None) -> None:
        """`transport`: what carries everything instead of sockets."""
        self._settings = settings
        self._door = self._http(settings.url, transport)
        self._node = self._door
        if settings.socket is not None:
            socket = transport or httpx2.HTTPTransport(uds=str(settings.socket))
            self._node = self._http("http://localhost", socket)

    def close(self) -> None:
        self._door.close()
        self._node.close()

    def ask(self, kind: type[A], call: Call) -> A:
        return understood(kind, call, self.content(call))

    def ask_object(self, call: Call) -> dict[str, Any]:
        return understood_object(call, self.content(call))

    def content(self, call: Call) -> bytes:
        return (self._patiently(call, whole=True)).content

    def events(self, kind: type[A], call: Call) -> Stream[A]:
        """The messages of an answer in server-sent events. One that breaks off is WorkerLost: a part of an answer never
        passes for a whole one."""

        def messages() -> Generator[A, None, None]:
            with contextlib.closing(self.lines(call)) as lines:
                for line in lines:
                    data = event_data(line)
                    if data == b"[DONE]":
                        return
                    if data:
                        yield piece(kind, call, data)
            raise WorkerLost("the answer broke off before its end; it may be asked for again")

        return Stream(messages())

    def lines(self, call: Call) -> Generator[bytes, None, None]:
        """As they come, without their ends. Close it."""
        response = self._patiently(call, whole=False)
        lines = Lines()
        try:
            with translated(self._settings, call):
                for content in response.iter_bytes():
                    for line in lines.feed(content):
                        yield line
                for line in lines.rest():
                    yield line
        finally:
            response.close()

    def _patiently(self, call: Call, *, whole: bool) -> httpx2.Response:
        """The answer, once there is a good one: read to its end, or ready to be read."""
        retries, num_done = self._settings.retries, 0
        while True:
            try:
                return self._once(call, whole=whole)
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
            time.sleep(pause_s)

    def _once(self, call: Call, *, whole: bool) -> httpx2.Response:
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
            response = http.send(request, stream=True)
            try:
                if whole or not response.is_success:
                    response.read()
            except BaseException:
                response.close()
                raise
        if response.is_success:
            return response
        if response.is_redirect:  # followed, it could carry the key to another host
            raise InternalError(f"the node sends us elsewhere: {response.headers.get('location')!r}")
        raise refusal(response.status_code, response.headers, response.content)

    def _http(self, url: str, transport: httpx2.BaseTransport | None) -> httpx2.Client:
        headers = {"user-agent": f"thaloom/{__version__}"}
        if self._settings.api_key is not None:
            headers["authorization"] = f"Bearer {self._settings.api_key}"
        # The environment's proxies are not for a node. A socket has no TLS, whatever the door has.
        verify = self._settings.verify() if transport is None else False
        return httpx2.Client(base_url=url, headers=headers, transport=transport, trust_env=False, verify=verify)


class Asking:
    """Methods that ask over one connection, which is somebody else's to close."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
