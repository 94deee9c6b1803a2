"""What a killed daemon had begun is brought to an end: by what the machine shows, and by nothing it remembers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from thaloom.base.actions import Call, Json
from thaloom.base.errors import InternalError, NodeNotRunning, ThaloomError
from thaloom.init.acting.kinds import NO_AID, ActionKind, read
from thaloom.kernel.state.types import JournalEntry


async def bring_to_an_end(
    intent: JournalEntry, kinds: Mapping[str, ActionKind[Any]], living: Collection[str]
) -> dict[str, Json]:
    """The outcome of an intent that has none: not begun, it is undone; done, it is done; in between, it is finished.
    `living`: the processes that were found and adopted. Never raises: no past action keeps a node from starting."""
    try:
        return await _outcome(intent, kinds.get(intent.kind), living)
    except Exception as error:  # noqa: BLE001 - a supervisor: told in the journal
        told = error if isinstance(error, ThaloomError) else InternalError(f"{type(error).__name__}: {error}")
        return {"ending": "failed", "error": told.to_dict()}


async def _outcome(intent: JournalEntry, kind: ActionKind[Any] | None, living: Collection[str]) -> dict[str, Json]:
    if kind is None:  # a step of the reconciler's: what came of it was adopted, or is done anew
        return {"ending": "done" if intent.data.get("process") in living else "undone"}
    plan = intent.data["plan"]
    given = read(kind, Call(intent.kind, plan["call"]["parameters"]))
    if plan["changes"] and await _changes_now(kind, given) == plan["changes"]:
        return {"ending": "undone"}
    if await kind.holds(given):
        return {"ending": "done"}
    if not kind.outlives_caller:
        raise NodeNotRunning("the daemon was ended while it was being done, and whoever asked for it is gone")
    return {"ending": "done", "told": dict((await kind.apply(given, NO_AID)).told)}


async def _changes_now(kind: ActionKind[Any], given: Any) -> Json:
    """What it would change if it were asked for now; None where it would be refused."""
    try:
        return (await kind.plan(given)).to_record()["changes"]
    except ThaloomError:
        return None
