"""Routes about what was done: its history, its undoing, leave for what is planned, and whether the journal is sound."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import FastAPI, Query

from thaloom.edge.api.control.gate import needs
from thaloom.edge.api.control.messages import same
from thaloom.edge.api.control.plane import ControlPlane
from thaloom.edge.wire import control as wire
from thaloom.kernel.state.types import Checkpoint


def add_action_routes(app: FastAPI, plane: ControlPlane) -> None:
    """Not open to who shows no token: what was done tells of keys, and undoing one takes it back."""

    # Tenants see what was done to their own and nothing else: init.acting.seeing.
    @app.get(f"{wire.PREFIX}/actions", tags=["actions"], openapi_extra=needs("operator", "node", tenants=True))
    async def actions(
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        subject: str | None = None,
        by: str | None = None,
        refused: bool = False,
    ) -> wire.Actions:
        found = await plane.actions(limit, subject, by, refused=refused)
        return wire.Actions(actions=[same(wire.Action, past) for past in found])

    @app.get(
        f"{wire.PREFIX}/actions/{{action}}", tags=["actions"], openapi_extra=needs("operator", "node", tenants=True)
    )
    async def action(action: str) -> wire.ExplainedAction:
        past, later = await plane.action(action)
        return wire.ExplainedAction(action=same(wire.Action, past), later=[same(wire.Action, one) for one in later])

    @app.post(f"{wire.PREFIX}/actions/{{action}}/undo", tags=["actions"], openapi_extra=needs("admin", "node"))
    async def undo(action: str) -> wire.Action:
        return same(wire.Action, await plane.undo(action))

    @app.post(f"{wire.PREFIX}/actions/approve", tags=["actions"], openapi_extra=needs("admin", "node"))
    async def approve(body: wire.ApproveRequest) -> wire.Approved:
        until = time.time() + body.valid_s
        await plane.approve(body.digest, until)
        return wire.Approved(digest=body.digest, until=until)

    @app.get(f"{wire.PREFIX}/journal/checkpoint", tags=["actions"], openapi_extra=needs("operator", "node"))
    async def checkpoint() -> wire.Checkpoint:
        return same(wire.Checkpoint, await plane.checkpoint())

    @app.post(f"{wire.PREFIX}/journal/verify", tags=["actions"], openapi_extra=needs("operator", "node"))
    async def verify(body: wire.VerifyJournalRequest) -> wire.JournalReport:
        through = None if body.entry is None else Checkpoint(entry=body.entry, seal=body.seal or "")
        report = await plane.verify_journal(through)
        return wire.JournalReport(
            first=report.first,
            last=report.last,
            num_checked=report.num_checked,
            num_unsealed=report.num_unsealed,
            sound=not report.faults,
            faults=[same(wire.JournalFault, fault) for fault in report.faults],
        )
