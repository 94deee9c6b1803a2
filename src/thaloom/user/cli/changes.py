"""`thaloom history|explain|undo|approve|audit`: what was done to this machine, by whom, and how to take it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thaloom.base.actions import Change
from thaloom.base.errors import CorruptObject
from thaloom.base.units import parse_duration
from thaloom.user.cli.command import Verbs, argument, option, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Colour, Output, age, date, paint
from thaloom.user.cli.planning import change_lines
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import Action, JournalReport

_HERE = "thaloom.user.cli.changes:"
_COLOURS: dict[str, Colour] = {
    "done": "green",
    "failed": "red",
    "undone": "yellow",
    "running": "yellow",
    "refused": "red",
}
audit = Verbs(
    "audit",
    key="audit",
    sections={"section.audit": {"verify": _HERE + "verify", "checkpoint": _HERE + "checkpoint"}},
    aliases={},
)


@verb("history")
@argument("subject", required=False)
@option("-n", "--limit", type=click.IntRange(1, 1000), default=20, metavar="N")
@option("--by", metavar="WHO")
@option("--refused", is_flag=True)
def history(output: Output, subject: str | None, limit: int, by: str | None, refused: bool) -> None:
    with connect() as node:
        found = node.actions(limit=limit, subject=subject, by=by, refused=refused)
    output.document({"actions": [action.model_dump() for action in found]})
    if not found:
        output.note(text("history.none_refused" if refused else "history.none"))
        return
    head = [text(f"head.{word}") for word in ("id", "action", "subject", "by", "ending", "age")]
    rows = [
        [action.id, action.kind, ", ".join(action.subjects[:2]) or ABSENT, action.by, _ending(action), age(action.time)]
        for action in found
    ]
    output.table(head, rows)


@verb("explain")
@argument("action")
def explain(output: Output, action: str) -> None:
    with connect() as node:
        found = node.action(action)
    output.document(found.model_dump())
    past = found.action
    output.line(text("explain.head", kind=past.kind, by=past.by, when=date(past.time), ending=_ending(past)))
    for line in change_lines(Change(**change) for change in past.plan.get("changes", [])):
        output.line(line)
    for touched in past.plan.get("touches", []):
        output.line("  " + text("plan.touches", subject=touched))
    if past.undoes is not None:
        output.line("  " + text("explain.undoes", id=past.undoes))
    if past.resumed:
        output.line("  " + text("explain.resumed"))
    if past.error is not None:
        output.line(paint("  " + text("explain.error", code=past.error["code"], message=past.error["message"]), "red"))
        if untold := past.told.get("untold"):
            output.line("  " + text("explain.untold", count=untold))
    elif past.undo is None:
        output.line("  " + text("plan.no_undo", why=past.no_undo or ABSENT))
    elif found.later:
        later = ", ".join(f"{one.id} ({one.kind})" for one in found.later[:5])
        output.line("  " + text("explain.later", later=later))
    else:
        output.line("  " + text("explain.undo", id=past.id))


@verb("undo", changes=True)
@argument("action")
def undo(output: Output, action: str) -> None:
    with connect() as node:
        done = node.undo(action)
    output.document(done.model_dump())
    output.line(text("undo.done", id=action, by=done.id))


@verb("approve")
@argument("digest")
@option("--for", "valid_for", default="10m", metavar="DURATION")
def approve(output: Output, digest: str, valid_for: str) -> None:
    from pydantic import ValidationError

    from thaloom.edge.wire.control import ApproveRequest

    try:
        request = ApproveRequest(digest=digest, valid_s=parse_duration(valid_for))
    except (ValueError, ValidationError) as error:
        raise click.BadParameter(text("approve.bad")) from error
    with connect() as node:
        approved = node.approve(request)
    output.document(approved.model_dump())
    output.line(text("approve.done", duration=valid_for))


@verb("audit.verify")
@option("--checkpoint", "file", type=click.Path(exists=True, dir_okay=False), metavar="FILE")
def verify(output: Output, file: str | None) -> None:
    from thaloom.edge.wire.control import VerifyJournalRequest

    with connect() as node:
        report = node.verify_journal(VerifyJournalRequest(**_read(file)) if file else None)
    output.document(report.model_dump())
    _tell(output, report)
    if not report.sound:
        raise CorruptObject(text("audit.broken", count=len(report.faults)))


@verb("audit.checkpoint")
def checkpoint(output: Output) -> None:
    with connect() as node:
        found = node.checkpoint()
    output.document(found.model_dump())
    output.line(found.model_dump_json())
    output.note(text("audit.keep"))


def _tell(output: Output, report: JournalReport) -> None:
    for fault in report.faults:
        output.line(paint(text(f"fault.{fault.problem}", entry=fault.entry), "red"))
    if report.sound:
        output.line(text("audit.sound", count=report.num_checked, first=report.first, last=report.last))
    if report.num_unsealed:
        output.line(text("audit.unsealed", count=report.num_unsealed))


def _read(file: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        return {"entry": int(found["entry"]), "seal": str(found["seal"])}
    except (ValueError, KeyError, TypeError) as error:
        raise click.BadParameter(text("audit.no_checkpoint", file=file)) from error


def _ending(action: Action) -> str:
    return paint(text(f"ending.{action.ending}"), _COLOURS[action.ending])
