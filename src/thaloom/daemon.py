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
from thaloom.base.heap import keep_little
from thaloom.base.journald import JournalWriter, log_to
from thaloom.base.log import LogWriter
from thaloom.base.plugins import Registry
from thaloom.edge.api.control.routes import control_app
from thaloom.edge.api.control.server import ControlServer
from thaloom.hal.driver import Driver
from thaloom.init.boot import NodeConfig, boot_error, read_config, take_home
from thaloom.init.events import NodeLeft, NodeStarted, NodeStopped
from thaloom.init.layout import Layout
from thaloom.init.reloading import Reloading
from thaloom.init.service_manager import ServiceManager
from thaloom.init.wiring import Node, take_stock
from thaloom.kernel.state.reserve import Reserve
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.trust.master_key import MasterSecret, read_passphrase
from thaloom.kernel.trust.seals import node_key, sealing
from thaloom.kernel.trust.secret_memory import shield_process


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node in the foreground until SIGTERM, SIGINT or `down`. Returns the exit code of base.errors."""
    keep_little()
    arguments = _parser().parse_args(argv)
    os.umask(0o077)  # whatever a node keeps is for its user alone, its processes included
    layout = Layout((arguments.home or config.home()).absolute())
    try:
        lock = take_home(layout.home)
        with contextlib.closing(lock):
            layout.create()
            settings = read_config(layout.config, os.environ, host=arguments.host, port=arguments.port)
            passphrase = None
            if arguments.passphrase_fd is not None:
                shield_process()
                passphrase = read_passphrase(arguments.passphrase_fd, "the passphrase given at the start")
                os.close(arguments.passphrase_fd)
            asyncio.run(_run(layout, settings, passphrase, arguments))
    except KeyboardInterrupt:
        return 130
    except (ThaloomError, OSError, ExceptionGroup) as error:
        told = boot_error(error)
        if told is None:
            raise
        print(f"thaloomd: {told.message} [{told.code}; {told.help_page}]", file=sys.stderr)
        return told.exit_code
    return 0


async def _run(
    layout: Layout, settings: NodeConfig, passphrase: MasterSecret | None, arguments: argparse.Namespace
) -> None:
    clock = SystemClock()
    log = log_to(clock, sys.stdout, level=settings.log_level, environment=os.environ)
    manager = ServiceManager(os.environ)
    registry: Registry[Driver] = Registry("driver")
    registry.discover()
    is_new = not layout.node_key.exists()
    seal, reserve = sealing(node_key(layout.node_key)), Reserve(layout.reserve, emit=log)
    with contextlib.closing(StateStore(layout.state, clock, seal=seal, is_new=is_new, reserve=reserve)) as store:
        found = take_stock(layout, settings, store, clock)
        async with asyncio.TaskGroup() as tasks:
            node = Node(
                tasks, layout, settings, store=store, registry=registry, clock=clock, emit=log, passphrase=passphrase
            )
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, node.syscalls.interrupt, signum.name)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # `thaloom up` kept it from our imports
            reloading = _reloading(layout, settings, node, log, arguments)
            await node.start(found)
            _watch_signals(node, reloading, manager, store, tasks)
            server = ControlServer(control_app(node.syscalls, node.gate), layout.control_socket, node.gate)
            layout.let_pass(node.gate.others_may_connect)
            server.listen()  # who is told that we are ready may connect
            serving = tasks.create_task(server.serve(), name="control")
            node.emit(NodeStarted(version=__version__, pid=os.getpid(), home=str(layout.home), url=settings.url))
            manager.ready(f"serving on {settings.url}")
            living = tasks.create_task(manager.keep_alive(clock), name="keep alive")
            await node.run()
            manager.stopping("every process has ended")
            living.cancel()
            server.stop()
            await serving
            node.emit(NodeStopped(pid=os.getpid()))


def _reloading(
    layout: Layout, settings: NodeConfig, node: Node, log: LogWriter | JournalWriter, arguments: argparse.Namespace
) -> Reloading:
    def read() -> NodeConfig:
        return read_config(layout.config, os.environ, host=arguments.host, port=arguments.port)

    def apply(fresh: NodeConfig) -> None:
        log.level = fresh.log_level
        node.use(fresh)

    return Reloading(settings, read, apply, node.emit)


def _watch_signals(
    node: Node, reloading: Reloading, manager: ServiceManager, store: StateStore, tasks: asyncio.TaskGroup
) -> None:
    """SIGHUP: read the settings again. SIGUSR2: end, and leave everything running for the next daemon (what systemd is
    told to send for a restart)."""

    def reload() -> None:
        manager.reloading()
        read = reloading.reload()
        manager.ready(
            f"serving on {reloading.settings.url}" + ("" if read else "; config.toml could not be read again")
        )

    async def leave() -> None:
        await node.hand_over()
        manager.stopping("everything goes on without the daemon")
        node.emit(NodeLeft(pid=os.getpid()))
        store.close()
        sys.stdout.flush()
        os._exit(0)  # in order would be: stop what was started here

    leaving: list[asyncio.Task[None]] = []

    def begin_to_leave() -> None:
        if not leaving:
            leaving.append(tasks.create_task(leave(), name="leave"))

    loop = asyncio.get_running_loop()
    if not sys.stdin.isatty():  # at a terminal it means that the terminal is gone
        loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGUSR2, begin_to_leave)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="thaloomd", description="Run a Thaloom node in the foreground.")
    parser.add_argument("--home", type=Path, help="folder of the node (default: THALOOM_HOME, else ~/.thaloom)")
    parser.add_argument("--host", help="address of the door (default: THALOOM_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of the door (default: THALOOM_PORT, else 7411)")
    parser.add_argument(
        "--passphrase-fd", type=int, help="descriptor to read the passphrase of encrypted models from, to its end"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


if __name__ == "__main__":
    sys.exit(main())
