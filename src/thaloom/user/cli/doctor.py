"""`thaloom doctor host`: what this machine can and cannot enforce. Needs no node; where one runs, its group counts.

A program of its own looks (it tries each wall around itself), so that this one stays as light as the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from thaloom.base.errors import InternalError
from thaloom.user.cli import node
from thaloom.user.cli.command import Verbs, verb
from thaloom.user.cli.output import ABSENT, Output, paint
from thaloom.user.cli.texts import has_text, text

_LOOKING_S = 120.0

command = Verbs(
    "doctor",
    key="doctor",
    sections={"section.doctor": {"host": "thaloom.user.cli.doctor:host"}},
    aliases={},
)


@verb("doctor.host", near=True)
def host(output: Output) -> None:
    found = _look(_node_pid())
    output.document(found)
    output.line(
        text(
            "doctor.seen", kernel=found["kernel"], machine=found["machine"], uid=found["uid"], cgroups=found["cgroups"]
        )
    )
    pid = found["node_pid"]
    output.line(text("doctor.no_node") if pid is None else text("doctor.node", pid=pid))
    for kind in ("wall", "limit", "latency", "host"):
        entries = [entry for entry in found["entries"] if entry["kind"] == kind]
        head = [text(f"doctor.kind.{kind}"), text("head.holds"), text("head.how")]
        output.line()
        output.table(head, [_row(entry) for entry in entries])


def _row(entry: dict[str, Any]) -> list[str]:
    name = f"doctor.name.{entry['name']}"
    holds = paint(text("doctor.yes"), "green") if entry["enforced"] else paint(text("doctor.no"), "yellow")
    return [text(name) if has_text(name) else entry["name"], holds, entry["by"] or entry["why_not"] or ABSENT]


def _node_pid() -> int | None:
    """Of the node of this home, if one answers."""
    status = node.running()
    return None if status is None else status.pid


def _look(pid: int | None) -> dict[str, Any]:
    words = [sys.executable, "-P", "-m", "thaloom.kernel.sandbox", *([] if pid is None else [str(pid)])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_LOOKING_S, check=False)
    if done.returncode:
        raise InternalError(f"the host could not be looked at: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
