"""The one way in which something asked for is done: planned under a lock, journalled, applied, looked at, journalled.

    plan ─> guards and approval ─> budget ─> journal: intent ─> apply ─> does it hold? ─> journal: outcome

The intent has all that is needed to finish the action or to tell that it never began (`resuming`), and the call that
would undo it, made from what was there before. An action asked for twice by one id is done once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable
from typing import Any
from weakref import WeakValueDictionary

from thaloom.base.actions import Approval, Call, Caller, Json, Plan
from thaloom.base.clock import Clock
from thaloom.base.errors import (
    BadParameter,
    BadRequest,
    InternalError,
    NodeNotRunning,
    NotFound,
    NotVerified,
    QueueFull,
    ThaloomError,
    WrongState,
)
from thaloom.init.access.refusals import Telling, untold
from thaloom.init.acting.kinds import NO_AID, ActionKind, Aid, Done, read
from thaloom.init.acting.leave import Leave
from thaloom.init.acting.past import Past, subjects
from thaloom.init.acting.resuming import bring_to_an_end
from thaloom.init.acting.running import Running
from thaloom.kernel.state.journal import Journal, new_action_id
from thaloom.kernel.state.types import JournalEntry

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MISTAKES = (BadParameter, BadRequest, NotFound, QueueFull)
"""What was not forbidden: it was asked for wrongly, or at the wrong moment."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
PATIENCE_S = 10.0
"""How long one waits for another that changes the same thing: less than callers wait for an answer."""


