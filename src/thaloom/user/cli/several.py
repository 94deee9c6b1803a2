"""Verbs that take several names: what can be done is done, and every refusal is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thaloom.base.actions import Plan, Planned
from thaloom.base.errors import Refused
from thaloom.user.cli.output import Output
from thaloom.user.cli.report import lines


def do_each(names: Sequence[str], act: Callable[[str], str]) -> tuple[list[str], list[Refused]]:
    """What `act` gave for each name it did, and the refusals of the others. Raises Planned where it is a dry run."""
    done: list[str] = []
    refused: list[Refused] = []
    plans: list[Plan] = []
    for name in names:
        try:
            done.append(act(name))
        except Refused as refusal:
            refused.append(refusal)
        except Planned as planned:
            plans += planned.plans
    if plans and not refused:
        raise Planned(*plans)
    return done, refused


def raise_refusals(refused: Sequence[Refused], output: Output) -> None:
    """Tell of all but the last; raise that one, for our caller to tell and to make it the exit code."""
    if refused:
        for refusal in refused[:-1]:
            output.note("\n".join(lines(refusal)))
        raise refused[-1]
