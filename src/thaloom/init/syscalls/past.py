"""What was asked for, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from thaloom.base.access import kept_name
from thaloom.base.actions import TERMS, Caller
from thaloom.base.errors import ActionNotFound
from thaloom.init.acting.seeing import as_seen_by, is_seen_by
from thaloom.init.syscalls.asking import Asking, refuse_dry_run
from thaloom.kernel.state.journal import new_action_id
from thaloom.kernel.state.types import Checkpoint, JournalReport, PastAction


class PastCalls(Asking):
    """Of actions and their journal."""

    async def actions(self, limit: int, subject: str | None, by: str | None, *, refused: bool) -> Sequence[PastAction]:
        """Those that the caller sees, as he sees them (init.acting.seeing)."""
        caller = TERMS.get().caller
        kept_subject = None if subject is None else kept_name(subject, caller.tenant)
        kept_by = None if by is None else kept_name(by, caller.tenant)
        found = await asyncio.to_thread(
            self._node.past.latest,
            limit,
            subject=kept_subject,
            by=kept_by,
            refused=refused,
            seen=self._seen_by(caller),
        )
        return [as_seen_by(past, caller) for past in found]

    async def action(self, action: str) -> tuple[PastAction, Sequence[PastAction]]:
        caller = TERMS.get().caller
        seen = self._seen_by(caller)
        past = await asyncio.to_thread(self._node.past.get, action)
        if not seen(past):
            raise ActionNotFound(f"no action {action!r} (thaloom history)")
        later = await asyncio.to_thread(self._node.past.later, past)
        return as_seen_by(past, caller), [as_seen_by(one, caller) for one in later if seen(one)]

    def _seen_by(self, caller: Caller) -> Callable[[PastAction], bool]:
        """A tenant's history begins with it: an earlier one of its name was another."""
        since = 0.0 if caller.tenant is None else self._node.store.tenant(caller.tenant).created_at
        return lambda past: past.time >= since and is_seen_by(past, caller)

    async def undo(self, action: str) -> PastAction:
        undoing = await asyncio.to_thread(self._node.past.undoing, action)
        chosen = TERMS.get().action or new_action_id()
        await self._do(undoing, action=chosen, undoes=action)
        return await asyncio.to_thread(self._node.past.get, chosen)

    async def approve(self, digest: str, until: float) -> None:
        refuse_dry_run()
        with self._refusing("plan.approve"):
            self._node.performer.leave.approve(digest, until, TERMS.get().caller)

    async def verify_journal(self, through: Checkpoint | None) -> JournalReport:
        return await asyncio.to_thread(self._node.store.journal.verify, through)

    async def checkpoint(self) -> Checkpoint:
        return self._node.store.journal.checkpoint()
