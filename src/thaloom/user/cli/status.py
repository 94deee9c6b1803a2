"""`thaloom status`: the node, its memory, its conditions and its services."""

from __future__ import annotations

from thaloom.user.cli.command import verb
from thaloom.user.cli.conditions import words_of
from thaloom.user.cli.node import connect, logs_folder
from thaloom.user.cli.output import Output, age, paint, size
from thaloom.user.cli.services import show_services
from thaloom.user.cli.texts import text


@verb("status")
def command(output: Output) -> None:
    with connect() as node:
        status = node.status()
    output.document(status.model_dump())
    door = text("status.door.ready" if status.door_ready else "status.door.not_ready", pid=status.door_pid or "-")
    standby = text("status.standby.none")
    if status.standby_pid is not None:
        standby = text("status.standby.value", pid=status.standby_pid, size=size(status.standby_bytes))
    output.facts(
        [
            (text("status.version"), status.version),
            (text("status.daemon"), text("status.daemon.value", pid=status.pid, age=age(status.started_at))),
            (text("status.door"), paint(door, "green" if status.door_ready else "yellow")),
            (text("up.api"), f"{status.url}/v1"),
            (text("up.metrics"), f"{status.url}/metrics"),
            (text("up.home"), status.home),
            (text("up.logs"), str(logs_folder())),
            (text("status.models"), str(status.num_models)),
            (text("status.standby"), standby),
        ]
    )
    for condition in status.conditions:
        worse = condition.status if condition.kind != "Ready" else not condition.status and condition.message
        if worse:
            output.line(paint(f"{condition.kind}: {words_of(condition)} ({condition.reason})", "yellow"))
    if status.memory:
        output.line()
        rows = [
            [m.device, *map(size, (m.capacity_bytes, m.reserved_bytes, m.lent_bytes, m.measured_bytes, m.free_bytes))]
            for m in status.memory
        ]
        head = [text(f"head.{name}") for name in ("device", "capacity", "promised", "lent", "measured", "free")]
        output.table(head, rows, right=frozenset({1, 2, 3, 4, 5}))
    if status.services:
        output.line()
        show_services(output, status.services)
