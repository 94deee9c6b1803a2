"""`thaloom encrypt|decrypt MODEL`: keep a model on the disk in cipher, or in plain again."""

from __future__ import annotations

from thaloom.user.cli.command import a_name, argument, option, verb
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output, size
from thaloom.user.cli.progress import progress_bar
from thaloom.user.cli.texts import text


@verb("encrypt", changes=True)
@argument("model", type=a_name, shell_complete=complete_models)
@option("--name", type=a_name, metavar="NAME")
@option("--replace", is_flag=True)
def encrypt(output: Output, model: str, name: str | None, replace: bool) -> None:
    _convert(output, model, name, replace, encrypted=True)


@verb("decrypt", changes=True)
@argument("model", type=a_name, shell_complete=complete_models)
@option("--name", type=a_name, metavar="NAME")
@option("--replace", is_flag=True)
def decrypt(output: Output, model: str, name: str | None, replace: bool) -> None:
    _convert(output, model, name, replace, encrypted=False)


def _convert(output: Output, model: str, name: str | None, replace: bool, *, encrypted: bool) -> None:
    from thaloom.edge.wire.control import ConvertRequest

    request = ConvertRequest(name=name, replace=replace)
    with connect() as node, suggesting(model, lambda: [found.name for found in node.models()]):
        with progress_bar(output, name or model) as draw:
            made = node.convert(model, request, draw, encrypted=encrypted)
    output.document(made.model_dump())
    key = "encrypt.done" if encrypted else "decrypt.done"
    output.line(text(key, name=made.name, size=size(made.total_bytes)))
