"""`thaloomd`: process one of a node. Control only; it may end at any moment, and nobody who streams notices."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from thaloom import __version__
from thaloom.base import config
from thaloom.base.clock import SystemClock
from thaloom.base.errors import ThaloomError
from thaloom.base.log import LogWriter
from thaloom.base.plugins import Registry
from thaloom.edge.api.control.routes import control_app
from thaloom.edge.api.control.server import ControlServer
from thaloom.hal.driver import Driver
from thaloom.init.boot import NodeConfig, boot_error, read_config, take_home
from thaloom.init.events import NodeStarted, NodeStopped
from thaloom.init.layout import Layout
from thaloom.init.wiring import Node, take_stock
from thaloom.kernel.state.reserve import Reserve
from thaloom.kernel.state.store import StateStore


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node in the foreground until SIGTERM, SIGINT or `down`. Returns the exit code of base.errors."""
    arguments = _parser().parse_args(argv)
    os.umask(0o077)  # whatever a node keeps is for its user alone, its processes included
    layout = Layout((arguments.home or config.home()).absolute())
    try:
        lock = take_home(layout.home)
        with contextlib.closing(lock):
            layout.create()
            settings = read_config(layout.config, os.environ, host=arguments.host, port=arguments.port)
            asyncio.run(_run(layout, settings))
    except KeyboardInterrupt:
        return 130
    except (ThaloomError, OSError, ExceptionGroup) as error:
        told = boot_error(error)
        if told is None:
            raise
        print(f"thaloomd: {told.message} [{told.code}; {told.help_page}]", file=sys.stderr)
        return told.exit_code
    return 0


async def _run(layout: Layout, settings: NodeConfig) -> None:
    clock = SystemClock()
    emit = LogWriter(clock, sys.stdout, level=settings.log_level, human=sys.stdout.isatty())
    registry: Registry[Driver] = Registry("driver")
    registry.discover()
    reserve = Reserve(layout.reserve, emit=emit)
    with contextlib.closing(StateStore(layout.state, clock, reserve=reserve)) as store:
        found = take_stock(layout, settings, store, clock)
        async with asyncio.TaskGroup() as tasks:
            node = Node(tasks, layout, settings, store=store, registry=registry, clock=clock, emit=emit)
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, node.syscalls.interrupt, signum.name)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # `thaloom up` kept it from our imports
            await node.start(found)
            server = ControlServer(control_app(node.syscalls), layout.control_socket)
            serving = tasks.create_task(server.serve(), name="control")
            node.emit(NodeStarted(version=__version__, pid=os.getpid(), home=str(layout.home), url=settings.url))
            await node.run()
            server.stop()
            await serving
            node.emit(NodeStopped(pid=os.getpid()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="thaloomd", description="Run a Thaloom node in the foreground.")
    parser.add_argument("--home", type=Path, help="folder of the node (default: THALOOM_HOME, else ~/.thaloom)")
    parser.add_argument("--host", help="address of the door, loopback only (default: THALOOM_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of the door (default: THALOOM_PORT, else 7411)")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


if __name__ == "__main__":
    sys.exit(main())
