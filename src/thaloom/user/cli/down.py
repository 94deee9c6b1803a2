"""`thaloom down`: stop the node, and return when every process of it has ended."""

from __future__ import annotations

import click

from thaloom.base.errors import DeadlineExceeded
from thaloom.user.cli.command import finite, option, verb
from thaloom.user.cli.node import connect, wait_until_ended
from thaloom.user.cli.output import Output
from thaloom.user.cli.progress import spinner
from thaloom.user.cli.texts import text


@verb("down", changes=True, near=True)
@option("--timeout", "timeout_s", type=click.FloatRange(min=0), callback=finite, default=60.0, metavar="SECONDS")
def command(output: Output, timeout_s: float) -> None:
    from thaloom.base.procs import identify

    with connect() as node:
        processes = node.processes()
        node_pid = node.status().pid
        pids = sorted({process.pid for process in processes} | {node_pid})
        living = [identity for pid in pids if (identity := identify(pid)) is not None]
        node.down()
    with spinner(output, text("down.waiting")):
        left = wait_until_ended(living, timeout_s=timeout_s)
    if left:
        numbers = ", ".join(str(process.pid) for process in left)
        raise DeadlineExceeded(text("down.late", seconds=f"{timeout_s:g}", pids=numbers), pids=[p.pid for p in left])
    output.document({"ended": pids})
    output.line(text("down.done", count=len(pids)))
