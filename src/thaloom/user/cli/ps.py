"""`thaloom ps`: what is served, and by which processes.

It is asked often, and by people who wait: what the node answers is shown as it is read, without the messages' classes,
which take longer to make than all else; and a page at a time.
"""

from __future__ import annotations

from typing import Any

import click

from thaloom.user.cli.command import option, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, age, size
from thaloom.user.cli.services import show_services
from thaloom.user.cli.texts import text

_PAGE = 100
_MOST = 10_000


@verb("ps")
@option("-a", "--all", "everything", is_flag=True)
@option("-n", "--limit", type=click.IntRange(1, _MOST), default=_PAGE, metavar="N")
def command(output: Output, everything: bool, limit: int) -> None:
    with connect() as node:
        page = node.services_page(limit=_MOST if everything else limit)
        services, total = page["services"], page["total"]
        while everything and page["next"] is not None:
            page = node.services_page(limit=_MOST, after=page["next"])
            services += page["services"]
        processes = node.processes_plain()["processes"] if everything or output.as_json else []
    output.document({"services": services, "processes": processes, "total": total})
    if output.as_json:
        return
    if services:
        show_services(output, [Shown(service) for service in services])  # type: ignore[misc]
    else:
        output.note(text("ps.none"))
    if total > len(services):
        output.note(text("ps.more", count=total - len(services)))
    if everything:
        output.line()
        rows = [
            [
                _role(p["role"]), str(p["pid"]), p["service"] or ABSENT, size(p["resident_bytes"]),
                age(p["started_at"]), _seconds(p.get("turn_held_s")), _seconds(p.get("turn_waited_s")),
            ]
            for p in processes
        ]  # fmt: skip
        head = ["role", "pid", "service", "resident", "age", "turns", "waited"]
        output.table([text(f"head.{word}") for word in head], rows, right=frozenset({1, 3, 5, 6}))


def _role(word: str) -> str:
    """By the words that `thaloom status` has for them."""
    keys = {"daemon": "status.daemon", "door": "status.door", "standby": "status.standby", "worker": "ps.worker"}
    return text(keys[word]) if word in keys else word


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f} s"


class Shown:
    """A service as it was read, with the names of `edge.wire.control.Service`."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def __getattr__(self, name: str) -> Any:
        try:
            value = self._facts[name]
        except KeyError:
            raise AttributeError(name) from None
        if isinstance(value, dict):
            return Shown(value)
        return [Shown(one) for one in value] if name == "conditions" else value

    def condition(self, kind: str) -> Any:
        return next((condition for condition in self.conditions if condition.kind == kind), None)
