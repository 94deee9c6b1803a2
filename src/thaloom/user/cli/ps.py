"""`thaloom ps`: what is served, and by which processes."""

from __future__ import annotations

from thaloom.user.cli.command import option, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, age, size
from thaloom.user.cli.services import show_services
from thaloom.user.cli.texts import text


@verb("ps")
@option("-a", "--all", "everything", is_flag=True)
def command(output: Output, everything: bool) -> None:
    with connect() as node:
        services, processes = node.services(), node.processes()
    output.document(
        {
            "services": [service.model_dump() for service in services],
            "processes": [process.model_dump() for process in processes],
        }
    )
    if services:
        show_services(output, services)
    else:
        output.note(text("ps.none"))
    if everything:
        output.line()
        rows = [[p.role, str(p.pid), p.service or ABSENT, size(p.resident_bytes), age(p.started_at)] for p in processes]
        head = ["role", "pid", "service", "resident", "age"]
        output.table([text(f"head.{word}") for word in head], rows, right=frozenset({1, 3}))
