"""The one way in which something asked for is done: planned under a lock, journalled, applied, looked at, journalled.

    plan ─> guards and approval ─> budget ─> journal: intent ─> apply ─> does it hold? ─> journal: outcome

The intent has all that is needed to finish the action or to tell that it never began (`resume`), and the call that
would undo it, made from what was there before. An action asked for twice by one id is done once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable
from typing import Any
from weakref import WeakValueDictionary

from thaloom.base.actions import Approval, Call, Caller, Json, Plan
from thaloom.base.clock import Clock
from thaloom.base.errors import (
    ApprovalNeeded,
    BadParameter,
    Forbidden,
    InternalError,
    NodeNotRunning,
    NotVerified,
    PlanChanged,
    QueueFull,
    ThaloomError,
    WrongState,
)
from thaloom.init.acting.budgets import HOUR_S, check_budget, may_risk
from thaloom.init.acting.kinds import NO_AID, ActionKind, Aid, Done, read
from thaloom.init.acting.past import Past
from thaloom.init.progress import OnProgress
from thaloom.kernel.state.journal import Journal, new_action_id
from thaloom.kernel.state.types import JournalEntry

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_MOMENTS = 10_000
PATIENCE_S = 10.0
"""How long one waits for another that changes the same thing: less than callers wait for an answer."""
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
        self._running: dict[str, _Running] = {}
        self._holders: dict[str, str] = {}
        self._moments: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_MOST_MOMENTS))
        self._leave: dict[str, float] = {}
        """Until when a person allows a plan of this digest to whoever may not carry it out by itself."""
        for entry in reversed(journal.latest(_MOST_MOMENTS)):
            if entry.phase == "intent" and entry.time > clock.now() - HOUR_S:
                self._moments[entry.by].append(entry.time)
            if entry.phase == "intent" and entry.data.get("by_leave"):
                self._leave.pop(entry.data["digest"], None)
            if entry.kind == _APPROVE:
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
        running = _Running(kind.name, given, aid, asyncio.get_running_loop().create_future())
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

    def approve(self, digest: str, until: float, caller: Caller) -> None:
        """Give leave for just this plan, once, until then (seconds since the epoch). Raises Forbidden: only a
        person may."""
        if caller.kind != "person":
            raise Forbidden(f"only a person may approve a plan, not a {caller.kind}")
        now = self._clock.now()
        self._leave = {known: end for known, end in self._leave.items() if end > now}
        self._journal.append(_APPROVE, {"digest": digest, "until": until}, by=str(caller))
        self._leave[digest] = until

    async def resume(self, entry: JournalEntry, living: Collection[str] = ()) -> None:
        """Bring what a killed daemon had begun to an end: done or undone, by what the machine shows. `living`: the
        processes that were found and adopted. Raises only what the journal does."""
        try:
            ending = await self._ending_of(entry, living)
        except Exception as error:  # noqa: BLE001 - a supervisor: no past action keeps a node from starting
            told = error if isinstance(error, ThaloomError) else InternalError(f"{type(error).__name__}: {error}")
            ending = {"ending": "failed", "error": told.to_dict()}
        self._journal.append(entry.kind, ending | {"resumed": True}, action=entry.action, by=entry.by)

    async def _ending_of(self, entry: JournalEntry, living: Collection[str]) -> dict[str, Json]:
        kind = self._kinds.get(entry.kind)
        if kind is None:  # a step of the reconciler's: what came of it was adopted, or is done anew
            return {"ending": "done" if entry.data.get("process") in living else "undone"}
        plan = entry.data["plan"]
        given = read(kind, Call(entry.kind, plan["call"]["parameters"]))
        if plan["changes"] and await self._changes_now(kind, given) == plan["changes"]:
            return {"ending": "undone"}
        if await kind.holds(given):
            return {"ending": "done"}
        if not kind.outlives_caller:
            raise NodeNotRunning("the daemon was ended while it was being done, and whoever asked for it is gone")
        return {"ending": "done", "told": dict((await kind.apply(given, NO_AID)).told)}

    async def _changes_now(self, kind: ActionKind[Any], given: Any) -> Json:
        """What it would change if it were asked for now; None where it would be refused."""
        try:
            return (await kind.plan(given)).to_record()["changes"]
        except ThaloomError:
            return None

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
        return Done(told=outcome.data.get("told", {}))

    def _alike(self, kind: ActionKind[Any], given: Any, aid: Aid) -> _Running | None:
        """The same, of a kind that can be shared, being done for somebody else on the same terms."""
        if not getattr(kind, "shared", False):
            return None
        wanted = (kind.name, given, aid.secrets)
        alike = (one for one in self._running.values() if (one.kind, one.given, one.aid.secrets) == wanted)
        return next(alike, None)

    async def _keep(self, action: str, running: _Running, work: Coroutine[Any, Any, Done]) -> None:
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
        running: _Running,
        caller: Caller,
        approval: Approval | None,
        undoes: str | None,
    ) -> Done:
        given = running.given
        async with self._alone(action, await kind.plan(given)):
            plan = await kind.plan(given)  # what was true while it waited may not be any more
            if undoes is not None:
                Past(self._journal).undoing(undoes)
            record: dict[str, Json] = {"plan": plan.to_record(), "digest": plan.digest}
            if undoes is not None:
                record["undoes"] = undoes
            if self._check(plan, caller, approval):
                record["by_leave"] = True
            self._moments[str(caller)].append(self._clock.now())
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

    def _check(self, plan: Plan, caller: Caller, approval: Approval | None) -> bool:
        """Whether a person's leave was needed and used up. Raises what stands against it."""
        now = self._clock.now()
        if approval is not None and approval.digest != plan.digest:
            raise PlanChanged("what would be done now is not what was approved", plan=plan.to_record())
        if approval is not None and now > approval.until:
            raise PlanChanged("the time this was approved for is over", plan=plan.to_record())
        needed = not may_risk(caller, plan.risk)
        if needed and self._leave.get(plan.digest, 0.0) <= now:
            message = f"a {caller.kind} may not do what has a {plan.risk} risk without a person's leave"
            raise ApprovalNeeded(message, risk=plan.risk, digest=plan.digest)
        check_budget(caller, self._moments[str(caller)], now)
        if needed:
            del self._leave[plan.digest]
        return needed

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


@dataclasses.dataclass(slots=True)
class _Running:
    """An action that is being done, or waits for its turn."""

    kind: str
    given: Any
    aid: Aid
    ended: asyncio.Future[Done]
    begun: bool = False
    """Whether its intent is in the journal."""
    latest: tuple[str, int, int | None] | None = None
    followers: list[OnProgress] = dataclasses.field(default_factory=list)

    def tell(self, stage: str, done: int, total: int | None) -> None:
        self.latest = (stage, done, total)
        for follower in (self.aid.progress, *self.followers):
            follower(stage, done, total)

    async def follow(self, aid: Aid) -> Done:
        """Be told how far it is, and what comes of it."""
        if self.latest is not None:
            aid.progress(*self.latest)
        self.followers.append(aid.progress)
        try:
            return await asyncio.shield(self.ended)
        finally:
            self.followers.remove(aid.progress)


def _checked(action: str) -> str:
    if not _ID.fullmatch(action):
        raise BadParameter(f"not an id: {action!r} (up to 64 letters, digits, '.', '_', '-')", param="id")
    return action


def _require_same(action: str, earlier: tuple[str, Any], asked: tuple[str, Any]) -> None:
    if earlier != asked:
        raise BadParameter(f"the id {action!r} was used for something else", param="id")
