"""Whatever is asked for is planned, journalled, carried out once, verified, and brought to an end after a kill."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from thaloom.base.actions import LOCAL, Approval, Call, Caller, Change, Plan, Risk
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    ActionNotFound,
    ApprovalNeeded,
    BadParameter,
    BudgetSpent,
    Forbidden,
    NameTaken,
    NothingToUndo,
    NotVerified,
    PlanChanged,
    QueueFull,
    ThaloomError,
    WrongState,
)
from thaloom.base.events import ignore
from thaloom.init.access.refusals import Refusals
from thaloom.init.acting import performing as performing_module
from thaloom.init.acting.budgets import BUDGETS
from thaloom.init.acting.kinds import Aid, Done, call
from thaloom.init.acting.past import Past
from thaloom.init.acting.performing import Performer
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import JournalEntry, PastAction


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    name: str
    value: int | None


@dataclass
class Put:
    """A kind that sets a value in a dictionary; told to, it is held back, refuses, breaks or does nothing."""

    values: dict[str, int]
    risk: Risk = "low"
    gate: asyncio.Event | None = None
    refusal: ThaloomError | None = None
    breaks: Exception | None = None
    idle: bool = False
    outlives_caller: bool = True
    shared: bool = False
    num_applied: int = 0
    name: str = "value.put"
    parameters: type[Value] = field(default=Value)

    async def plan(self, given: Value) -> Plan:
        if self.refusal is not None:
            raise self.refusal
        before = self.values.get(given.name)
        return Plan(
            call=call(self.name, given),
            risk=self.risk,
            changes=(Change(subject=f"value/{given.name}", before=before, after=given.value),),
            undo=call(self.name, Value(name=given.name, value=before)),
        )

    async def apply(self, given: Value, aid: Aid, /) -> Done:
        self.num_applied += 1
        if self.gate is not None:
            await self.gate.wait()
        aid.progress("half", 1, 2)
        if self.breaks is not None:
            raise self.breaks
        if given.value is None:
            self.values.pop(given.name, None)
        elif not self.idle:
            self.values[given.name] = given.value
        return Done(told={"was": given.value}, given="for the caller alone")

    async def holds(self, given: Value) -> bool:
        return self.values.get(given.name) == given.value


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    store = StateStore(tmp_path / "state.db", ManualClock(1000.0))
    with contextlib.closing(store):
        yield store


CLOCK = ManualClock(1000.0)


@contextlib.asynccontextmanager
async def performing(store: StateStore, kind: Put, clock: ManualClock = CLOCK) -> AsyncIterator[Performer]:
    async with asyncio.TaskGroup() as tasks:
        yield Performer([kind], journal=store.journal, tasks=tasks, clock=clock)


def run(
    store: StateStore, kind: Put, work: Callable[[Performer], Awaitable[object]], clock: ManualClock = CLOCK
) -> None:
    async def inside() -> None:
        async with performing(store, kind, clock) as performer:
            await work(performer)

    asyncio.run(inside())


def put(name: str = "a", value: int | None = 1) -> Call:
    return call("value.put", Value(name=name, value=value))


def entries(store: StateStore) -> list[tuple[str, str]]:
    """(phase, ending), oldest first."""
    return [(entry.phase, entry.data.get("ending", "")) for entry in reversed(store.journal.latest(100))]


def the_past(store: StateStore) -> list[PastAction]:
    return Past(store.journal).latest(100)


def test_an_action_is_between_two_entries_that_say_who_what_and_how_it_ended(store: StateStore) -> None:
    kind = Put({})
    seen: list[list[tuple[str, str]]] = []

    async def work(performer: Performer) -> None:
        kind.gate = asyncio.Event()
        doing = asyncio.ensure_future(performer.perform(put(), LOCAL))
        while not kind.num_applied:
            await asyncio.sleep(0)
        seen.append(entries(store))
        kind.gate.set()
        assert (await doing).given == "for the caller alone"

    run(store, kind, work)
    assert seen == [[("intent", "")]]
    assert entries(store) == [("intent", ""), ("outcome", "done")]
    (past,) = the_past(store)
    assert (past.by, past.kind, past.ending, past.told) == ("person:local", "value.put", "done", {"was": 1})
    assert past.subjects == ("value/a",)
    assert "for the caller alone" not in str(store.journal.latest(100)), "what is for the caller is not written down"


def test_a_plan_changes_nothing_and_leaves_no_trace(store: StateStore) -> None:
    kind = Put({})
    plans: list[Plan] = []

    async def work(performer: Performer) -> None:
        plans.append(await performer.plan(put()))

    run(store, kind, work)
    assert (kind.values, kind.num_applied, entries(store)) == ({}, 0, [])
    assert plans[0].changes == (Change(subject="value/a", before=None, after=1),)


@pytest.mark.parametrize("wrong", [Call("value.take"), Call("value.put"), Call("value.put", {"name": 1, "value": 1}),
                                   Call("value.put", {"name": "a", "value": 1, "more": 2})])  # fmt: skip
def test_a_call_that_makes_no_sense_is_refused_by_name(store: StateStore, wrong: Call) -> None:
    async def work(performer: Performer) -> None:
        with pytest.raises(BadParameter):
            await performer.perform(wrong, LOCAL)
        with pytest.raises(BadParameter):
            await performer.plan(wrong)

    run(store, Put({}), work)
    assert entries(store) == []


def test_what_a_guard_forbids_is_not_begun(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        with pytest.raises(NameTaken):
            await performer.perform(put(), LOCAL)

    run(store, Put({}, refusal=NameTaken("taken")), work)
    assert entries(store) == []


def test_a_guard_is_asked_again_when_its_turn_has_come(store: StateStore) -> None:
    """Two want the same thing; what the first has changed counts for the second."""
    kind = Put({})
    gate = asyncio.Event()

    async def work(performer: Performer) -> None:
        kind.gate = gate
        first = asyncio.ensure_future(performer.perform(put(), LOCAL))
        while not kind.num_applied:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(performer.perform(put(value=2), LOCAL))
        other = asyncio.ensure_future(performer.perform(put("b"), LOCAL))
        while kind.num_applied < 2:
            await asyncio.sleep(0)
        kind.refusal = NameTaken("meanwhile")
        gate.set()
        await first
        await other
        with pytest.raises(NameTaken, match="meanwhile"):
            await second

    run(store, kind, work)
    assert kind.values == {"a": 1, "b": 1}, "another subject did not wait"


@pytest.mark.parametrize("broken", [NameTaken("at last"), OSError("disk")])
def test_what_hinders_it_is_told_and_written_down(store: StateStore, broken: Exception) -> None:
    async def work(performer: Performer) -> None:
        with pytest.raises(ThaloomError, match=str(broken)):
            await performer.perform(put(), LOCAL)

    run(store, Put({}, breaks=broken), work)
    assert entries(store)[-1] == ("outcome", "failed")
    assert str(broken) in str(the_past(store)[0].error)


def test_what_does_not_hold_afterwards_did_not_succeed(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        with pytest.raises(NotVerified):
            await performer.perform(put(), LOCAL)

    run(store, Put({}, idle=True), work)
    assert entries(store)[-1] == ("outcome", "failed")


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_caller_that_leaves_ends_it_or_does_not_by_its_kind(store: StateStore, goes_on: bool) -> None:
    kind = Put({}, outlives_caller=goes_on)

    async def work(performer: Performer) -> None:
        kind.gate = asyncio.Event()
        doing = asyncio.ensure_future(performer.perform(put(), LOCAL))
        while not kind.num_applied:
            await asyncio.sleep(0)
        doing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await doing
        kind.gate.set()

    run(store, kind, work)
    assert entries(store)[-1] == ("outcome", "done" if goes_on else "failed")
    assert kind.values == ({"a": 1} if goes_on else {})


def test_nobody_waits_long_for_another_and_nothing_is_done_after_its_caller_has_gone(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performing_module, "PATIENCE_S", 0.05)
    kind = Put({})

    async def work(performer: Performer) -> None:
        kind.gate = asyncio.Event()
        first = asyncio.ensure_future(performer.perform(put(), LOCAL, action="holder"))
        while not kind.num_applied:
            await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="value/a is being changed by holder"):
            await performer.perform(put(value=2), LOCAL)
        monkeypatch.setattr(performing_module, "PATIENCE_S", 60.0)
        waiting = asyncio.ensure_future(performer.perform(put(value=3), LOCAL))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        kind.gate.set()
        await first

    run(store, kind, work)
    assert kind.values == {"a": 1}
    assert len(the_past(store)) == 1


def test_who_asks_for_the_same_of_a_shared_kind_follows_it(store: StateStore) -> None:
    kind = Put({}, shared=True)
    heard: list[str] = []

    async def work(performer: Performer) -> None:
        kind.gate = asyncio.Event()
        first = asyncio.ensure_future(performer.perform(put(), LOCAL))
        while not kind.num_applied:
            await asyncio.sleep(0)
        follower = Aid(progress=lambda stage, done, total: heard.append(stage))
        second = asyncio.ensure_future(performer.perform(put(), LOCAL, aid=follower))
        third = asyncio.ensure_future(performer.perform(put(), LOCAL, aid=Aid(secrets={"token": "another"})))
        await asyncio.sleep(0)
        kind.gate.set()
        assert await first is await second
        await third

    run(store, kind, work)
    assert (kind.num_applied, heard) == (2, ["half"]), "one with another token is another"


# -- the same again


def test_asked_twice_by_one_id_it_is_done_once(store: StateStore) -> None:
    kind = Put({})

    async def work(performer: Performer) -> None:
        kind.gate = asyncio.Event()
        both = [asyncio.ensure_future(performer.perform(put(), LOCAL, action="mine")) for _ in range(2)]
        while not kind.num_applied:
            await asyncio.sleep(0)
        kind.gate.set()
        first, second = await asyncio.gather(*both)
        assert first == second
        later = await performer.perform(put(), LOCAL, action="mine")
        assert (later.told, later.given) == ({"was": 1}, None)

    run(store, kind, work)

    async def after_a_restart(performer: Performer) -> None:
        assert (await performer.perform(put(), LOCAL, action="mine")).told == {"was": 1}

    run(store, kind, after_a_restart)
    assert (kind.num_applied, len(the_past(store))) == (1, 1)


def test_what_failed_by_one_id_has_failed(store: StateStore) -> None:
    kind = Put({}, breaks=NameTaken("no"))

    async def work(performer: Performer) -> None:
        for _ in range(2):
            with pytest.raises(NameTaken, match="no"):
                await performer.perform(put(), LOCAL, action="mine")

    run(store, kind, work)
    assert kind.num_applied == 1


def test_one_id_is_not_for_two_things(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        await performer.perform(put(), LOCAL, action="mine")
        with pytest.raises(BadParameter, match="something else"):
            await performer.perform(put(value=2), LOCAL, action="mine")
        for bad in ("", "a b", "-x", "x" * 65, "ä"):
            if bad:
                with pytest.raises(BadParameter, match="not an id"):
                    await performer.perform(put(value=2), LOCAL, action=bad)

    run(store, Put({}), work)


# -- approval and budgets


def test_an_approval_is_for_just_that_plan_and_until_then(store: StateStore) -> None:
    kind = Put({"a": 5})

    async def work(performer: Performer) -> None:
        digest = (await performer.plan(put())).digest
        with pytest.raises(PlanChanged, match="time"):
            await performer.perform(put(), LOCAL, approval=Approval(digest=digest, until=999.0))
        kind.values["a"] = 6
        with pytest.raises(PlanChanged, match="not what was approved"):
            await performer.perform(put(), LOCAL, approval=Approval(digest=digest, until=2000.0))
        kind.values["a"] = 5
        await performer.perform(put(), LOCAL, approval=Approval(digest=digest, until=2000.0))

    run(store, kind, work)
    assert kind.values == {"a": 1}
    assert kind.num_applied == 1


def test_a_program_that_may_not_needs_a_persons_leave_once(store: StateStore) -> None:
    kind, copilot = Put({}, risk="medium"), Caller("copilot", "c")

    async def work(performer: Performer) -> None:
        digest = (await performer.plan(put())).digest
        with pytest.raises(ApprovalNeeded):
            await performer.perform(put(), copilot)
        with pytest.raises(ApprovalNeeded):  # its own word is no leave
            await performer.perform(put(), copilot, approval=Approval(digest=digest, until=2000.0))
        with pytest.raises(Forbidden):
            performer.leave.approve(digest, 2000.0, copilot)
        performer.leave.approve(digest, 2000.0, LOCAL)

    run(store, kind, work)

    async def after_a_restart(performer: Performer) -> None:
        with pytest.raises(ApprovalNeeded):
            await performer.perform(put(value=2), copilot)
        await performer.perform(put(), copilot)
        kind.values.clear()
        with pytest.raises(ApprovalNeeded):
            await performer.perform(put(), copilot)

    run(store, kind, after_a_restart)

    async def after_another(performer: Performer) -> None:
        with pytest.raises(ApprovalNeeded):
            await performer.perform(put(), copilot)

    run(store, kind, after_another)


def test_leave_that_was_given_for_a_time_ends_with_it(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        performer.leave.approve((await performer.plan(put())).digest, 1000.0, LOCAL)
        with pytest.raises(ApprovalNeeded):
            await performer.perform(put(), Caller("copilot"))

    run(store, Put({}, risk="medium"), work)


def test_a_program_may_change_so_much_an_hour_and_no_restart_helps(store: StateStore) -> None:
    healer = Caller("healer", "h")
    most = BUDGETS["healer"].changes_per_hour
    assert most is not None
    kind = Put({})

    async def work(performer: Performer) -> None:
        for value in range(most):
            await performer.perform(put(value=value), healer)
        await performer.perform(put("b"), Caller("healer", "another"))
        await performer.perform(put("c"), LOCAL)
        with pytest.raises(BudgetSpent) as caught:
            await performer.perform(put(value=-1), healer)
        assert caught.value.retry_after_s == 3600.0

    run(store, kind, work)

    async def refused(performer: Performer) -> None:
        with pytest.raises(BudgetSpent):
            await performer.perform(put(value=-1), healer)

    run(store, kind, refused)

    async def allowed(performer: Performer) -> None:
        await performer.perform(put(value=-1), healer)

    run(store, kind, allowed, ManualClock(1000.0 + 3601))


# -- undo


def test_what_came_long_after_it_stands_in_the_way_too(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        await performer.perform(put(), LOCAL, action="first")
        await performer.perform(put(value=2), LOCAL, action="second")
        for number in range(600):
            store.journal.append("Forget", {"process": f"w-{number}"}, phase="intent", by="reconciler")
        with pytest.raises(NothingToUndo, match="second"):
            Past(store.journal).undoing("first")

    run(store, Put({}), work)


def test_undoing_is_judged_again_when_its_turn_has_come(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        await performer.perform(put(), LOCAL, action="first")
        undoing = Past(store.journal).undoing("first")
        await performer.perform(put(value=2), LOCAL, action="second")
        with pytest.raises(NothingToUndo, match="second"):
            await performer.perform(undoing, LOCAL, undoes="first")

    run(store, Put({}), work)


def test_undoing_brings_back_what_was_there_once(store: StateStore) -> None:
    kind = Put({"a": 5})

    async def work(performer: Performer) -> None:
        await performer.perform(put(), LOCAL, action="first")
        past = Past(store.journal)
        undoing = past.undoing("first")
        await performer.perform(undoing, LOCAL, action="second", undoes="first")
        assert kind.values == {"a": 5}
        with pytest.raises(NothingToUndo, match="undone already"):
            past.undoing("first")
        await performer.perform(past.undoing("second"), LOCAL, action="third", undoes="second")
        assert kind.values == {"a": 1}

    run(store, kind, work)


def test_what_came_after_it_stands_in_the_way_of_undoing(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        await performer.perform(put(), LOCAL, action="first")
        await performer.perform(put("b"), LOCAL, action="other")
        Past(store.journal).undoing("first")
        await performer.perform(put(value=2), LOCAL, action="second")
        with pytest.raises(NothingToUndo, match="second"):
            Past(store.journal).undoing("first")
        with pytest.raises(ActionNotFound):
            Past(store.journal).undoing("nothing")

    run(store, Put({}), work)


def test_what_failed_has_nothing_to_undo(store: StateStore) -> None:
    async def work(performer: Performer) -> None:
        with pytest.raises(NameTaken):
            await performer.perform(put(), LOCAL, action="first")
        with pytest.raises(NothingToUndo, match="failed"):
            Past(store.journal).undoing("first")

    run(store, Put({}, breaks=NameTaken("no")), work)


# -- after a kill


def begun(store: StateStore, kind: Put, action: str = "mine") -> JournalEntry:
    """The journal as a kill just after the intent leaves it."""
    plan = asyncio.run(kind.plan(Value(name="a", value=1)))
    return store.journal.append(
        "value.put", {"plan": plan.to_record()}, phase="intent", action=action, by="person:local"
    )


@pytest.mark.parametrize(("present", "ending", "num_applied"), [({"a": 5}, "undone", 0), ({"a": 1}, "done", 0),
                                                               ({"a": 3}, "done", 1)])  # fmt: skip
def test_what_a_killed_daemon_began_is_brought_to_an_end_by_what_the_machine_shows(
    store: StateStore, present: dict[str, int], ending: str, num_applied: int
) -> None:
    """Not begun: undone. Done: done. Something in between: finished."""
    kind = Put({"a": 5})
    begun(store, kind)
    kind.values = present

    async def work(performer: Performer) -> None:
        for entry in store.journal.unfinished():
            await performer.resume(entry)

    run(store, kind, work)
    (past,) = the_past(store)
    assert (past.ending, past.resumed, kind.num_applied) == (ending, True, num_applied)
    assert kind.values == {"a": 5 if ending == "undone" else 1}
    assert store.journal.unfinished() == []


@pytest.mark.parametrize("broken", [OSError("no such file"), KeyError("key")])
def test_no_past_action_keeps_a_node_from_starting(store: StateStore, broken: Exception) -> None:
    kind = Put({"a": 5})
    begun(store, kind)
    store.journal.append("value.put", {"nonsense": 1}, phase="intent", action="odd")
    kind.values, kind.breaks = {"a": 3}, broken

    async def work(performer: Performer) -> None:
        for entry in store.journal.unfinished():
            await performer.resume(entry)

    run(store, kind, work)
    assert {past.ending for past in the_past(store)} == {"failed"}
    assert store.journal.unfinished() == []


def test_what_ends_with_its_caller_is_not_finished_without_him(store: StateStore) -> None:
    kind = Put({"a": 5}, outlives_caller=False)
    begun(store, kind)
    kind.values = {"a": 3}

    async def work(performer: Performer) -> None:
        for entry in store.journal.unfinished():
            await performer.resume(entry)

    run(store, kind, work)
    assert (kind.num_applied, the_past(store)[0].ending) == (0, "failed")


def test_steps_of_the_reconciler_end_by_what_was_adopted(store: StateStore) -> None:
    for process in ("w-1", "w-2"):
        store.journal.append("StartWorker", {"process": process}, phase="intent", by="reconciler")

    async def work(performer: Performer) -> None:
        for entry in store.journal.unfinished():
            await performer.resume(entry, {"w-2"})

    run(store, Put({}), work)
    assert [past.ending for past in the_past(store)] == ["done", "undone"]


def test_an_id_of_what_was_never_begun_may_be_used_again(store: StateStore) -> None:
    kind = Put({"a": 5})
    begun(store, kind)

    async def work(performer: Performer) -> None:
        for entry in store.journal.unfinished():
            await performer.resume(entry)
        await performer.perform(put(), LOCAL, action="mine")
        await performer.perform(put(), LOCAL, action="mine")

    run(store, kind, work)
    assert (kind.values, kind.num_applied) == ({"a": 1}, 1)
    assert store.journal.unfinished() == []


def test_what_cannot_be_finished_says_why(store: StateStore) -> None:
    kind = Put({"a": 5})
    begun(store, kind)
    kind.values, kind.breaks = {"a": 3}, NameTaken("taken meanwhile")

    async def work(performer: Performer) -> None:
        for entry in store.journal.unfinished():
            await performer.resume(entry)

    run(store, kind, work)
    assert "taken meanwhile" in str(the_past(store)[0].error)


def test_an_id_whose_end_is_not_known_is_not_taken_for_done(store: StateStore) -> None:
    kind = Put({})
    begun(store, kind)

    async def work(performer: Performer) -> None:
        with pytest.raises(WrongState, match="not known"):
            await performer.perform(put(), LOCAL, action="mine")

    run(store, kind, work)
    assert kind.num_applied == 0


def test_what_a_guard_a_budget_or_a_lack_of_leave_forbids_is_told_and_shown_as_refused(store: StateStore) -> None:
    kind, clock = Put({}), ManualClock(1000.0)
    refusals = Refusals(store.journal, clock, ignore)

    async def inside() -> None:
        async with asyncio.TaskGroup() as tasks:
            performer = Performer([kind], journal=store.journal, tasks=tasks, clock=clock, refused=refusals)
            kind.refusal = WrongState("it is being mended")
            with pytest.raises(WrongState):
                await performer.perform(put(), LOCAL)
            with pytest.raises(WrongState):
                await performer.perform(put("a/secret:word"), LOCAL)
            with pytest.raises(WrongState):
                await performer.plan(put("looked-at"))
            kind.refusal = BadParameter("not a number")
            with pytest.raises(BadParameter):
                await performer.perform(put("b"), LOCAL)
            kind.refusal, kind.risk = None, "high"
            with pytest.raises(ApprovalNeeded):
                await performer.perform(put("c"), Caller("copilot"))
            await performer.perform(put("d"), LOCAL)
            kind.breaks = WrongState("while it was done")
            with pytest.raises(WrongState):
                await performer.perform(put("e"), LOCAL)

    asyncio.run(inside())
    past = Past(store.journal)
    refused = [(one.kind, one.subjects, one.by, one.ending) for one in past.latest(10, refused=True)]
    assert refused == [
        ("value.put", ("value/c",), "copilot", "refused"),
        ("value.put", (), "person:local", "refused"),
        ("value.put", ("value/a",), "person:local", "refused"),
    ], "mistakes and looks are no refusals, what failed is in the history, and what may hold a password is left out"
    assert [one.ending for one in past.latest(10)] == ["failed", "done"], "a refusal is no change"
    assert [one.id for one in past.latest(10, refused=True, subject="value/c")] == [past.latest(1, refused=True)[0].id]
    one = past.get(past.latest(1, refused=True, by="person:local")[0].id)
    assert (one.ending, one.error) == ("refused", {"code": "wrong_state", "message": "it is being mended"})
    with pytest.raises(NothingToUndo, match="was refused"):
        past.undoing(one.id)
    assert store.journal.verify().faults == ()
    with store._database.write() as connection:
        connection.execute("UPDATE journal SET by = 'person:other' WHERE action = ?", (one.id,))
    assert [fault.problem for fault in store.journal.verify().faults] == ["altered"], "who tried cannot be rewritten"


def test_who_asks_again_hears_what_a_killed_daemon_changed(store: StateStore) -> None:
    kind = Put({"a": 5})
    begun(store, kind)
    kind.values = {"a": 1}

    async def work(performer: Performer) -> None:
        for entry in store.journal.unfinished():
            await performer.resume(entry)
        done = await performer.perform(put(), LOCAL, action="mine")
        assert (done.subjects, dict(done.told)) == (("value/a",), {})

    run(store, kind, work)
    assert kind.num_applied == 0
