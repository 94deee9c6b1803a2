"""Verbs that take several names: what can be done is done, and every refusal is told.

A plan of several is bound to one digest of them all. With it each is planned again before any is done, and each is then
done only if it is still that very plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from thaloom.base.actions import Approval, Plan, Planned, joint_digest
from thaloom.base.errors import PlanChanged, Refused
from thaloom.user.cli.output import Output
from thaloom.user.cli.report import lines
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.client.control import ControlClient


def do_each(node: ControlClient, names: Sequence[str], act: Callable[[str], str]) -> tuple[list[str], list[Refused]]:
    """What `act` gave for each name it did by asking `node`, and the refusals of the others. Raises Planned where it is
    a dry run, PlanChanged where several would not be what was approved."""
    approval, several = node.terms.approval, len(names) > 1
    if node.terms.dry_run:
        raise Planned(*_plans(node, names, act))
    plans: list[Plan | None] = [None for _ in names]
    if approval is not None and several:
        found = _plans(node, names, act)
        if joint_digest(found) != approval.digest:
            raise PlanChanged(text("plan.several_changed"), plans=[plan.to_record() for plan in found])
        plans = list(found)
    done: list[str] = []
    refused: list[Refused] = []
    for name, plan in zip(names, plans, strict=True):
        bound = None if approval is None or plan is None else Approval(digest=plan.digest, until=approval.until)
        try:
            with node.on_terms(dataclasses.replace(node.terms, approval=bound or approval)):
                done.append(act(name))
        except Refused as refusal:
            refused.append(refusal)
    return done, refused


def _plans(node: ControlClient, names: Sequence[str], act: Callable[[str], str]) -> list[Plan]:
    """Raises the first refusal: several are planned together or not at all."""
    plans: list[Plan] = []
    for name in names:
        try:
            with node.on_terms(dataclasses.replace(node.terms, dry_run=True, approval=None)):
                act(name)
        except Planned as planned:
            plans += planned.plans
    return plans


def raise_refusals(refused: Sequence[Refused], output: Output) -> None:
    """Tell of all but the last; raise that one, for our caller to tell and to make it the exit code."""
    if refused:
        for refusal in refused[:-1]:
            output.note("\n".join(lines(refusal)))
        raise refused[-1]
