"""The door: serves the public protocols on loopback from the last published routes. Only composes.

It needs no living daemon: what it knows is in `run/routes.json`, and workers are asked over their own sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from thaloom.base import config
from thaloom.base.clock import SystemClock
from thaloom.base.errors import BadParameter, Forbidden, PortTaken, ThaloomError
from thaloom.base.events import Emit, Event, at_level, ignore
from thaloom.base.log import LogWriter
from thaloom.edge.api import app
from thaloom.edge.api.connection import BoundedConnection
from thaloom.edge.api.guard import is_loopback_name
from thaloom.kernel.state.routes import RouteReader
from thaloom.work.runtime.frontend import Frontend

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7411
GRACE_S = 10
"""For running answers after SIGTERM; what is not done by then is cut."""
BACKLOG = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorOpened(Event):
    url: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorClosed(Event):
    pid: int


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class DoorRefused(Event):
    code: str
    message: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryComplained(Event):
    """A line that the HTTP server wrote to its own log."""

    logger: str
    message: str


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the process's exit code."""
    arguments = _parser().parse_args(argv)
    clock = SystemClock()
    emit = LogWriter(clock)
    try:
        listener = listen(arguments.host, arguments.port)
    except ThaloomError as error:
        emit(DoorRefused(code=error.code, message=error.message))
        return error.exit_code
    _hear_libraries(emit)
    asyncio.run(_serve(arguments.home, listener, clock, emit))
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on loopback. Raises Forbidden for any other address, PortTaken, BadParameter."""
    if not is_loopback_name(host):
        raise Forbidden(f"the door listens on loopback only, not on {host!r} (beyond it, TLS and a token are needed)")
    if not 0 <= port <= 65535:
        raise BadParameter(f"port {port} is not between 0 and 65535", param="port")
    address = DEFAULT_HOST if host.lower().removesuffix(".") == "localhost" else host
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # back at once after a crash
    try:
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} on {address} is taken by another program", param="port") from error
        raise BadParameter(f"cannot listen on {address}:{port}: {error.strerror}", param="port") from error
    return listener


def openapi_document() -> dict[str, Any]:
    """What `/openapi.json` answers, without a node: for docs/openapi.json."""
    frontend = Frontend(RouteReader(Path("routes.json")), SystemClock(), ignore)
    try:
        return app.openapi_document(frontend, frontend)
    finally:
        frontend.close()


async def _serve(home: Path, listener: socket.socket, clock: SystemClock, emit: Emit) -> None:
    run = home / "run"
    frontend = Frontend(RouteReader(run / "routes.json", emit), clock, emit)
    server = _Server(
        uvicorn.Config(
            app.door_app(frontend, control_socket=run / "control.sock", clock=clock, emit=emit, inference=frontend),
            loop="asyncio",
            http=BoundedConnection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, server.ask_to_end)
    host, port = listener.getsockname()[:2]
    emit(DoorOpened(url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", pid=os.getpid()))
    try:
        await server.serve(sockets=[listener])
    finally:
        frontend.close()
    emit(DoorClosed(pid=os.getpid()))


class _Server(uvicorn.Server):
    """uvicorn, with signals handled here: its own way ends the process by the signal instead of an exit code."""

    def ask_to_end(self) -> None:
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _ToEvents(logging.Handler):
    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        self._emit(LibraryComplained(logger=record.name, message=record.getMessage()))


def _hear_libraries(emit: Emit) -> None:
    logging.getLogger().addHandler(_ToEvents(emit))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="thaloom-door", description="Serve models over HTTP on loopback.")
    parser.add_argument("--home", type=Path, default=config.home(), help="the node's folder (THALOOM_HOME)")
    parser.add_argument("--host", default=os.environ.get("THALOOM_HOST", DEFAULT_HOST), help="a loopback address")
    parser.add_argument("--port", type=int, default=os.environ.get("THALOOM_PORT", DEFAULT_PORT), help="0: any")
    return parser


if __name__ == "__main__":
    sys.exit(main())
