"""`--dry-run` and `--plan`: what a verb would do, shown before it does it, and done only if it is still that."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from thaloom.base.actions import TERMS, Approval, Call, Change, Plan, Planned, Terms, joint_digest
from thaloom.base.errors import PlanChanged
from thaloom.user.cli.output import Output, paint
from thaloom.user.cli.texts import text


@contextlib.contextmanager
def planned(output: Output, *, dry_run: bool, plan: str | None) -> Iterator[None]:
    """The verb inside asks on these terms. A plan it comes back with is shown."""
    approval = None if plan is None else Approval(digest=plan, until=math.inf)
    token = TERMS.set(Terms(dry_run=dry_run, approval=approval))
    try:
        yield
    except Planned as found:
        digest = joint_digest(found.plans)
        plans = [one.to_record() | {"digest": one.digest} for one in found.plans]
        output.document({"plans": plans, "digest": digest})
        for one in found.plans:
            for line in plan_lines(one):
                output.line(line)
        output.note(text("plan.approve", digest=digest))
    except PlanChanged as changed:
        # Also where a verb asks twice, and the first was what was approved: then the second is what is left to look at.
        if "plan" in changed.details:
            left = read_plan(changed.details["plan"])
            for line in plan_lines(left):
                output.note(line)
            output.note(text("plan.approve", digest=left.digest))
        raise
    finally:
        TERMS.reset(token)


def read_plan(record: Mapping[str, Any]) -> Plan:
    """From Plan.to_record."""
    undo = record["undo"]
    return Plan(
        call=Call(**record["call"]),
        risk=record["risk"],
        changes=tuple(Change(**change) for change in record["changes"]),
        touches=tuple(record["touches"]),
        undo=None if undo is None else Call(**undo),
        no_undo=record["no_undo"],
    )


def plan_lines(plan: Plan) -> Iterator[str]:
    yield text("plan.head", kind=plan.call.kind, risk=text(f"risk.{plan.risk}"))
    yield from change_lines(plan.changes)
    for touched in plan.touches:
        yield "  " + text("plan.touches", subject=touched)
    undo = text("plan.no_undo", why=plan.no_undo) if plan.undo is None else text("plan.undo", kind=plan.undo.kind)
    yield "  " + undo


def change_lines(changes: Iterable[Change]) -> Iterator[str]:
    """As a diff: + what comes, - what goes, ~ what becomes another."""
    none = True
    for change in changes:
        none = False
        if change.before is None:
            yield paint(f"  + {change.subject}  {_short(change.after)}", "green")
        elif change.after is None:
            yield paint(f"  - {change.subject}", "red")
        else:
            yield paint(f"  ~ {change.subject}", "yellow")
            yield from _differences(change.before, change.after)
    if none:
        yield "  " + text("plan.nothing")


def _differences(before: Any, after: Any) -> Iterator[str]:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        yield f"      {_short(before)} -> {_short(after)}"
        return
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"      {name}: {_short(before.get(name))} -> {_short(after.get(name))}"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        said = {name: item for name, item in value.items() if item not in (None, "", [], {})}
        return ", ".join(f"{name}={_short(item)}" for name, item in said.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
