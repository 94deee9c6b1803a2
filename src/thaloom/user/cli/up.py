"""`thaloom up`: start the node of this home, in the foreground or (`-d`) in a session of its own."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from thaloom.base import config
from thaloom.base.errors import AlreadyRunning, ThaloomError
from thaloom.user.cli import node
from thaloom.user.cli.command import option, verb
from thaloom.user.cli.output import Output
from thaloom.user.cli.secret import given_passphrase
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import NodeStatus


@verb("up", near=True)
@option("-d", "--detach", is_flag=True)
@option("--host", metavar="ADDRESS")
@option("--port", type=click.IntRange(1, 65535), metavar="N")
@option("--passphrase", is_flag=True)
@option("--passphrase-fd", type=click.IntRange(min=0), metavar="N")
def command(
    output: Output, detach: bool, host: str | None, port: int | None, passphrase: bool, passphrase_fd: int | None
) -> None:
    # Flags go over the environment, and the environment is how the daemon is told.
    if host is not None:
        os.environ["THALOOM_HOST"] = host
    if port is not None:
        os.environ["THALOOM_PORT"] = str(port)
    status = node.running()
    if status is not None:
        raise AlreadyRunning(
            text("up.already", home=status.home, pid=status.pid, url=status.url), pid=status.pid, url=status.url
        )
    secret = given_passphrase(ask=passphrase, descriptor=passphrase_fd)
    if detach:
        announce(output, node.start_detached(passphrase_fd=secret))
    else:
        _announce_later(output)
        if output.as_json:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the one document is on standard output, the log is not
        # An impatient Ctrl-C waits until the daemon can heed it, instead of ending its imports in a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        words = node.daemon_command(secret)
        os.execv(words[0], words)  # the daemon takes our place: signals reach it, its end is ours


def announce(output: Output, status: NodeStatus) -> None:
    """Where everything is, once it is there."""
    output.document(places(status))
    output.line(text("up.ready", pid=status.pid))
    output.facts(
        [
            (text("up.api"), f"{status.url}/v1"),
            (text("up.metrics"), f"{status.url}/metrics"),
            (text("up.logs"), str(node.logs_folder())),
            (text("up.home"), status.home),
        ]
    )


def places(status: NodeStatus) -> dict[str, Any]:
    return {
        "pid": status.pid,
        "url": status.url,
        "api": f"{status.url}/v1",
        "metrics": f"{status.url}/metrics",
        "logs": str(node.logs_folder()),
        "home": str(config.home()),
        "version": status.version,
    }


def _announce_later(output: Output) -> None:
    """Leave behind a process that waits for the node that we are about to become, tells where it is, and ends.

    It is forked twice, so that the daemon has no child it does not know.
    """
    from thaloom.base.procs import identify

    daemon = identify(os.getpid())
    assert daemon is not None, "we are alive"
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    if os.fork():
        os._exit(0)
    try:
        status = node.wait_for_door(daemon, timeout_s=node.START_TIMEOUT_S)
        if status is not None:
            announce(output, status)
    except (ThaloomError, OSError, KeyboardInterrupt):
        pass  # the daemon's own words are on the same terminal
    finally:
        os._exit(0)
