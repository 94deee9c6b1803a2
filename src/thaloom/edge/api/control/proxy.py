"""`/thaloom/v1/*`: handed on, as it is, to the daemon's control socket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from thaloom.base.errors import NodeNotRunning, UnknownPath
from thaloom.edge.api.entrance.visits import CURRENT, address_of
from thaloom.edge.api.routes.body import ClientGone, read_body, while_connected
from thaloom.edge.wire import control as wire

if TYPE_CHECKING:
    import httpx2

MAX_CONTROL_BODY_BYTES = 1024 * 1024
CONNECT_DEADLINE_S = 2.0
SILENCE_DEADLINE_S = 60.0
"""Streams of the control API say something every few seconds."""
_PASSED_ON = ("content-type", "accept", "if-match", "if-none-match", "last-event-id", "x-request-id", "idempotency-key",
               *("authorization", "x-api-key", "api-key"))  # fmt: skip
"""The keys too: whose they are, and what he may, is the daemon's to say."""
_DROPPED = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})
"""Of one hop only, or written anew here."""


def _handed_on(headers: Headers, address: str) -> list[tuple[bytes, bytes]]:
    """As bytes: a client may send what is not ASCII, which is all that text may be in the client below."""
    told = {name: headers[name] for name in _PASSED_ON if name in headers}
    told |= {"via": wire.VIA, "forwarded": f'for="{address}"'}
    tab = CURRENT.get()
    if tab is not None and tab.traceparent is not None:
        told["traceparent"] = tab.traceparent
    return [(name.encode(), value.encode("latin-1")) for name, value in told.items()]


class ControlProxy:
    """An ASGI application. `close` it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._client: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if ".." in scope["path"].split("/"):  # the client below would walk it, out of what is handed on here
            raise UnknownPath("a path with '..' is not handed on")
        headers = Headers(scope=scope)
        try:
            body = await read_body(receive, declared=headers.get("content-length"), limit=MAX_CONTROL_BODY_BYTES)
            await while_connected(receive, self._pass_on(scope, headers, body, send))
        except ClientGone:
            return

    async def _pass_on(self, scope: Scope, headers: Headers, body: bytes, send: Send) -> None:
        import httpx2

        client = self._connected()
        query = scope["query_string"].decode("latin-1")
        target = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        request = client.build_request(
            scope["method"],
            f"http://localhost{target}" + (f"?{query}" if query else ""),
            headers=_handed_on(headers, address_of(scope)),
            content=body,
        )
        begun = False
        try:
            response = await client.send(request, stream=True)
            try:
                await send(
                    {
                        "type": "http.response.start",
                        "status": response.status_code,
                        "headers": [pair for pair in response.headers.raw if pair[0].lower().decode() not in _DROPPED],
                    }
                )
                begun = True
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            if begun:
                raise ClientGone from error  # cut in the middle: the connection ends without its last chunk
            raise NodeNotRunning("the node's daemon does not answer; models go on being served") from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _connected(self) -> httpx2.AsyncClient:
        import httpx2  # slow to import, and most doors never need it

        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(uds=str(self._socket)),
                timeout=httpx2.Timeout(SILENCE_DEADLINE_S, connect=CONNECT_DEADLINE_S),
                trust_env=False,
            )
        return self._client
