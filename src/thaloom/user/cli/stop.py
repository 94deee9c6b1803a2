"""`thaloom stop NAME...`: serve it no longer. What it is answering is answered first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from thaloom.base.errors import DeadlineExceeded, ServiceNotFound
from thaloom.user.cli.command import a_name, argument, finite, option, verb
from thaloom.user.cli.completing import services as complete_services
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output
from thaloom.user.cli.progress import spinner
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.client.control import ControlClient

_POLL_S = 0.05


@verb("stop", changes=True)
@argument("names", type=a_name, nargs=-1, required=True, metavar="NAME...", shell_complete=complete_services)
@option("--wait/--no-wait", default=True)
@option("--timeout", "timeout_s", type=click.FloatRange(min=0), callback=finite, default=60.0, metavar="SECONDS")
def command(output: Output, names: tuple[str, ...], wait: bool, timeout_s: float) -> None:
    with connect() as node:

        def stop(name: str) -> str:
            with suggesting(name, lambda: [service.name for service in node.services()]):
                return node.stop(name).name

        stopped, refused = do_each(node, names, stop)
        for name in stopped if wait else ():
            with spinner(output, text("stop.waiting", name=name)):
                _wait_until_gone(node, name, timeout_s)
    output.document({"stopped": stopped})
    for name in stopped:
        output.line(text("stop.done", name=name))
    raise_refusals(refused, output)


def _wait_until_gone(node: ControlClient, name: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            node.service(name)
        except ServiceNotFound:
            return
        time.sleep(_POLL_S)
    raise DeadlineExceeded(text("stop.late", name=name, seconds=f"{timeout_s:g}"), service=name)
