"""`thaloom pull SOURCE`: a model from a hub, a folder or a file, or one that came with Thaloom, into the store."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thaloom.base.errors import BadParameter
from thaloom.user.cli.command import a_name, argument, option, require_near, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output, size
from thaloom.user.cli.progress import progress_bar, progress_lines
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import HubAccess

_ELSEWHERE = re.compile(r"(?:hf|ms|https?)://.|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:[@:].*)?$")
"""What is not of this machine: an address, or `org/name`, which a folder of that name goes before."""
_TRUE = ("1", "on", "yes", "true")


@verb("pull", changes=True)
@argument("path", type=click.Path())
@option("--name", type=a_name, metavar="NAME")
@option("--replace", is_flag=True)
@option("--encrypt/--plain", "encrypt", default=None)
@option("--progress", type=click.Choice(["bar", "json", "none"]), default="bar")
def command(output: Output, path: str, name: str | None, replace: bool, encrypt: bool | None, progress: str) -> None:
    from thaloom.edge.wire.control import PullRequest

    place = Path(path).expanduser().absolute()
    elsewhere = bool(_ELSEWHERE.match(path)) and not (place.exists() and "://" not in path)
    if not elsewhere and "/" in path and not place.exists():
        raise BadParameter(text("pull.no_path", path=str(place)), param="PATH", path=str(place))
    if not elsewhere and place.exists():
        require_near(f"thaloom pull {path}")
    source = path if elsewhere or not place.exists() else str(place)  # the node knows what came with it by name
    hub = hub_access(os.environ)
    request = PullRequest(source=source, name=name, replace=replace, encrypt=encrypt, hub=hub)
    shown = progress_lines() if progress == "json" else progress_bar(output, name or Path(path).name, progress == "bar")
    try:
        with connect() as node, shown as draw:
            model = node.pull(request, draw)
    except BadParameter as error:
        if error.param != "source" or elsewhere:
            raise
        raise BadParameter(text("pull.no_path", path=str(place)), param="PATH", path=str(place)) from error
    except KeyboardInterrupt:
        if elsewhere:
            output.note(text("pull.goes_on", source=path))
        raise
    output.document(model.model_dump())
    output.line(text("pull.done", name=model.name, size=size(model.total_bytes), digest=model.digest[:12]))


def hub_access(environment: Mapping[str, str]) -> HubAccess:
    """What the person's environment says of hubs, in the names the field uses."""
    from thaloom.edge.wire.control import HubAccess

    return HubAccess(
        hf_endpoint=environment.get("HF_ENDPOINT") or None,
        hf_token=environment.get("HF_TOKEN") or None,
        ms_endpoint=environment.get("MODELSCOPE_ENDPOINT") or None,
        ms_token=environment.get("MODELSCOPE_API_TOKEN") or None,
        offline=environment.get("HF_HUB_OFFLINE", "").strip().lower() in _TRUE,
    )
