"""The one way in which something asked for is done: planned under a lock, journalled, applied, looked at, journalled.

    plan ─> guards and approval ─> budget ─> journal: intent ─> apply ─> does it hold? ─> journal: outcome

The intent has all that is needed to finish the action or to tell that it never began (`resuming`), and the call that
would undo it, made from what was there before. An action asked for twice by one id is done once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any
from weakref import WeakValueDictionary

from thaloom.base.actions import Approval, Call, Caller, Json, Plan
from thaloom.base.clock import Clock
from thaloom.base.errors import (
    BadParameter,
    Forbidden,
    InternalError,
    NodeNotRunning,
    NotVerified,
    PlanChanged,
    ThaloomError,
    WrongState,
)
from thaloom.init.acting.budgets import HOUR_S, check_budget
from thaloom.init.acting.kinds import ActionKind, Aid, Done, read
from thaloom.kernel.state.journal import Journal, new_action_id
from thaloom.kernel.state.types import JournalEntry

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_MOMENTS = 10_000
_APPROVE = "plan.approve"


class Performer:
    """Owned by the node; its tasks are the node's, so that an action ends with it and not with who asked."""

    def __init__(
        self, kinds: Iterable[ActionKind[Any]], *, journal: Journal, tasks: asyncio.TaskGroup, clock: Clock
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._journal = journal
        self._tasks = tasks
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By subject, as long as anybody has or wants it."""
        self._running: dict[str, tuple[str, Any, asyncio.Future[Done]]] = {}
        """By id: the kind, its parameters, and what comes of it."""
        self._moments: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_MOST_MOMENTS))
        self._leave: dict[str, float] = {}
        """Until when a person allows a plan of this digest to whoever may not carry it out by itself."""
        for entry in reversed(journal.latest(_MOST_MOMENTS)):
            if entry.phase == "intent" and entry.time > clock.now() - HOUR_S:
                self._moments[entry.by].append(entry.time)
                self._leave.pop(entry.data.get("digest", ""), None)
            elif entry.kind == _APPROVE:
                self._leave[entry.data["digest"]] = entry.data["until"]

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
        aid: Aid | None = None,
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
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # heard, if nobody waits
        self._running[action] = (kind.name, given, future)
        work = self._perform(action, kind, given, caller, approval, undoes, aid or Aid())
        task = self._tasks.create_task(self._keep(action, future, work), name=f"action {action} {kind.name}")
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not kind.outlives_caller and not future.done():
                task.cancel()
                await asyncio.wait([task])
            raise

    def approve(self, digest: str, until: float, caller: Caller) -> None:
        """Give leave for just this plan, once, until then (seconds since the epoch). Raises Forbidden: only a
        person may."""
        if caller.kind != "person":
            raise Forbidden(f"only a person may approve a plan, not a {caller.kind}")
        now = self._clock.now()
        self._leave = {known: end for known, end in self._leave.items() if end > now}
        self._journal.append(_APPROVE, {"digest": digest, "until": until}, by=str(caller))
        self._leave[digest] = until

    async def resume(self, entry: JournalEntry) -> None:
        """Bring what a killed daemon had begun to an end: done or undone, by what the machine shows."""
        kind = self._kinds.get(entry.kind)
        plan = entry.data.get("plan")
        if kind is None or plan is None:
            return
        call = Call(entry.kind, plan["call"]["parameters"])
        try:
            given = read(kind, call)
            if await kind.holds(given):
                ending: dict[str, Json] = {"ending": "done"}
            elif (await kind.plan(given)).to_record() == plan:
                ending = {"ending": "undone"}
            else:  # it had begun
                done = await kind.apply(given, Aid())
                ending = {"ending": "done", "told": dict(done.told)}
        except ThaloomError as error:
            ending = {"ending": "undone", "error": error.to_dict()}
        self._journal.append(entry.kind, ending | {"resumed": True}, action=entry.action, by=entry.by)

    def _kind(self, call: Call) -> ActionKind[Any]:
        kind = self._kinds.get(call.kind)
        if kind is None:
            known = ", ".join(sorted(self._kinds))
            raise BadParameter(f"no kind of action {call.kind!r} (known: {known})", param="kind")
        return kind

    async def _earlier(self, action: str, kind: ActionKind[Any], given: Any) -> Done | None:
        """What came of the action of this id, if there was one. Raises BadParameter if that was another one, and what
        it raised if it failed."""
        if action in self._running:
            name, parameters, future = self._running[action]
            _require_same(action, (name, parameters), (kind.name, given))
            return await asyncio.shield(future)
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
        if "error" in outcome.data:
            raise ThaloomError.from_dict(outcome.data["error"])
        return Done(told=outcome.data.get("told", {}))

    async def _keep(self, action: str, future: asyncio.Future[Done], work: Coroutine[Any, Any, Done]) -> None:
        """Whatever happens becomes the outcome: nothing of it may end the node."""
        try:
            done = await work
        except asyncio.CancelledError:
            future.set_exception(NodeNotRunning("it was ended before it was done"))
        except ThaloomError as error:
            future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - a supervisor: told, and the caller's to see
            future.set_exception(InternalError(f"{type(error).__name__}: {error}"))
        else:
            future.set_result(done)
        finally:
            del self._running[action]

    async def _perform(
        self,
        action: str,
        kind: ActionKind[Any],
        given: Any,
        caller: Caller,
        approval: Approval | None,
        undoes: str | None,
        aid: Aid,
    ) -> Done:
        async with self._alone(await kind.plan(given)):
            plan = await kind.plan(given)  # what was true while it waited may not be any more
            self._check(plan, caller, approval)
            record: dict[str, Json] = {"plan": plan.to_record(), "digest": plan.digest}
            if undoes is not None:
                record["undoes"] = undoes
            if approval is not None:
                record["approved"] = approval.digest
            self._moments[str(caller)].append(self._clock.now())
            self._journal.append(kind.name, record, phase="intent", action=action, by=str(caller))
            return await self._apply(action, kind, given, caller, aid)

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
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            message = "whoever asked for it went away" if cancelled else f"{type(error).__name__}: {error}"
            outcome["error"] = InternalError(message).to_dict()
            raise
        finally:
            self._journal.append(kind.name, outcome, action=action, by=str(caller))

    def _check(self, plan: Plan, caller: Caller, approval: Approval | None) -> None:
        now = self._clock.now()
        if approval is not None and approval.digest != plan.digest:
            raise PlanChanged("what would be done now is not what was approved", plan=plan.to_record())
        if approval is not None and now > approval.until:
            raise PlanChanged("the time this was approved for is over", plan=plan.to_record())
        allowed = self._leave.pop(plan.digest, 0.0) > now
        check_budget(caller, plan.risk, self._moments[str(caller)], now, approved=allowed)

    @contextlib.asynccontextmanager
    async def _alone(self, plan: Plan) -> AsyncIterator[None]:
        """Nobody else changes the same things meanwhile. Locks are taken in one order, so nobody waits in a ring."""
        async with contextlib.AsyncExitStack() as stack:
            for subject in sorted({change.subject for change in plan.changes}):
                lock = self._locks.setdefault(subject, asyncio.Lock())
                await stack.enter_async_context(lock)
            yield


def _checked(action: str) -> str:
    if not _ID.fullmatch(action):
        raise BadParameter(f"not an id: {action!r} (up to 64 letters, digits, '.', '_', '-')", param="id")
    return action


def _require_same(action: str, earlier: tuple[str, Any], asked: tuple[str, Any]) -> None:
    if earlier != asked:
        raise BadParameter(f"the id {action!r} was used for something else", param="id")
