"""A client's connection, bounded where the server itself would wait for ever: before there is a request, whose head it
would also keep whatever its size, and for a client that takes nothing of its answer. Its own refusals (what is no HTTP)
get the form of all others."""

from __future__ import annotations

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from thaloom.base.errors import BadRequest
from thaloom.edge.api.errors import error_body, to_json

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together, as they travel; the guard has finer bounds on headers."""
HEAD_DEADLINE_S = 30.0
"""From a connection, or the first byte of a further request on it, to the end of the request's head."""
SEND_DEADLINE_S = 120.0
"""A client that takes nothing for so long is taken for gone; its answer is cancelled."""

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
"""The host in a request for a whole URL, as a proxy gets it: it counts instead of the header (RFC 9112, 3.2.2)."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection with a bound on the head of a request, in bytes and in time, and one on how long
    a client may take nothing. The latter is here, where it is known that a client is behind: a deadline around each
    write would cost every token of every answer a timer."""

    send_deadline_s = SEND_DEADLINE_S
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_whole()
        self._is_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.send_deadline_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._is_taken()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._deadline is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self._ends_in(data):
                self.send_400_response(f"the head of a request may have {MAX_HEAD_BYTES} bytes")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_whole()
        if match := _ABSOLUTE.match(self.url):
            self.headers[:] = [(b"host", match[1]), *(pair for pair in self.headers if pair[0] != b"host")]
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        body = to_json(error_body(BadRequest(msg)))
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._deadline = self.loop.call_later(HEAD_DEADLINE_S, self._give_up)

    def _head_is_whole(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_taken(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        self._deadline = None
        self.send_400_response(f"the head of the request did not arrive within {HEAD_DEADLINE_S:g} s")

    @staticmethod
    def _ends_in(data: bytes) -> bool:
        """Whether the head may end in this piece, which then is mostly body."""
        return b"\r\n\r\n" in data
