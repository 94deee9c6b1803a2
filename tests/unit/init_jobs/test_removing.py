"""`job.remove` after a kill: a job that is asked to go will go, so its removal is done, whatever is left of it yet."""

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.ids import JobName
from thaloom.init.acting.jobs import JobRemoval, RemoveJob
from thaloom.init.acting.performing import Performer
from thaloom.init.jobs.desk import JobDesk
from thaloom.kernel.state.jobs.types import JobSpec
from thaloom.kernel.state.store import StateStore

OLD = JobName("old")


@pytest.mark.parametrize(
    ("asked", "gone", "ending"), [(False, False, "undone"), (True, False, "done"), (True, True, "done")]
)
def test_a_removal_that_was_cut_off(asked: bool, gone: bool, ending: str, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.db", ManualClock())
    store.jobs.put(JobSpec(name=OLD, command=("true",)))
    store.jobs.set_state(OLD, dataclasses.replace(store.jobs.get(OLD).state, phase="succeeded", num_attempts=1))
    guard = SimpleNamespace(require_unneeded=lambda _: None)
    kind = RemoveJob(cast(JobDesk, SimpleNamespace(store=store.jobs, guard=guard, find=store.jobs.find)))

    async def cut_off() -> None:
        plan = await kind.plan(JobRemoval(name=OLD))
        entry = store.journal.append(kind.name, {"plan": plan.to_record()}, phase="intent", action="mine", by="me")
        if asked:
            store.jobs.set_state(OLD, dataclasses.replace(store.jobs.get(OLD).state, remove_asked=True))
        if gone:
            store.jobs.delete(OLD)
        async with asyncio.TaskGroup() as tasks:
            await Performer([kind], journal=store.journal, tasks=tasks, clock=ManualClock()).resume(entry)

    asyncio.run(cut_off())
    assert store.journal.latest(1)[0].data["ending"] == ending
    store.close()
