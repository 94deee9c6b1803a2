"""`thaloom rm MODEL...`: take models out of the store, or with --partial what came of pulls that did not end."""

from __future__ import annotations

from thaloom.user.cli.command import a_name, argument, option, verb
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text


@verb("rm", changes=True)
@argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_models)
@option("--partial", is_flag=True)
def command(output: Output, models: tuple[str, ...], partial: bool) -> None:
    names = models if partial else tuple(map(a_name, models))
    with connect() as node:

        def remove(model: str) -> str:
            if partial:
                return node.remove_pull(model).name
            with suggesting(model, lambda: [found.name for found in node.models()]):
                return node.remove_model(model).name

        removed, refused = do_each(node, names, remove)
    output.document({"removed": removed})
    for name in removed:
        output.line(text("rm.done", name=name))
    raise_refusals(refused, output)
