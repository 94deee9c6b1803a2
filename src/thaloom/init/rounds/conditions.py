"""How a service (or the door) stands, in words for people and programs: pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from thaloom.init.rounds.actions import Hold
from thaloom.init.rounds.backoff import Backoff
from thaloom.init.rounds.last_words import LastWords
from thaloom.kernel.state.types import Condition, ConditionKind, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one wished process, alive or not."""

    alive: bool = False
    ready: bool = False
    stopping: str | None = None
    late: bool = False
    degraded: str | None = None
    wall: str | None = None
    """A limit that it keeps meeting while it lives."""
    replicas: tuple[int, int] = (1, 1)
    """How many are ready, of how many wished."""
    idle: bool = False
    """It is unloaded, or about to be."""
    waking: bool = False
    outdated: str | None = None
    """How the model it runs differs from what the store has under that name now."""
    backoff: Backoff = field(default_factory=Backoff)
    hold: Hold | None = None
    last_words: LastWords = field(default_factory=LastWords)
    """Of the process before this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    phase: Phase
    reason: str
    message: str = ""


def judge(evidence: Evidence, who: str = "the worker") -> Verdict:
    """Phase, and the reason of the Ready condition. Silence is no reason for anything but being told."""
    if evidence.idle:
        return Verdict(phase="idle", reason="Idle", message="unloaded, for nobody asks it anything; a request wakes it")
    if evidence.alive and evidence.stopping is not None and not evidence.waking:
        leaving = evidence.stopping != "wish changed"
        return Verdict(phase="stopping" if leaving else "loading", reason="Stopping", message=evidence.stopping)
    if evidence.alive and evidence.ready and evidence.stopping is None:
        return Verdict(phase="ready", reason="Serving")
    words = evidence.last_words
    if evidence.backoff.failed:
        return Verdict(phase="failed", reason=words.reason, message=words.message)
    if evidence.alive:
        return Verdict(phase="loading", reason="Loading", message=f"{who} is getting ready")
    if evidence.hold is not None:
        return Verdict(phase="pending", reason=evidence.hold.reason, message=evidence.hold.message)
    if evidence.backoff.failures and words.short:
        phase: Phase = "loading" if evidence.waking else "pending"  # who asked for it waits
        return Verdict(phase=phase, reason=words.reason, message=f"{words.message}; it is tried again")
    if evidence.backoff.failures:
        return Verdict(phase="loading", reason="Restarting", message=f"{who} ended: {words.message}")
    if evidence.waking:
        return Verdict(phase="loading", reason="Waking", message=f"{who} is being started, for somebody asks for it")
    return Verdict(phase="loading", reason="Starting", message=f"{who} is being started")


def conditions(evidence: Evidence, verdict: Verdict) -> tuple[Condition, ...]:
    """Ready, then Degraded and Outdated where that is so. `since` is left to `keep_since`. What is idle is as it shall
    be: who asks is answered."""
    is_ready = verdict.phase in ("ready", "idle")
    ready = Condition(kind="Ready", status=is_ready, reason=verdict.reason, message=verdict.message, since=0.0)
    told = [ready]
    if evidence.alive and evidence.late:
        told.append(_bad("Degraded", "HeartbeatLate", "it does not answer process one; it is left alone"))
    elif evidence.alive and evidence.degraded:
        told.append(_bad("Degraded", "DriverDegraded", evidence.degraded))
    if evidence.alive and evidence.wall:
        told.append(_bad("Degraded", "AtItsLimit", evidence.wall))
    if verdict.phase == "ready" and evidence.replicas[0] < evidence.replicas[1]:
        ready_ones, wished = evidence.replicas
        told.append(_bad("Degraded", "ReplicasMissing", f"{ready_ones} of {wished} replicas are ready"))
    if evidence.alive and evidence.outdated:
        told.append(_bad("Outdated", "ModelReplaced", evidence.outdated))
    return tuple(told)


def complete(told: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """With Degraded also where nothing is: that it is not so has a beginning, too."""
    if any(condition.kind == "Degraded" for condition in told):
        return told
    fine = Condition(kind="Degraded", status=False, reason="AsWished", message="", since=0.0)
    return (told[0], fine, *told[1:])


def with_since(told: tuple[Condition, ...], since: float) -> tuple[Condition, ...]:
    """Those that have no beginning of their own began then."""
    return tuple(one if one.since else dataclasses.replace(one, since=since) for one in told)


def keep_since(told: tuple[Condition, ...], before: tuple[Condition, ...], now: float) -> tuple[Condition, ...]:
    """Each condition with the moment since when it has been so; why, and in what words, may have changed since."""
    known = {(old.kind, old.status): old.since for old in reversed(before)}
    return tuple(
        dataclasses.replace(condition, since=known.get((condition.kind, condition.status), now)) for condition in told
    )


def _bad(kind: ConditionKind, reason: str, message: str) -> Condition:
    return Condition(kind=kind, status=True, reason=reason, message=message, since=0.0)
