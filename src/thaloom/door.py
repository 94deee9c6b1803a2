"""The door: serves the public protocols from the last published routes: on loopback, or with TLS to whoever has a key.
Only composes.

It needs no living daemon: what it knows is in `run/routes.json`, and workers are asked over their own sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import functools
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from thaloom.base import config
from thaloom.base.clock import SystemClock
from thaloom.base.errors import BadParameter, Forbidden, PortTaken, ThaloomError
from thaloom.base.events import Degraded, Emit, Event, at_level, ignore
from thaloom.base.heap import keep_little
from thaloom.base.log import LogWriter
from thaloom.edge.api import app
from thaloom.edge.api.entrance.connection import MAX_CONNECTIONS, with_bounds
from thaloom.edge.api.entrance.handshakes import Handshakes
from thaloom.edge.api.entrance.hosts import LOOPBACK, Hosts, is_loopback_name
from thaloom.edge.api.entrance.refusals import Refusals, TurnedAway
from thaloom.edge.api.measures.tls_metrics import TlsMetrics
from thaloom.edge.client.control_async import AsyncControlClient
from thaloom.kernel.sched.idling import IdleConfig
from thaloom.kernel.state.kept import KeepLimits, open_kept
from thaloom.kernel.state.keys import KeyReader
from thaloom.kernel.state.routes import RouteReader
from thaloom.kernel.state.shared_rows import SharedRows
from thaloom.kernel.state.types import Alias
from thaloom.kernel.trust.inherited import InheritedKey
from thaloom.work.runtime.frontend.doorkeeper import Doorkeeper
from thaloom.work.runtime.frontend.frontend import Frontend
from thaloom.work.runtime.frontend.shown_certificate import ShownCertificate

if TYPE_CHECKING:
    from thaloom.edge.api.entrance.otel import OtelTracing
    from thaloom.edge.client.read_through import ReadThrough
    from thaloom.kernel.models.store import ModelStore

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7411
GRACE_S = 10
"""For running answers after SIGTERM; what is not done by then is cut."""
BACKLOG = 1024
OWN_DESCRIPTORS = 256
"""For files, sockets to the daemon, and connections on their way out."""


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
    keep_little()
    arguments = _parser().parse_args(argv)
    clock = SystemClock()
    emit = LogWriter(clock)
    key = InheritedKey(os.environ)
    run = arguments.home / "run"
    try:
        limits = config.read_table(KeepLimits, arguments.home / "config.toml", "keep")
        idle = config.read_table(IdleConfig, arguments.home / "config.toml", "idle")
        beyond = not is_loopback_name(arguments.host)
        shown = ShownCertificate(arguments.home, clock, emit) if beyond or arguments.tls else None
        listener = listen(arguments.host, arguments.port, tls=shown is not None)
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        rows = SharedRows(run / "limits.rows")
    except ThaloomError as error:
        emit(DoorRefused(code=error.code, message=error.message))
        return error.exit_code
    _hear_libraries(emit)
    with closing(rows):
        doorkeeper = Doorkeeper(KeyReader(run / "keys.json", emit), rows, clock, always=beyond)
        asyncio.run(_serve(arguments.home, limits, idle, listener, doorkeeper, shown, key, clock, emit))
    return 0


def listen(host: str, port: int, *, tls: bool = False) -> socket.socket:
    """A listening socket. Raises Forbidden for an address beyond loopback without TLS, PortTaken, BadParameter."""
    if not is_loopback_name(host):
        if not tls:
            raise Forbidden(f"without TLS the door listens on loopback only, not on {host!r}", param="host")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise BadParameter(f"host {host!r} is no address", param="host") from None
    if not 0 <= port <= 65535:
        raise BadParameter(f"port {port} is not between 0 and 65535", param="port")
    address = DEFAULT_HOST if host.lower().removesuffix(".") == "localhost" else host
    # The protocol is named: asyncio sends at once (TCP_NODELAY) on sockets that say they are TCP, and on no others.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
    """What `/openapi.json` answers, without a node."""
    frontend = Frontend(RouteReader(Path("routes.json")), SystemClock(), ignore)
    try:
        return app.openapi_document(frontend, frontend)
    finally:
        frontend.close()


async def _serve(
    home: Path,
    limits: KeepLimits,
    idle: IdleConfig,
    listener: socket.socket,
    doorkeeper: Doorkeeper,
    shown: ShownCertificate | None,
    key: InheritedKey,
    clock: SystemClock,
    emit: Emit,
) -> None:
    run = home / "run"
    kept = open_kept(home / "kept", clock, limits)
    sent_home: set[asyncio.Task[None]] = set()

    def send_home(alias: Alias, reason: str) -> None:
        task = asyncio.create_task(_send_home(home, alias, reason, emit))
        sent_home.add(task)
        task.add_done_callback(sent_home.discard)

    client = AsyncControlClient(run / "control.sock")
    frontend = Frontend(
        RouteReader(run / "routes.json", emit),
        clock,
        emit,
        wake=client.wake,
        wake_limit_s=idle.wake_limit_s,
        on_return=send_home,
    )
    tracing = traces(os.environ, emit)
    connection: Callable[..., asyncio.Protocol] = with_bounds(max_connections=_room_for_connections())
    handshakes = None if shown is None else Handshakes(shown.context, connection)
    server = _Server(
        uvicorn.Config(
            app.door_app(
                frontend,
                control_socket=run / "control.sock",
                keeping=kept,
                doorkeeper=doorkeeper,
                tracing=tracing,
                hub=functools.partial(_open_hub, home, key, clock, emit),
                inference=frontend,
                hosts=LOOPBACK if shown is None else Hosts(lambda: shown.names),
                collectors=() if shown is None or handshakes is None else (_tls_metrics(handshakes, shown),),
                refusals=Refusals(functools.partial(_tell_refused, home), clock),
                clock=clock,
                emit=emit,
            ),
            loop="asyncio",
            http=connection if handshakes is None else handshakes,  # type: ignore[arg-type]  # uvicorn calls it and asks for no more
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

    def end() -> None:
        server.ask_to_end()
        if handshakes is not None:
            handshakes.close()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, end)
    # The node says so when the certificate is another; without one there is nothing to read again.
    loop.add_signal_handler(signal.SIGHUP, (lambda: None) if shown is None else shown.reload)
    host, port = listener.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    emit(DoorOpened(url=f"{'http' if shown is None else 'https'}://{place}", pid=os.getpid()))
    try:
        await server.serve(sockets=[listener])
    finally:
        frontend.close()
        await client.close()
        kept.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    emit(DoorClosed(pid=os.getpid()))


def _tls_metrics(handshakes: Handshakes, shown: ShownCertificate) -> TlsMetrics:
    return TlsMetrics(handshakes, lambda: shown.not_after)


async def _send_home(home: Path, alias: Alias, reason: str, emit: Emit) -> None:
    """Have the node keep what this door saw, so that every door knows it, and the next one."""
    from thaloom.edge.client.control import ControlClient

    try:
        await asyncio.to_thread(ControlClient(home).return_canary, alias.name, alias.revision, reason)
    except ThaloomError as error:  # without a daemon it holds for this door, for as long as it lives
        emit(DoorRefused(code=error.code, message=f"{alias.name}: {error.message}"))


async def _tell_refused(home: Path, told: TurnedAway) -> None:
    from thaloom.edge.client.control import ControlClient
    from thaloom.edge.wire.control import RefusedAtDoor

    report = RefusedAtDoor(address=told.address, what=told.what, code=told.code, message=told.message, num=told.num)
    await asyncio.to_thread(ControlClient(home).tell_refused, report)


def _room_for_connections() -> int:
    """How many connections there are descriptors for: as many as the system lets us ask for, two for each, and some
    for ourselves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else (soft - OWN_DESCRIPTORS) // 2
    return max(16, min(MAX_CONNECTIONS, room))


