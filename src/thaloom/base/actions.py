"""Words for everything that changes the machine: what is asked for and by whom, and what exactly would be done.

A person's command, the reconciler, the scheduler, the governor, the healer, the tuner and the copilot all ask in these
words, and `init.acting` alone carries them out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from thaloom.base.access import Role, Scope, Way

Risk = Literal["low", "medium", "high"]
"""low: adds something, or takes nothing from anybody; medium: what is running is disturbed; high: something is lost
that cannot be brought back."""
RISKS: tuple[Risk, ...] = ("low", "medium", "high")
CallerKind = Literal["person", "program", "reconciler", "scheduler", "governor", "healer", "tuner", "copilot"]
Json = Any
"""What JSON can say."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who wishes something: an identity and what kind of one, and what it may ask (kernel.trust.access)."""

    kind: CallerKind
    name: str = ""
    tenant: str | None = None
    """None: of the node itself."""
    role: Role = "admin"
    scopes: frozenset[Scope] | None = None
    """None: all."""
    way: Way = "socket"
    models: frozenset[str] | None = None
    """Names of services, as he has them: those his token is for. None: all."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


RECONCILER = Caller("reconciler")
LOCAL = Caller("person", "local")
"""Who came by the node's own socket and is not known any closer."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked for: a kind of action (`service.serve`) and its parameters, JSON values only."""

    kind: str
    parameters: Mapping[str, Json] = field(default_factory=dict)

    def to_record(self) -> dict[str, Json]:
        return {"kind": self.kind, "parameters": dict(self.parameters)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that would be another. `subject`: as `service/chat`; None: it is not there before, or not after."""

    subject: str
    before: Json
    after: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Exactly what a call would do if it were carried out now."""

    call: Call
    risk: Risk
    changes: tuple[Change, ...]
    """None: everything is already as it is wished."""
    touches: tuple[str, ...] = ()
    """What may be disturbed besides."""
    undo: Call | None = None
    """What brings it back to how it was."""
    no_undo: str = ""
    """Why nothing does, where nothing does."""

    @property
    def subjects(self) -> frozenset[str]:
        return frozenset(change.subject for change in self.changes) | frozenset(self.touches)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, hexadecimal: what an approval binds to."""
        return hashlib.sha256(json.dumps(self.to_record(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_record(self) -> dict[str, Json]:
        return {
            "call": self.call.to_record(),
            "risk": self.risk,
            "changes": [
                {"subject": change.subject, "before": change.before, "after": change.after} for change in self.changes
            ],
            "touches": list(self.touches),
            "undo": None if self.undo is None else self.undo.to_record(),
            "no_undo": self.no_undo,
        }


def joint_digest(plans: Sequence[Plan]) -> str:
    """Of several plans, in their order; of one alone its own."""
    if len(plans) == 1:
        return plans[0].digest
    return hashlib.sha256(" ".join(plan.digest for plan in plans).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Leave to carry out just this plan, until then (seconds since the epoch)."""

    digest: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under what terms something is asked for, besides what is asked."""

    caller: Caller = LOCAL
    action: str | None = None
    """Its id, chosen by who asks, so that asking again does nothing again."""
    approval: Approval | None = None
    dry_run: bool = False
    """Say what would be done, by raising Planned; do nothing."""


_PLAIN = Terms()
TERMS: ContextVar[Terms] = ContextVar("terms", default=_PLAIN)
"""Of the request that is being served: they hold for whatever is asked for on its behalf, however deep down."""


class Planned(Exception):
    """What would have been done."""

    def __init__(self, *plans: Plan) -> None:
        super().__init__(*(plan.digest for plan in plans))
        self.plans = plans
