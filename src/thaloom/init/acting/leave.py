"""What each caller may still do by itself, and what a person gave it leave for; at the start by the journal."""

from __future__ import annotations

from collections import defaultdict, deque

from thaloom.base.actions import Approval, Caller, Plan
from thaloom.base.clock import Clock
from thaloom.base.errors import ApprovalNeeded, Forbidden, PlanChanged
from thaloom.init.acting.budgets import BUDGETS, HOUR_S, check_budget, may_risk
from thaloom.kernel.state.journal import Journal
from thaloom.kernel.state.types import JournalEntry

LONGEST_S = 24 * HOUR_S
"""No leave is given for longer (edge.wire.control.ApproveRequest), so nothing older is looked at."""
_APPROVE = "plan.approve"
_PAGE = 500
_MOST_MOMENTS = 10_000


class Leave:
    """For one thread."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._moments: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_MOST_MOMENTS))
        """When each caller with a budget changed something."""
        self._until: dict[str, float] = {}
        """Until when a plan of this digest may be carried out by who may not do so by itself."""
        for entry in self._of_a_day():
            if entry.phase == "intent" and entry.data.get("by_leave"):
                self._until.pop(entry.data["digest"], None)
            if entry.phase == "intent" and entry.time > clock.now() - HOUR_S:
                self._moments[entry.by].append(entry.time)
            if entry.kind == _APPROVE:
                self._until[entry.data["digest"]] = entry.data["until"]

    def approve(self, digest: str, until: float, caller: Caller) -> None:
        """Give leave for just this plan, once, until then (seconds since the epoch). Raises Forbidden: only a person
        may."""
        if caller.kind != "person":
            raise Forbidden(f"only a person may approve a plan, not a {caller.kind}")
        now = self._clock.now()
        self._until = {known: end for known, end in self._until.items() if end > now}
        self._journal.append(_APPROVE, {"digest": digest, "until": until}, by=str(caller))
        self._until[digest] = until

    def take(self, plan: Plan, caller: Caller, approval: Approval | None) -> bool:
        """Count the plan as carried out now; whether a person's leave was needed, and so used up. Raises what stands
        against it, and then counts nothing."""
        now = self._clock.now()
        if approval is not None and approval.digest != plan.digest:
            raise PlanChanged("what would be done now is not what was approved", plan=plan.to_record())
        if approval is not None and now > approval.until:
            raise PlanChanged("the time this was approved for is over", plan=plan.to_record())
        needed = not may_risk(caller, plan.risk)
        if needed and self._until.get(plan.digest, 0.0) <= now:
            message = f"a {caller.kind} may not do what has a {plan.risk} risk without a person's leave"
            raise ApprovalNeeded(message, risk=plan.risk, digest=plan.digest)
        if BUDGETS[caller.kind].changes_per_hour is not None:
            check_budget(caller, self._moments[str(caller)], now)
            self._moments[str(caller)].append(now)
        if needed:
            del self._until[plan.digest]
        return needed

    def _of_a_day(self) -> list[JournalEntry]:
        """Oldest first."""
        found: list[JournalEntry] = []
        while True:
            page = self._journal.latest(_PAGE, before=found[-1].id if found else None)
            young = [entry for entry in page if entry.time > self._clock.now() - LONGEST_S]
            found += young
            if len(young) < _PAGE or len(found) >= 2 * _MOST_MOMENTS:
                return found[::-1]
