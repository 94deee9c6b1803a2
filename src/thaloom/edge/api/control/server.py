"""The control API on its unix socket: for the node's own user and root, and whom else the node lets connect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from thaloom.edge.api.control.terms import PEER

_CREDENTIALS = struct.Struct("3i")
"""Source: unix(7), SO_PEERCRED: struct ucred { pid, uid, gid }."""
_GRACE_S = 1
"""What open control connections may still take when the node ends; a followed log would take for ever."""


class ControlServer:
    """Serves `app` on `path`: `listen`, then `serve` until `stop`. A stale socket file there is replaced: the caller
    holds the folder's lock, so nobody living listens on it."""

    def __init__(self, app: FastAPI, path: Path, door: SocketDoor | None = None) -> None:
        """`door` None: only for the node's own user and root."""
        self._path = path
        self._door = door or OwnUserOnly()
        self._listener: socket.socket | None = None
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_connecting(self._door),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    def listen(self) -> None:
        """From now on callers can connect; they are answered once `serve` runs. Raises OSError."""
        self._listener = _listen(self._path, self._door.others_may_connect)

    async def serve(self) -> None:
        """Answer until `stop` is called; then take the socket away."""
        if self._listener is None:
            self.listen()
        assert self._listener is not None
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: the daemon has its own order of ending."""
        yield


class SocketDoor(Protocol):
    """Who may connect; init.access.gate has the real one."""

    @property
    def others_may_connect(self) -> bool:
        """Whether anybody may but the node's own user and root, when the socket is made."""
        ...

    def may_connect(self, uid: int) -> bool: ...


class OwnUserOnly:
    others_may_connect = False

    def may_connect(self, uid: int) -> bool:
        return uid in (os.getuid(), 0)


def _connecting(door: SocketDoor) -> type[HttpToolsProtocol]:
    class Connecting(HttpToolsProtocol):
        """Closes a connection of whoever may not connect before a byte of it is read. The file mode keeps them out as
        well; this holds even where somebody loosened it. Writes down who the other is, by the kernel's word."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            uid = peer_uid(transport.get_extra_info("socket"))
            if not door.may_connect(uid):
                self.transport = transport  # its base class wants one when the connection is lost
                transport.abort()
                return
            super().connection_made(transport)
            self.client = (PEER, uid)

    return Connecting


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a unix socket, by the kernel's word."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(data)
    return int(uid)


def _listen(path: Path, others: bool) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o111 if others else 0o177)  # never, not for a moment, open to others unless they may
    try:
        listener.bind(str(path))
    finally:
        os.umask(old_mask)
    listener.listen(128)
    listener.setblocking(False)
    return listener
