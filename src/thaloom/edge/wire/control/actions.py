"""Actions: plans, what was done, and the journal that has it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from thaloom.edge.wire.control.base import Answer, Ask


class Change(Answer):
    """One thing that is or would be another. Null: it is not there before, or not after."""

    subject: str
    before: Any
    after: Any


class Plan(Answer):
    """Exactly what a request would do if it were carried out now: the answer to `dry_run=true`. `digest` is what an
    approval binds to (`plan=DIGEST`)."""

    kind: str
    parameters: dict[str, Any]
    risk: Literal["low", "medium", "high"]
    changes: list[Change]
    touches: list[str]
    undo: dict[str, Any] | None
    no_undo: str
    digest: str


class Action(Answer):
    """Something that was done to this machine, or was about to be."""

    id: str
    kind: str
    by: str
    time: float
    ended_at: float | None
    ending: Literal["running", "done", "failed", "undone", "refused"]
    subjects: list[str]
    plan: dict[str, Any]
    undo: dict[str, Any] | None
    no_undo: str
    told: dict[str, Any]
    error: dict[str, Any] | None
    undoes: str | None
    resumed: bool


class Actions(Answer):
    """Newest first."""

    actions: list[Action]


class ExplainedAction(Answer):
    """An action, and what was done to the same things since."""

    action: Action
    later: list[Action]


class ApproveRequest(Ask):
    """Body of `POST actions/approve`: leave for just this plan, once, to whoever may not carry it out by itself."""

    digest: str = Field(pattern="^[0-9a-f]{64}$")
    valid_s: float = Field(default=600.0, gt=0, le=86400)


class Approved(Answer):
    """Leave that was given for the plan of this digest, until then (seconds since the epoch)."""

    digest: str
    until: float


class Checkpoint(Answer):
    """Where the journal's chain ends. Keep it where who can write to the node cannot."""

    entry: int
    seal: str


class VerifyJournalRequest(Ask):
    """Body of `POST journal/verify`: a checkpoint that was kept elsewhere, if there is one."""

    entry: int | None = Field(default=None, ge=0)
    seal: str | None = Field(default=None, max_length=64)


class JournalFault(Answer):
    entry: int
    problem: str


class JournalReport(Answer):
    """Every entry of the journal against its seal. Sound only if `faults` is empty; nothing is known of `num_unsealed`
    entries, which are older than the chain."""

    first: int
    last: int
    num_checked: int
    num_unsealed: int
    sound: bool
    faults: list[JournalFault]