class Performer:
    """Owned by the node; its tasks are the node's, so that an action ends with it and not with who asked."""

    def __init__(
        self,
        kinds: Iterable[ActionKind[Any]],
        *,
        journal: Journal,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        refused: Telling = untold,
    ) -> None:
        """`refused` is told what a guard, a budget or a lack of leave forbade."""
        self._kinds = {kind.name: kind for kind in kinds}
        self._journal = journal
        self._tasks = tasks
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By subject, as long as anybody has or wants it."""
        self._holders: dict[str, str] = {}
        self._running: dict[str, Running] = {}
        self._refused = refused
        self.leave = Leave(journal, clock)

    async def plan(self, call: Call) -> Plan:
        """What it would do now. Raises what forbids it; changes nothing."""
        kind = self._kind(call)
        return await kind.plan(read(kind, call))

    async def perform(
        self,
        call: Call,
        caller: Caller,
        *,
        action: str | None = None,
        approval: Approval | None = None,
        undoes: str | None = None,
        aid: Aid = NO_AID,
    ) -> Done:
        """Do it, or say why not: raises what forbids it (and then nothing was done), or what hindered it.

        `action`: its id, chosen by the caller; asked for again, it gives what came of it the first time, without what
        was for the caller alone. Cancelling ends it, unless it is of a kind that goes on without its caller.
        """
        kind = self._kind(call)
        given = read(kind, call)
        action = _checked(action or new_action_id())
        if (earlier := await self._earlier(action, kind, given)) is not None:
            return earlier
        if (alike := self._alike(kind, given, aid)) is not None:
            return await alike.follow(aid)
        running = Running(kind.name, given, aid, asyncio.get_running_loop().create_future())
        running.ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # heard, if nobody waits
        self._running[action] = running
        work = self._perform(action, kind, running, caller, approval, undoes)
        task = self._tasks.create_task(self._keep(action, running, work), name=f"action {action} {kind.name}")
        try:
            return await asyncio.shield(running.ended)
        except asyncio.CancelledError:
            # What has not begun is not begun for somebody who has gone.
            if not running.ended.done() and not (kind.outlives_caller and running.begun):
                task.cancel()
                await asyncio.wait([task])
            raise

    async def resume(self, intent: JournalEntry, living: Collection[str] = ()) -> None:
        """Bring what a killed daemon had begun to an end. Raises only what the journal does."""
        outcome = await bring_to_an_end(intent, self._kinds, living)
        self._journal.append(intent.kind, outcome | {"resumed": True}, action=intent.action, by=intent.by)

    def _kind(self, call: Call) -> ActionKind[Any]:
        kind = self._kinds.get(call.kind)
        if kind is None:
            known = ", ".join(sorted(self._kinds))
            raise BadParameter(f"no kind of action {call.kind!r} (known: {known})", param="kind")
        return kind

    async def _earlier(self, action: str, kind: ActionKind[Any], given: Any) -> Done | None:
        """What came of the action of this id, if there was one. Raises BadParameter if that was another one, and what
        it raised if it failed."""
        if (running := self._running.get(action)) is not None:
            _require_same(action, (running.kind, running.given), (kind.name, given))
            return await asyncio.shield(running.ended)
        entries = self._journal.latest(2, action=action)
        if not entries:
            return None
        outcome, intent = entries[0], entries[-1]
        parameters = intent.data.get("plan", {}).get("call", {}).get("parameters")
        known = intent.kind == kind.name and parameters is not None
        earlier = read(kind, Call(kind.name, parameters)) if known else None
        _require_same(action, (intent.kind, earlier), (kind.name, given))
        if outcome is intent:
            raise WrongState(f"{action} was begun, and how it ended is not known")
        if outcome.data.get("ending") == "undone":  # nothing was done by it: it may be now
            return None
        if "error" in outcome.data:
            raise ThaloomError.from_dict(outcome.data["error"])
        return Done(told=outcome.data.get("told", {}), subjects=tuple(subjects(intent.data)))

    def _alike(self, kind: ActionKind[Any], given: Any, aid: Aid) -> Running | None:
        """The same, of a kind that can be shared, being done for somebody else on the same terms."""
        if not getattr(kind, "shared", False):
            return None
        wanted = (kind.name, given, aid.secrets)
        alike = (one for one in self._running.values() if (one.kind, one.given, one.aid.secrets) == wanted)
        return next(alike, None)

    async def _keep(self, action: str, running: Running, work: Coroutine[Any, Any, Done]) -> None:
        """Whatever happens becomes the outcome: nothing of it may end the node."""
        try:
            done = await work
        except asyncio.CancelledError:
            running.ended.set_exception(NodeNotRunning("it was ended before it was done"))
        except ThaloomError as error:
            running.ended.set_exception(error)
        except Exception as error:  # noqa: BLE001 - a supervisor: told, and the caller's to see
            running.ended.set_exception(InternalError(f"{type(error).__name__}: {error}"))
        else:
            running.ended.set_result(done)
        finally:
            del self._running[action]

    async def _perform(
        self,
        action: str,
        kind: ActionKind[Any],
        running: Running,
        caller: Caller,
        approval: Approval | None,
        undoes: str | None,
    ) -> Done:
        given = running.given
        plan = None
        try:
            plan = await kind.plan(given)
            return await self._carry_out(action, kind, running, caller, approval, undoes, plan)
        except ThaloomError as error:
            if not running.begun and not isinstance(error, _MISTAKES):
                subject = _subject(kind.name, given, plan)
                self._refused(str(caller), kind.name, error.code, error.message, subject=subject)
            raise

    async def _carry_out(
        self,
        action: str,
        kind: ActionKind[Any],
        running: Running,
        caller: Caller,
        approval: Approval | None,
        undoes: str | None,
        first: Plan,
    ) -> Done:
        given = running.given
        async with self._alone(action, first):
            plan = await kind.plan(given)  # what was true while it waited may not be any more
            if undoes is not None:
                Past(self._journal).undoing(undoes)
            record: dict[str, Json] = {"plan": plan.to_record(), "digest": plan.digest}
            if caller.kind in ("person", "program"):
                record["role"] = caller.role
            if undoes is not None:
                record["undoes"] = undoes
            if self.leave.take(plan, caller, approval):
                record["by_leave"] = True
            self._journal.append(kind.name, record, phase="intent", action=action, by=str(caller))
            running.begun = True
            return await self._apply(
                action, kind, given, caller, dataclasses.replace(running.aid, progress=running.tell)
            )

    async def _apply(self, action: str, kind: ActionKind[Any], given: Any, caller: Caller, aid: Aid) -> Done:
        outcome: dict[str, Json] = {"ending": "failed"}
        try:
            done = await kind.apply(given, aid)
            outcome["told"] = dict(done.told)
            if not await kind.holds(given):
                raise NotVerified(f"{kind.name} was carried out, and the machine does not show it")
            outcome["ending"] = "done"
            return done
        except ThaloomError as error:
            outcome["error"] = error.to_dict()
            raise
        except asyncio.CancelledError:
            outcome["error"] = NodeNotRunning("it was ended before it was done").to_dict()
            raise
        except BaseException as error:
            outcome["error"] = InternalError(f"{type(error).__name__}: {error}").to_dict()
            raise
        finally:
            self._journal.append(kind.name, outcome, action=action, by=str(caller))

    @contextlib.asynccontextmanager
    async def _alone(self, action: str, plan: Plan) -> AsyncIterator[None]:
        """Nobody else changes the same things meanwhile. Locks are taken in one order, so nobody waits in a ring.

        Raises QueueFull, naming who is at it, where that takes long: nothing is done hours after it was asked for."""
        async with contextlib.AsyncExitStack() as stack:
            for subject in sorted({change.subject for change in plan.changes}):
                lock = self._locks.setdefault(subject, asyncio.Lock())
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await stack.enter_async_context(lock)
                except TimeoutError:
                    holder = self._holders.get(subject, "another action")
                    raise QueueFull(f"{subject} is being changed by {holder}", retry_after_s=PATIENCE_S) from None
                self._holders[subject] = action
                stack.callback(self._holders.pop, subject, None)
            yield


def _checked(action: str) -> str:
    if not _ID.fullmatch(action):
        raise BadParameter(f"not an id: {action!r} (up to 64 letters, digits, '.', '_', '-')", param="id")
    return action


def _subject(kind: str, given: Any, plan: Plan | None) -> str | None:
    """What was to be changed, as far as that is known; nothing that may hold a password, as an address may."""
    if plan is not None:
        return plan.changes[0].subject if plan.changes else None
    name = getattr(given, "name", None) or getattr(getattr(given, "spec", None), "name", None)
    return f"{kind.partition('.')[0]}/{name}" if isinstance(name, str) and _NAME.fullmatch(name) else None


def _require_same(action: str, earlier: tuple[str, Any], asked: tuple[str, Any]) -> None:
    if earlier != asked:
        raise BadParameter(f"the id {action!r} was used for something else", param="id")
