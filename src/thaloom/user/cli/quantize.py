"""`thaloom quantize MODEL --to int8|int4`: a model in whole numbers, and what it lost by that."""

from __future__ import annotations

from pathlib import Path

import click

from thaloom.base.errors import BadParameter
from thaloom.user.cli.command import a_name, argument, option, require_near, verb
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output, size
from thaloom.user.cli.progress import progress_bar
from thaloom.user.cli.show import quality
from thaloom.user.cli.texts import text


@verb("quantize", changes=True)
@argument("model", type=a_name, shell_complete=complete_models)
@option("--to", type=click.Choice(["int8", "int4"]), required=True)
@option("--name", type=a_name, metavar="NAME")
@option("--replace", is_flag=True)
@option("--text", "text_file", type=click.Path(dir_okay=False), metavar="FILE")
def command(output: Output, model: str, to: str, name: str | None, replace: bool, text_file: str | None) -> None:
    from thaloom.edge.wire.control import QuantiseRequest

    place = None if text_file is None else Path(text_file).expanduser().absolute()
    if place is not None and not place.is_file():
        raise BadParameter(text("pull.no_path", path=str(place)), param="--text", path=str(place))
    if place is not None:
        require_near("thaloom quantize --text")
    request = QuantiseRequest.model_validate(
        {"to": to, "name": name, "replace": replace, "text": None if place is None else str(place)}
    )
    with connect() as node, suggesting(model, lambda: [found.name for found in node.models()]):
        with progress_bar(output, name or model) as draw:
            made = node.quantise(model, request, draw)
    output.document(made.model_dump())
    output.line(text("quantize.done", name=made.name, size=size(made.total_bytes), digest=made.digest[:12]))
    if made.card.quantisation is not None:
        output.line(f"{text('head.quality')}: {quality(made.card.quantisation)}")
