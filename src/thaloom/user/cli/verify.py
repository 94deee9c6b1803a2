"""`thaloom verify MODEL`: read every byte again, and say which files are not what they were."""

from __future__ import annotations

from thaloom.base.errors import CorruptObject
from thaloom.user.cli.command import a_name, argument, verb
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output, size
from thaloom.user.cli.progress import progress_bar
from thaloom.user.cli.texts import text


@verb("verify")
@argument("model", type=a_name, shell_complete=complete_models)
def command(output: Output, model: str) -> None:
    with connect() as node, suggesting(model, lambda: [found.name for found in node.models()]):
        with progress_bar(output, model) as draw:
            outcome = node.verify(model, draw)
    output.document(outcome.model_dump())
    if outcome.sound:
        output.line(text("verify.sound", name=outcome.name, size=size(outcome.checked_bytes)))
        return
    rows = [[fault.path, text(f"problem.{fault.problem}"), fault.message] for fault in outcome.faults]
    output.table([text("head.file"), text("head.problem"), text("head.message")], rows)
    files = ", ".join(fault.path for fault in outcome.faults)
    raise CorruptObject(
        text("verify.altered", name=outcome.name, files=files), files=[fault.path for fault in outcome.faults]
    )
