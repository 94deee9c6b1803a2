"""`thaloom logs NAME|daemon|door`: what a process of the node has written.

The daemon's and the door's logs are read from their files, so that they can be read when no node runs, which is when
they are needed most. A service's log comes through the node, like everything else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from thaloom.base.errors import NodeNotRunning
from thaloom.user.cli.command import a_name, argument, option, require_near, verb
from thaloom.user.cli.completing import logs as complete_logs
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect, daemon_log, logs_folder, running
from thaloom.user.cli.output import Output, harmless
from thaloom.user.cli.texts import text

OWN = ("daemon", "door")
_POLL_S = 0.2


@verb("logs")
@argument("name", type=a_name, metavar="NAME|daemon|door", shell_complete=complete_logs)
@option("-f", "--follow", is_flag=True)
@option("-n", "--tail", type=click.IntRange(0, 10_000), default=100, metavar="N")
def command(output: Output, name: str, follow: bool, tail: int) -> None:
    if name in OWN:
        require_near(f"thaloom logs {name}")
        if name == "daemon" and (terminal := _daemon_writes_to()) is not None:
            output.note(text("logs.foreground", place=terminal))
        _show(output, name, _of_file(logs_folder() / f"{name}.log", follow=follow, tail=tail), follow=follow)
        return
    with connect() as node, suggesting(name, lambda: [*OWN, *(service.name for service in node.services())]):
        with node.logs(name, follow=follow, tail=tail) as lines:
            _show(output, name, lines, follow=follow)


def _show(output: Output, name: str, lines: Iterator[str], *, follow: bool) -> None:
    """Text as it comes; as JSON one document, or with --follow (which has no end) one document a line."""
    if output.as_json and not follow:
        output.document({"name": name, "lines": list(lines)})
        return
    for line in lines:
        if output.as_json:
            print(json.dumps({"name": name, "line": line}, ensure_ascii=False), flush=True)
        else:
            output.line(harmless(line) if sys.stdout.isatty() else line)


def _daemon_writes_to() -> str | None:
    """Where the daemon that runs now writes to, if that is not its log: it is in the foreground somewhere."""
    status = running()
    if status is None:
        return None
    try:
        place = str(Path(f"/proc/{status.pid}/fd/1").readlink())
    except OSError:
        return None
    return None if place == str(daemon_log().resolve()) else place


def _of_file(path: Path, *, follow: bool, tail: int) -> Iterator[str]:
    """The last `tail` lines; with `follow`, then whole lines as they are written. Raises NodeNotRunning if no node of
    this home ever wrote one."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise NodeNotRunning(text("logs.none", path=str(path)), path=str(path)) from error
    with file:
        for line in deque(file, maxlen=tail):
            yield line.rstrip("\n")
        begun = ""
        while follow:
            begun += file.readline()
            if begun.endswith("\n"):
                yield begun.rstrip("\n")
                begun = ""
            else:
                if os.fstat(file.fileno()).st_size < os.lseek(file.fileno(), 0, os.SEEK_CUR):
                    begun = ""  # somebody emptied the log: it begins anew
                    file.seek(0)
                time.sleep(_POLL_S)
