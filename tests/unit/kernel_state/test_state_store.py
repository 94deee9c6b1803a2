"""What is put is there, what is refused changes nothing, and all of it survives a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, DiskFull, RevisionConflict, ServiceNotFound, StateUnusable
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import JournalEntry, Lease, ServiceSpec

SPEC = ServiceSpec(name=ServiceName("chat"), model="tiny", device=DeviceId("cpu"), num_threads=2, prefix_reuse=False)


def lease(name: str = "w-1", started_at: float = 1.0) -> Lease:
    return Lease(
        id=WorkerId(name),
        role="worker",
        service=SPEC.name,
        pid=42,
        start_ticks=2**40,
        socket=f"/run/{name}.sock",
        started_at=started_at,
        revision=3,
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state.db"


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[StateStore]:
    store = StateStore(path, clock)
    yield store
    store.close()


def reopen(store: StateStore, path: Path, clock: ManualClock) -> StateStore:
    store.close()
    return StateStore(path, clock)


# -- services --------------------------------------------------------------------------------------------------------


def test_a_new_node_wishes_for_nothing(store: StateStore) -> None:
    assert (store.services(), store.leases(), store.journal.latest()) == ([], [], [])


def test_a_service_comes_back_after_a_restart(store: StateStore, path: Path, clock: ManualClock) -> None:
    service = store.put_service(SPEC)
    assert (service.spec, service.created_at, service.revision) == (SPEC, 100.0, 1)
    store = reopen(store, path, clock)
    assert store.services() == [service]
    assert store.service(SPEC.name) == service
    store.close()


def test_a_change_keeps_the_age_and_raises_the_revision(store: StateStore, clock: ManualClock) -> None:
    store.put_service(SPEC)
    clock._now = 200.0
    changed = store.put_service(dataclasses.replace(SPEC, model="tiny:v2"))
    assert (changed.created_at, changed.revision) == (100.0, 2)
    assert store.put_service(changed.spec) == changed, "the same wish again is no change"
    assert store.services() == [changed]


def test_services_are_listed_by_name(store: StateStore) -> None:
    for name in ("b", "a", "c"):
        store.put_service(ServiceSpec(name=ServiceName(name), model="tiny"))
    assert [service.spec.name for service in store.services()] == ["a", "b", "c"]


def test_a_wish_that_somebody_else_changed_is_not_overwritten(store: StateStore) -> None:
    store.put_service(SPEC, expected_revision=0)
    other = dataclasses.replace(SPEC, model="other")
    for wrong in (0, 2):
        with pytest.raises(RevisionConflict, match=f"revision 1, not {wrong}") as caught:
            store.put_service(other, expected_revision=wrong)
        assert caught.value.details == {"revision": 1}
    assert store.service(SPEC.name).spec == SPEC
    assert store.put_service(other, expected_revision=1).revision == 2


def test_a_service_that_is_not_there_has_revision_zero(store: StateStore) -> None:
    with pytest.raises(RevisionConflict):
        store.put_service(SPEC, expected_revision=1)
    assert store.services() == []


def test_a_deleted_service_stays_away(store: StateStore, path: Path, clock: ManualClock) -> None:
    store.put_service(SPEC)
    store.put_lease(lease())
    store.delete_service(SPEC.name)
    store = reopen(store, path, clock)
    assert store.services() == []
    assert len(store.leases()) == 1, "its process may still run"
    for act in (store.delete_service, store.service):
        with pytest.raises(ServiceNotFound, match="'chat'"):
            act(SPEC.name)
    store.close()


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "chat", "model": "tiny", "unknown_key": 1}',
        '{"name": "chat"}',
        '{"name": "chat", "model": 7}',
        '{"name": "chat", "model": "tiny", "max_queue": 0}',
        "[]",
        "{",
    ],
)
def test_a_wish_we_cannot_read_is_refused_and_not_guessed(text: str, store: StateStore) -> None:
    store.put_service(SPEC)
    with store._database.write() as connection:
        connection.execute("UPDATE services SET spec = ?", (text,))
    with pytest.raises(StateUnusable):
        store.services()
    with pytest.raises(StateUnusable):
        store.put_service(SPEC)


# -- leases ----------------------------------------------------------------------------------------------------------


def test_leases_come_back_oldest_first(store: StateStore, path: Path, clock: ManualClock) -> None:
    young, old = lease("w-1", 2.0), dataclasses.replace(lease("w-2", 1.0), role="door", service=None)
    store.put_lease(young)
    store.put_lease(old)
    store = reopen(store, path, clock)
    assert store.leases() == [old, young]
    moved = dataclasses.replace(young, socket="/elsewhere")
    store.put_lease(moved)
    assert store.leases() == [old, moved]
    store.delete_lease(old.id)
    store.delete_lease(old.id)
    assert store.leases() == [moved]
    store.close()


# -- journal ---------------------------------------------------------------------------------------------------------


def test_the_journal_gives_back_intent_and_outcome(store: StateStore, path: Path, clock: ManualClock) -> None:
    intent = store.journal.append("StartWorker", {"service": "chat", "threads": [1, 2]}, phase="intent")
    clock._now = 101.0
    outcome = store.journal.append("StartWorker", {"ok": True, "text": "模型"}, action=intent.action)
    other = store.journal.append("StopWorker", {})
    assert intent == JournalEntry(
        id=intent.id,
        time=100.0,
        action=intent.action,
        kind="StartWorker",
        phase="intent",
        data={"service": "chat", "threads": [1, 2]},
    )
    assert other.action != intent.action
    store = reopen(store, path, clock)
    assert store.journal.latest() == [other, outcome, intent]
    assert store.journal.latest(1) == [other]
    assert store.journal.latest(action=intent.action) == [outcome, intent]
    store.close()


def test_data_that_is_no_json_is_our_mistake(store: StateStore) -> None:
    for value in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            store.journal.append("X", {"value": value})
    assert store.journal.latest() == []


# -- at once, and at the end of the disk -----------------------------------------------------------------------------


def test_many_threads_may_write_at_once(store: StateStore) -> None:
    def write(i: int) -> None:
        for turn in range(5):
            store.journal.append("X", {"i": i, "turn": turn})
            store.put_service(ServiceSpec(name=ServiceName(f"s{i}"), model="tiny", max_queue=turn + 1))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [service.revision for service in store.services()] == [5] * 4
    assert len(store.journal.latest()) == 20


def test_a_full_disk_is_told_and_nothing_half_written(store: StateStore) -> None:
    store.put_service(SPEC)
    store._database._connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size as the least
    with pytest.raises(DiskFull) as caught:
        for _ in range(1000):
            store.journal.append("X", {"text": "x" * 1000})
    assert caught.value.details["free_bytes"] > 0
    written = len(store.journal.latest(10_000))
    assert [entry.data for entry in store.journal.latest(10_000)] == [{"text": "x" * 1000}] * written
    store._database._connection.execute("PRAGMA max_page_count = 1073741823")
    store.journal.append("X", {})
    assert len(store.journal.latest(10_000)) == written + 1


def test_a_spec_is_kept_as_plain_json(store: StateStore) -> None:
    store.put_service(SPEC)
    [row] = store._database.read("SELECT spec FROM services")
    assert json.loads(row["spec"]) == dataclasses.asdict(SPEC)


def test_a_path_that_is_no_utf8_can_be_journalled(store: StateStore) -> None:
    store.journal.append("pull", {"path": "/srv/\udcff", "name": "模型"})
    assert store.journal.latest(1)[0].data == {"path": "/srv/\udcff", "name": "模型"}


def test_a_service_that_is_idle_stays_so_over_a_restart_and_labels(path: Path) -> None:
    with contextlib.closing(StateStore(path, ManualClock(7.0))) as store:
        store.put_service(SPEC)
        assert store.put_rest(SPEC.name, idle_since=5.0) == store.service(SPEC.name)
        relabelled = dataclasses.replace(SPEC, labels={"team": "a"}, keep_alive_s=60.0, priority="low")
        assert store.put_service(relabelled).revision == 1, "no worker has to hear of it"
    with contextlib.closing(StateStore(path, ManualClock(8.0))) as store:
        kept = store.service(SPEC.name)
        assert (kept.idle_since, kept.waking, kept.spec.keep_alive_s) == (5.0, False, 60.0)
        woken = store.put_rest(SPEC.name, idle_since=None, waking=True, asked_keep_alive_s=-1.0)
        assert (woken.idle_since, woken.waking, woken.asked_keep_alive_s) == (None, True, -1.0)
        changed = store.put_service(dataclasses.replace(relabelled, num_threads=7))
        assert (changed.revision, changed.waking, changed.asked_keep_alive_s) == (2, False, None)
        with pytest.raises(ServiceNotFound):
            store.put_rest(ServiceName("none"), idle_since=1.0)


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan])
def test_how_long_a_service_is_kept_is_a_number(seconds: float) -> None:
    with pytest.raises(BadParameter) as caught:
        ServiceSpec(name=ServiceName("a"), model="m", keep_alive_s=seconds)
    assert caught.value.param == "keep_alive_s"


@pytest.mark.parametrize(
    ("sizes", "param"),
    [
        ({"kv_host_bytes": -1}, "kv_host_bytes"),
        ({"kv_disk_bytes": 1}, "kv_disk_bytes"),
        ({"kv_host_bytes": 1, "prefix_reuse": False}, "kv_host_bytes"),
        ({"kv_host_bytes": 1, "engine": "vllm"}, "kv_host_bytes"),
    ],
)
def test_room_below_the_pool_is_for_those_who_can_use_it(sizes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        ServiceSpec(name=ServiceName("a"), model="m", **sizes)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "wish", [{"pin_share": share} for share in (-0.1, 1.1, math.nan)] + [{"pin_share": 0.4, "engine": "vllm"}]
)
def test_a_share_that_cannot_be_pinned_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(BadParameter) as caught:
        ServiceSpec(name=ServiceName("a"), model="m", **wish)
    assert caught.value.param == "pin_share"


def test_prompts_are_kept_by_our_own_engine_where_there_is_room_and_reuse() -> None:
    wish = ServiceSpec(name=ServiceName("a"), model="m")
    assert wish.keeps_prompts
    for change in ({"pin_share": 0.0}, {"prefix_reuse": False}, {"engine": "transformers"}):
        assert not dataclasses.replace(wish, **change).keeps_prompts  # type: ignore[arg-type]


def test_a_wish_from_before_there_were_pins_has_the_usual_share(store: StateStore) -> None:
    store.put_service(SPEC)
    older = {name: value for name, value in dataclasses.asdict(SPEC).items() if name != "pin_share"}
    with store._database.write() as connection:
        connection.execute("UPDATE services SET spec = ?", (json.dumps(older),))
    assert store.service(SPEC.name).spec == SPEC
    assert store.put_service(SPEC).revision == 1
