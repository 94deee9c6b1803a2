"""A client's connection, bounded where the server itself would wait, or take more, for ever: connections altogether
and from one address, a request's head in bytes and time, a body nobody waits for any more, requests sent ahead, and a
client that takes nothing of its answer. Its own refusals (what is no HTTP) get the form of all others."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from thaloom.base.errors import BadRequest, ThaloomError, TooManyConnections
from thaloom.edge.api.errors import error_body, to_json

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together, as they travel; the guard has finer bounds on headers."""
HEAD_DEADLINE_S = 30.0
"""From a connection, or the first byte of a further request on it, to the end of the request's head."""
BODY_DEADLINE_S = 600.0
"""From a request's head to the end of its body, whoever reads it; those who do have shorter ones (body.py)."""
REST_DEADLINE_S = 5.0
"""For the rest of a body whose request has been answered already: then the connection is closed."""
SEND_DEADLINE_S = 120.0
"""A client that takes nothing for so long is taken for gone; its answer is cancelled."""
LINGER_S = 1.0
"""After a refusal with which the connection ends: a client that is still sending gets to read it."""
MAX_CONNECTIONS = 4096
"""Held at the same time. Each may have a worker's connection beside it: door.py asks for descriptors enough."""
MAX_PER_ADDRESS = 3072
MAX_LINGERING = 256
"""Connections beyond the bound that are told why. Beyond these too, they are closed without a word."""
MAX_AHEAD = 16
"""Requests that a client may send before it has the answer to the one before (HTTP pipelining)."""

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
"""The host in a request for a whole URL, as a proxy gets it: it counts instead of the header (RFC 9112, 3.2.2)."""
_addresses: WeakKeyDictionary[ServerState, Counter[str]] = WeakKeyDictionary()
"""Connections by the client's address, of each server."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection with bounds. They are here and not around each read and write, where a deadline
    would cost every token of every answer a timer."""

    send_deadline_s = SEND_DEADLINE_S
    max_connections = MAX_CONNECTIONS
    max_per_address = MAX_PER_ADDRESS
    _deadline: asyncio.TimerHandle | None = None
    """For the head of a request; else for its body."""
    _stalled: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _head_is_open = False
    _body_is_open = False
    _ended = False
    """Nothing more is read."""
    _address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        num_here = self._count(1)
        num_all = len(self.connections)
        if num_all > self.max_connections + MAX_LINGERING:
            transport.abort()
        elif num_all > self.max_connections:
            self._end_with(_too_many(f"the door holds {self.max_connections} connections, and no more"))
        elif num_here > self.max_per_address:
            self._end_with(_too_many(f"{self._address} has {self.max_per_address} connections, and may have no more"))
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._forget_deadline()
        self._is_taken()
        self._count(-1)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.send_deadline_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._is_taken()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if not (self._head_is_open or self._body_is_open or self._is_answering):
            self._expect_head()  # what comes between requests is no reason to wait for ever
        if self._head_is_open:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self._ends_in(data):
                self._end_with(BadRequest(f"the head of a request may have {MAX_HEAD_BYTES} bytes"))
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._head_is_open:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_open, self._body_is_open = False, True
        self._expect(BODY_DEADLINE_S, self.transport.abort)
        if match := _ABSOLUTE.match(self.url):
            self.headers[:] = [(b"host", match[1]), *(pair for pair in self.headers if pair[0] != b"host")]
        super().on_headers_complete()
        if len(self.pipeline) > MAX_AHEAD:
            self._ended = True
            self.transport.abort()  # there is no place for a refusal before the answers that are owed

    def on_message_complete(self) -> None:
        self._body_is_open = False
        self._forget_deadline()
        super().on_message_complete()
        if not self._is_answering and self.timeout_keep_alive_task is None:  # it was answered before it was all said
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._body_is_open and not self.pipeline:  # answered before it was all said
            self._expect(REST_DEADLINE_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        self._end_with(BadRequest(msg))

    def _end_with(self, error: ThaloomError) -> None:
        """The last word on this connection. What the client still sends is read for a moment and thrown away: closing
        at once would make its system throw away our words. In the middle of an answer there is no place for it."""
        self._ended = True
        if self._is_answering:
            self.transport.abort()
            return
        body = to_json(error_body(error))
        status = HTTPStatus(error.http_status)
        again = "" if error.retry_after_s is None else f"retry-after: {max(1, round(error.retry_after_s))}\r\n"
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"{again}content-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._expect(LINGER_S, self.transport.abort)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_is_open = True
        self._expect(HEAD_DEADLINE_S, self._give_up)

    def _expect(self, seconds: float, otherwise: Callable[[], object]) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(seconds, otherwise)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_taken(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        if self._is_answering:  # the answer before comes first
            self._expect(HEAD_DEADLINE_S, self._give_up)
            return
        self._end_with(BadRequest(f"the head of the request did not arrive within {HEAD_DEADLINE_S:g} s"))

    def _count(self, change: int) -> int:
        """How many connections this client's address has now."""
        counts = _addresses.setdefault(self.server_state, Counter())
        if change > 0:
            self._address = self.client[0] if self.client else ""
        counts[self._address] += change
        if not counts[self._address]:
            del counts[self._address]
        return counts[self._address]

    @staticmethod
    def _ends_in(data: bytes) -> bool:
        """Whether the head may end in this piece, which then is mostly body."""
        return b"\r\n\r\n" in data


def _too_many(message: str) -> TooManyConnections:
    return TooManyConnections(message, retry_after_s=1.0)


def with_bounds(**bounds: Any) -> type[BoundedConnection]:
    """The same with other bounds: `max_connections`, `max_per_address`, `send_deadline_s`."""
    return type("BoundedConnection", (BoundedConnection,), bounds)
