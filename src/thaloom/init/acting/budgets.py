"""How much each kind of caller may change by itself: so many changes an hour, of such a risk, and what needs leave.

Pure: moments in, refusals out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thaloom.base.actions import RISKS, Caller, CallerKind, Risk
from thaloom.base.errors import BudgetSpent

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    changes_per_hour: int | None = None
    """None: as many as it likes."""
    most_risk: Risk = "high"
    """What is riskier needs a person's leave for just that plan."""


BUDGETS: Mapping[CallerKind, Budget] = {
    "person": Budget(),
    "program": Budget(),
    "reconciler": Budget(),  # has back-offs of its own
    "scheduler": Budget(changes_per_hour=600, most_risk="medium"),
    "governor": Budget(changes_per_hour=120, most_risk="low"),
    "healer": Budget(changes_per_hour=30, most_risk="medium"),
    "tuner": Budget(changes_per_hour=60, most_risk="low"),
    "copilot": Budget(changes_per_hour=30, most_risk="low"),
}
"""Chosen, not measured: an hour in which a healer acted thirty times has not been healed."""


def may_risk(caller: Caller, risk: Risk) -> bool:
    """Whether it may do what is so risky without a person's leave."""
    return RISKS.index(risk) <= RISKS.index(BUDGETS[caller.kind].most_risk)


def check_budget(caller: Caller, moments: Iterable[float], now: float) -> None:
    """`moments`: of what it has changed before. Raises BudgetSpent, which says when there is more."""
    most = BUDGETS[caller.kind].changes_per_hour
    if most is None:
        return
    recent = sorted(moment for moment in moments if moment > now - HOUR_S)
    if len(recent) >= most:
        raise BudgetSpent(
            f"{caller} has changed {len(recent)} things within an hour, which is all it may",
            retry_after_s=max(1.0, recent[-most] + HOUR_S - now),
        )
