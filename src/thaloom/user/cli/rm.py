"""`thaloom rm MODEL...`: take models out of the store."""

from __future__ import annotations

from thaloom.user.cli.command import a_name, argument, verb
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text


@verb("rm")
@argument("models", type=a_name, nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_models)
def command(output: Output, models: tuple[str, ...]) -> None:
    with connect() as node:

        def remove(model: str) -> str:
            with suggesting(model, lambda: [found.name for found in node.models()]):
                return node.remove_model(model).name

        removed, refused = do_each(models, remove)
    output.document({"removed": removed})
    for name in removed:
        output.line(text("rm.done", name=name))
    raise_refusals(refused, output)