def traces(environment: Mapping[str, str], emit: Emit) -> OtelTracing | None:
    """What writes traces, where OpenTelemetry's own variables ask for it."""
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    asked = any(environment.get(name) for name in endpoints) or environment.get("OTEL_TRACES_EXPORTER") == "otlp"
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if not asked or off:
        return None
    try:
        from thaloom.edge.api.entrance.otel import OtelTracing
    except ImportError as error:
        emit(Degraded(subject="traces", reason="ExtraAbsent", message=f"pip install 'thaloom[otel]' ({error})"))
        return None
    return OtelTracing()


def _open_hub(home: Path, key: InheritedKey, clock: SystemClock, emit: Emit) -> tuple[ModelStore, ReadThrough]:
    """The store as a hub. Loaded when somebody asks for a model: most doors never need it, and it brings arrays."""
    from thaloom.edge.client.read_through import ReadThrough
    from thaloom.kernel.models.store import ModelStore

    return ModelStore(home / "models", clock, emit, key=key), ReadThrough(home)


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
    parser = argparse.ArgumentParser(prog="thaloom-door", description="Serve models over HTTP.")
    parser.add_argument("--home", type=Path, default=config.home(), help="the node's folder (THALOOM_HOME)")
    parser.add_argument(
        "--host", default=os.environ.get("THALOOM_HOST", DEFAULT_HOST), help="beyond loopback: with TLS"
    )
    parser.add_argument("--port", type=int, default=os.environ.get("THALOOM_PORT", DEFAULT_PORT), help="0: any")
    parser.add_argument("--tls", action="store_true", help="on loopback too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
