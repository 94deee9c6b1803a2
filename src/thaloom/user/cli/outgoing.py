"""`thaloom outgoing`: whether the node calls out, and which calls it did not make."""

from __future__ import annotations

from thaloom.user.cli.command import verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output, date
from thaloom.user.cli.texts import text


@verb("outgoing")
def command(output: Output) -> None:
    with connect() as node:
        found = node.outgoing()
    output.document(found.model_dump())
    closed = found.closed
    output.line(text("outgoing.open") if closed is None else text("outgoing.closed", reason=closed))
    if not found.refused:
        output.note(text("outgoing.none"))
        return
    head = [text(f"head.{word}") for word in ("time", "call", "purpose")]
    output.table(head, [[date(call.time), f"{call.method} {call.url}", call.purpose] for call in found.refused])
