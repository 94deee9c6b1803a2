"""What was done, read back out of the journal: each action with its plan and what came of it; and how to undo one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from thaloom.base.actions import Call
from thaloom.base.errors import ActionNotFound, NothingToUndo
from thaloom.init.access.refusals import REFUSED
from thaloom.kernel.state.journal import Journal
from thaloom.kernel.state.types import Ending, JournalEntry, PastAction

_PAGE = 500


class Past:
    """A reader of the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def latest(
        self,
        limit: int,
        *,
        subject: str | None = None,
        by: str | None = None,
        refused: bool = False,
        seen: Callable[[PastAction], bool] = lambda _: True,
    ) -> list[PastAction]:
        """Newest first, of those that are `seen`. `subject`: only what changed or touched that (`service/chat`).
        `refused`: what was asked for in vain, and nothing else."""
        wanted = (
            action
            for action in (self._refusals() if refused else self._backwards())
            if (subject is None or subject in action.subjects) and (by is None or action.by == by) and seen(action)
        )
        return list(itertools.islice(wanted, limit))

    def get(self, action: str) -> PastAction:
        """Raises ActionNotFound."""
        entries = self._journal.latest(2, action=action)
        intent = next((entry for entry in entries if entry.phase == "intent"), None)
        if intent is None and entries and entries[0].kind == REFUSED:
            return _refusal(entries[0])
        if intent is None:
            raise ActionNotFound(f"no action {action!r} (thaloom history)")
        outcome = next((entry for entry in entries if entry.phase == "outcome"), None)
        return past_action(intent, outcome)

    def later(self, action: PastAction) -> list[PastAction]:
        """What was done since then to the same things, or may have been, newest first."""
        since = itertools.takewhile(lambda other: other.number > action.number, self._backwards())
        return [other for other in since if _may_have_changed(other) and changed(other) & changed(action)]

    def _refusals(self) -> Iterator[PastAction]:
        page = self._journal.latest(_PAGE, kind=REFUSED)
        while page:
            yield from map(_refusal, page)
            page = self._journal.latest(_PAGE, kind=REFUSED, before=page[-1].id)

    def _backwards(self) -> Iterator[PastAction]:
        """Every action, newest first, read page by page."""
        outcomes: dict[str, JournalEntry] = {}
        page = self._journal.latest(_PAGE)
        while page:
            for entry in page:
                if entry.phase == "outcome":
                    outcomes[entry.action] = entry
                else:
                    yield past_action(entry, outcomes.pop(entry.action, None))
            page = self._journal.latest(_PAGE, before=page[-1].id)

    def undoing(self, action: str) -> Call:
        """The call that undoes it. Raises ActionNotFound, NothingToUndo saying why there is none."""
        past = self.get(action)
        if past.ending == "refused":
            raise NothingToUndo(f"{action} was refused, so there is nothing to undo")
        if past.ending != "done":
            raise NothingToUndo(f"{action} did not come to its end ({past.ending}), so there is nothing to undo")
        if past.undo is None:
            raise NothingToUndo(f"{action} cannot be undone: {past.no_undo or 'it is of a kind that has no undo'}")
        if later := self.later(past):
            latest = later[0]
            why = "it was undone already" if latest.undoes == action else f"{latest.id} ({latest.kind}) came after it"
            raise NothingToUndo(f"{action} cannot be undone any more: {why}", later=[other.id for other in later])
        return Call(past.undo["kind"], past.undo["parameters"])


def past_action(intent: JournalEntry, outcome: JournalEntry | None) -> PastAction:
    """`outcome` None: it is being done, or nobody knows."""
    plan = intent.data.get("plan", {})
    told = {} if outcome is None else outcome.data
    return PastAction(
        id=intent.action,
        number=intent.id,
        kind=intent.kind,
        by=intent.by,
        time=intent.time,
        ended_at=None if outcome is None else outcome.time,
        ending="running" if outcome is None else _ending(outcome),
        plan=plan or intent.data,
        undo=plan.get("undo"),
        no_undo=plan.get("no_undo", ""),
        told=told.get("told", {}),
        error=told.get("error"),
        undoes=intent.data.get("undoes"),
        resumed=bool(told.get("resumed")),
        subjects=tuple(subjects(intent.data)),
    )


def _refusal(entry: JournalEntry) -> PastAction:
    told = entry.data
    return PastAction(
        id=entry.action,
        number=entry.id,
        kind=told["what"],
        by=entry.by,
        time=entry.time,
        ended_at=entry.time,
        ending="refused",
        plan={},
        told={"untold": told["untold"]},
        error={"code": told["code"], "message": told["message"]},
        subjects=(told["subject"],) if "subject" in told else (),
    )


def subjects(data: dict[str, Any]) -> list[str]:
    """Of an intent: what it changes, then what it touches."""
    if "plan" not in data:  # a step of the reconciler's
        named = {"worker": data.get("process"), "service": data.get("service")}
        return [f"{kind}/{name}" for kind, name in named.items() if name]
    plan = data["plan"]
    return [*(change["subject"] for change in plan["changes"]), *plan["touches"]]


def changed(action: PastAction) -> set[str]:
    return {change["subject"] for change in action.plan.get("changes", [])}


def _may_have_changed(action: PastAction) -> bool:
    """Whether it is being done, was done, or went wrong in a way that says nothing of what it left."""
    code = (action.error or {}).get("code")
    return action.ending in ("done", "running") or code in ("not_verified", "internal_error")


def _ending(outcome: JournalEntry) -> Ending:
    if "ending" in outcome.data:
        ending: Ending = outcome.data["ending"]
        return ending
    return "done" if outcome.data.get("done") else "failed"
