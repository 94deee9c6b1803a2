"""`thaloom pull PATH`: import a folder or a file of this machine, or a model that came with Thaloom, into the store."""

from __future__ import annotations

from pathlib import Path

import click

from thaloom.base.errors import BadParameter
from thaloom.user.cli.command import a_name, argument, option, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output, size
from thaloom.user.cli.progress import progress_bar
from thaloom.user.cli.texts import text


@verb("pull")
@argument("path", type=click.Path())
@option("--name", type=a_name, metavar="NAME")
@option("--replace", is_flag=True)
def command(output: Output, path: str, name: str | None, replace: bool) -> None:
    from thaloom.edge.wire.control import PullRequest

    place = Path(path).expanduser().absolute()
    if "/" in path and not place.exists():
        raise BadParameter(text("pull.no_path", path=str(place)), param="PATH", path=str(place))
    source = str(place) if place.exists() else path  # the node knows what came with it by name
    with connect() as node, progress_bar(output, name or Path(path).name) as draw:
        try:
            model = node.pull(PullRequest(source=source, name=name, replace=replace), draw)
        except BadParameter as error:
            if error.param != "source":
                raise
            raise BadParameter(text("pull.no_path", path=str(place)), param="PATH", path=str(place)) from error
    output.document(model.model_dump())
    output.line(text("pull.done", name=model.name, size=size(model.total_bytes), digest=model.digest[:12]))
