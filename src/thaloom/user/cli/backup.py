"""`thaloom backup TARGET` and `thaloom restore SOURCE`: done by a process of their own, whether a node runs or not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thaloom.base.errors import InternalError, ThaloomError
from thaloom.user.cli.command import argument, option, verb
from thaloom.user.cli.output import Output, size
from thaloom.user.cli.progress import progress_bar
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import Progress

_ARCHIVIST = (sys.executable, "-P", "-m", "thaloom.archivist")


@verb("backup", near=True)
@argument("target", type=click.Path())
@option("--models", is_flag=True)
def backup(output: Output, target: str, models: bool) -> None:
    place = _absolute(target)
    with progress_bar(output, Path(place).name) as draw:
        done = _run(["backup", place, *(["--models"] if models else [])], draw)
    output.document(done)
    output.line(text("backup.done", count=done["num_files"], size=size(done["num_bytes"]), place=done["place"]))


@verb("restore", near=True)
@argument("source", type=click.Path())
@option("--replace", is_flag=True)
def restore(output: Output, source: str, replace: bool) -> None:
    place = _absolute(source)
    with progress_bar(output, Path(place).name) as draw:
        done = _run(["restore", place, *(["--replace"] if replace else [])], draw)
    output.document(done)
    output.line(text("restore.done", count=done["num_files"], size=size(done["num_bytes"]), home=done["home"]))
    if done["models_kept"]:
        output.note(text("restore.models_kept"))
    if done["before"] is not None:
        output.note(text("restore.before", place=done["before"]))


def _absolute(place: str) -> str:
    return str(Path(place).expanduser().absolute())


def _run(words: list[str], draw: Callable[[Progress], None]) -> dict[str, Any]:
    """What it said last. Raises the error it ended with."""
    from thaloom.edge.wire.control import Progress

    last: dict[str, Any] = {}
    with subprocess.Popen([*_ARCHIVIST, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said = json.loads(line)
                if "stage" in said:
                    draw(Progress(stage=said["stage"], done_bytes=said["done"], total_bytes=said["total"]))
                else:
                    last = said
        except BaseException:
            process.terminate()
            raise
    if "error" in last:
        raise ThaloomError.from_dict(last["error"])
    if not last:
        raise InternalError(f"the archivist ended with code {process.returncode} and without a word")
    return last
