"""Many documents are one action: planned whole, refused whole, done whole, and taken back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.base.actions import LOCAL
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    BadParameter,
    DocumentNotFound,
    JobNotFound,
    ModelNotFound,
    NotEnforceable,
    NothingToUndo,
    OutOfMemory,
    RevisionConflict,
    ThaloomError,
    WrongState,
)
from thaloom.base.events import ignore
from thaloom.base.ids import JobName, ServiceName
from thaloom.init.acting import documents as acting
from thaloom.init.acting.documents import Apply, ApplyWish
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.acting.kinds import call
from thaloom.init.acting.past import Past
from thaloom.init.acting.performing import Performer
from thaloom.init.documents.federations import Federations
from thaloom.init.documents.forms import version
from thaloom.init.documents.jobs import Jobs
from thaloom.init.documents.kinds import DocumentKinds
from thaloom.init.documents.services import Services
from thaloom.init.documents.shown import listed, shown
from thaloom.init.documents.workspaces import Workspaces
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.jobs.guarding import JobGuard
from thaloom.init.jobs.memory import JobMemory
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.kernel.state.jobs.types import JobSpec, JobState
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Condition, Document, ServiceSpec, ServiceStatus

T = TypeVar("T")
FREE = 4


class Guard:
    """Each service needs one of FREE bytes; there is one model."""

    async def completed(self, spec: ServiceSpec) -> ServiceSpec:
        return spec

    async def check_all(self, specs: list[ServiceSpec], *, leaving: Iterable[ServiceName] = ()) -> None:
        for number, spec in enumerate(specs):
            if spec.model != "tiny":
                raise ModelNotFound(f"no model {spec.model}", subject=f"service/{spec.name}")
            if number >= FREE:
                raise OutOfMemory("full", subject=f"service/{spec.name}")

    def workers(self, service: ServiceName) -> list[str]:
        return [f"w-{service}"]


class Bench:
    """The action over real stores; `renewed` and `removed` are what the reconciler was told."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = StateStore(home / "state.db", ManualClock(7.0))
        self.renewed: list[str] = []
        self.removed: list[str] = []
        self.users: list[str] = []

        async def settle() -> bool:
            return False

        loop = cast(
            ReconcileLoop,
            SimpleNamespace(renewed=self.renewed.append, removed=self.removed.append, settle=settle),
        )
        jobs = self.store.jobs
        self.workspaces = Workspaces(
            self.store, home / "workspaces", users=lambda name: [*self.users, *jobs.users_of_workspace(name)]
        )
        guard = JobGuard(
            home=home,
            jobs=jobs,
            walls=cast(JobWalls, SimpleNamespace(check=lambda _: None)),
            memory=cast(JobMemory, SimpleNamespace(check=lambda _: None)),
            is_workspace=self.workspaces.is_there,
        )
        self.forgotten: list[str] = []
        desk = SimpleNamespace(
            store=jobs, find=jobs.find, guard=guard, wake=lambda: None, remove_files=self.forgotten.append,
            status=lambda name: SimpleNamespace(conditions=(Condition(
                kind="Ready", status=False, reason="Starting", message="", since=7.0),)),
        )  # fmt: skip
        services = Services(self.store, loop, guard=cast(ServiceGuard, Guard()), status=self._status, emit=ignore)
        self.kinds = DocumentKinds(
            [services, Jobs(cast(JobDesk, desk), ignore), self.workspaces, Federations(self.store)]
        )
        self.kind = Apply(self.kinds, self.store, loop, lambda: None)

    def _status(self, name: ServiceName) -> ServiceStatus:
        service = self.store.service(name)
        ready = Condition(kind="Ready", status=True, reason="Serving", message="", since=1.0)
        return ServiceStatus(spec=service.spec, phase="ready", conditions=(ready,), created_at=service.created_at)

    def within(self, work: Callable[[Performer], Awaitable[T]]) -> T:
        async def run() -> T:
            refusal: ThaloomError | None = None
            async with asyncio.TaskGroup() as tasks:
                performer = Performer([self.kind], journal=self.store.journal, tasks=tasks, clock=ManualClock(7.0))
                try:
                    return await work(performer)
                except ThaloomError as error:
                    refusal = error
            assert refusal is not None
            raise refusal

        return asyncio.run(run())

    def apply(self, *documents: Document, remove: tuple[str, ...] = (), prune: dict[str, str] | None = None) -> Any:
        async def work(performer: Performer) -> Any:
            formed = tuple([await self.kinds.read(one, number) for number, one in enumerate(documents)])
            wish = ApplyWish(documents=formed, remove=remove, prune=prune)
            return (await performer.perform(call(Apply.name, wish), LOCAL)).told

        return self.within(work)

    def undo(self) -> Any:
        """The latest action."""
        past = Past(self.store.journal)
        latest = past.latest(1)[0].id
        return self.within(lambda performer: performer.perform(past.undoing(latest), LOCAL, undoes=latest))

    def there(self) -> list[Document]:
        return [document for kind in self.kinds for document in kind.list()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.store.close()


def service(name: str, /, **spec: Any) -> Document:
    return Document(kind="Service", name=name, spec={"model": "tiny"} | spec, labels={"app": "x"})


def workspace(name: str, **spec: Any) -> Document:
    return Document(kind="Workspace", name=name, spec=spec, labels={"app": "x"})


def federation(**spec: Any) -> Document:
    spec = {"model": "tiny", "participants": ["a", "b"]} | spec
    return Document(kind="Federation", name="f", spec=spec, labels={"app": "x"})


FEDERATION = federation()
ALL = (service("chat", context_length=64), workspace("data", owner="me"), FEDERATION)


def test_what_is_wished_comes_to_be_all_at_once_and_once(bench: Bench) -> None:
    told = bench.apply(*ALL)
    assert told["created"] == ["service/chat", "workspace/data", "federation/f"]
    assert bench.renewed == ["chat"]
    assert (bench.home / "workspaces" / "data").is_dir()
    assert bench.store.service(ServiceName("chat")).spec.context_length == 64
    assert bench.apply(*ALL)["unchanged"] == ["service/chat", "workspace/data", "federation/f"]
    assert bench.renewed == ["chat"], "what changes nothing disturbs nobody"


def test_a_document_is_the_whole_wish(bench: Bench) -> None:
    bench.apply(*ALL)
    assert bench.apply(service("chat"))["changed"] == ["service/chat"]
    assert bench.store.service(ServiceName("chat")).spec.context_length is None


def test_other_labels_disturb_no_worker(bench: Bench) -> None:
    bench.apply(service("chat"))
    bench.apply(dataclasses.replace(service("chat"), labels={"app": "y"}))
    kept = bench.store.service(ServiceName("chat"))
    assert (kept.revision, kept.spec.labels) == (1, {"app": "y"})


def test_undone_it_is_as_it_was(bench: Bench) -> None:
    bench.apply(*ALL)
    before = bench.there()
    bench.apply(service("chat"), service("talk"), remove=("federation/f",))
    bench.undo()
    assert bench.there() == before
    bench.store.journal.append("other", {})
    assert bench.removed == ["talk"]


def test_a_first_apply_undone_leaves_nothing(bench: Bench) -> None:
    bench.apply(*ALL)
    bench.undo()
    assert bench.there() == []
    assert list((bench.home / "workspaces").iterdir()) == []


def test_pruned_is_what_bears_the_label_and_is_not_asked_for(bench: Bench) -> None:
    other = dataclasses.replace(workspace("mine"), labels={"app": "other"})
    bench.apply(*ALL, other)
    assert bench.apply(ALL[0], prune={"app": "x"})["removed"] == ["workspace/data", "federation/f"]
    assert [one.subject for one in bench.there()] == ["service/chat", "workspace/mine"]
    bench.undo()
    assert len(bench.there()) == 4


@pytest.mark.parametrize(
    ("documents", "more", "error", "words"),
    [
        ((service("chat", modle="x"),), {}, BadParameter, "spec.modle"),
        ((service("chat", name="x"),), {}, BadParameter, "metadata.name"),
        ((service("chat", replicas=0),), {}, BadParameter, "replicas"),
        ((service("chat", replicas="2"),), {}, BadParameter, "replicas"),
        ((service("chat", model="a b"),), {}, BadParameter, "a b"),
        ((Document(kind="Service", name="chat"),), {}, BadParameter, "model"),
        ((service(".chat"),), {}, BadParameter, ".chat"),
        ((dataclasses.replace(service("chat"), labels={"a b": "c"}),), {}, BadParameter, "a b"),
        ((dataclasses.replace(service("chat"), labels={"a": "c d"}),), {}, BadParameter, "c d"),
        ((Document(kind="Pod", name="x"),), {}, BadParameter, "no kind of document 'Pod'"),
        ((service("chat"), service("chat")), {}, BadParameter, "twice"),
        ((service("chat"), service("talk", model="gone")), {}, ModelNotFound, "gone"),
        (tuple(service(f"s{number}") for number in range(FREE + 1)), {}, OutOfMemory, "full"),
        ((service("chat"), workspace("data", quota_bytes=5)), {}, NotEnforceable, "workspace/data"),
        ((workspace("data", quota_bytes=0),), {}, BadParameter, "quota_bytes"),
        ((workspace("Data"),), {}, BadParameter, "Data"),
        ((workspace("..x"),), {}, BadParameter, "..x"),
        ((workspace("data", owner="a\nb"),), {}, BadParameter, "owner"),
        ((federation(participants=[]),), {}, BadParameter, "participants"),
        ((federation(participants=["a", "a"]),), {}, BadParameter, "once"),
        (
            (federation(aggregation="x"),),
            {},
            BadParameter,
            "aggregation",
        ),
        ((service("chat"),), {"prune": {}}, BadParameter, "prune needs a label"),
        ((service("chat"),), {"prune": {"app": "y"}}, BadParameter, "does not bear app=y"),
        ((service("chat"),), {"remove": ("chat",)}, BadParameter, "not a document"),
        ((dataclasses.replace(service("chat"), version="v0"),), {}, RevisionConflict, "is not there"),
    ],
)
def test_whatever_forbids_one_of_them_forbids_all(
    bench: Bench, documents: tuple[Document, ...], more: dict[str, Any], error: type[ThaloomError], words: str
) -> None:
    with pytest.raises(error) as caught:
        bench.apply(workspace("before"), *documents, **more)
    assert words in caught.value.message
    assert bench.there() == []
    assert not (bench.home / "workspaces").exists()
    assert bench.store.journal.latest(10) == []


def test_what_is_wrong_is_named_as_the_document_has_it(bench: Bench) -> None:
    with pytest.raises(BadParameter) as caught:
        bench.apply(workspace("data"), service("chat", replicas=99))
    assert (caught.value.param, caught.value.details) == (
        "spec.replicas",
        {"document": 1, "subject": "service/chat"},
    )


def test_there_is_an_end_to_how_many_are_asked_for_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "MAX_DOCUMENTS", 2)
    with pytest.raises(BadParameter, match="at most 2"):
        bench.apply(*ALL)


def test_who_gives_a_version_overwrites_nobody(bench: Bench) -> None:
    bench.apply(service("chat"))
    (kept,) = bench.there()
    mine = dataclasses.replace(service("chat", context_length=32), version=version(kept))
    bench.apply(service("chat", context_length=64))
    with pytest.raises(RevisionConflict) as caught:
        bench.apply(mine)
    (present,) = bench.there()
    assert caught.value.details["version"] == version(present)
    bench.apply(dataclasses.replace(mine, version=version(present)))
    assert bench.store.service(ServiceName("chat")).spec.context_length == 32
    assert bench.apply(dataclasses.replace(mine, version=version(present)))["unchanged"], "asked twice, done once"


def test_a_workspace_is_removed_only_when_nobody_misses_it(bench: Bench) -> None:
    bench.apply(workspace("data"))
    kept = bench.home / "workspaces" / "data" / "result"
    kept.write_text("42")
    with pytest.raises(WrongState, match="not empty"):
        bench.apply(remove=("workspace/data",))
    kept.unlink()
    bench.users = ["job/train"]
    with pytest.raises(WrongState, match="job/train"):
        bench.apply(remove=("workspace/data",))
    bench.users = []
    assert bench.apply(remove=("workspace/data",))["removed"] == ["workspace/data"]


def test_a_workspace_whose_folder_is_gone_says_so_and_is_made_again_on_demand(bench: Bench) -> None:
    bench.apply(workspace("data"))
    folder = bench.home / "workspaces" / "data"
    folder.rmdir()
    status = shown(bench.kinds.of("workspace"), "data")
    assert status is not None
    assert next((one.kind, one.status, one.reason) for one in status.conditions) == ("Ready", False, "FolderMissing")
    assert bench.apply(workspace("data"))["created"] == ["workspace/data"]
    assert folder.is_dir()


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_in_the_way_of_a_workspace_is_left_alone(bench: Bench, what: str, tmp_path: Path) -> None:
    place = bench.home / "workspaces" / "data"
    place.parent.mkdir()
    if what == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path)
    with pytest.raises(WrongState, match="in the way"):
        bench.apply(workspace("data"))
    assert place.is_symlink() == (what == "link")


def test_a_kill_before_the_documents_are_written_leaves_nothing_for_long(bench: Bench) -> None:
    (bench.home / "workspaces" / "half").mkdir(parents=True)
    (bench.home / "workspaces" / "full").mkdir()
    (bench.home / "workspaces" / "full" / "file").write_text("")
    bench.apply(workspace("data"))
    bench.workspaces.sweep()
    assert {one.name for one in (bench.home / "workspaces").iterdir()} == {"data", "full"}


def test_a_federation_says_that_nobody_runs_it(bench: Bench) -> None:
    bench.apply(FEDERATION)
    status = shown(bench.kinds.of("Federation"), "f")
    assert status is not None
    ready, degraded = status.conditions
    assert (ready.status, ready.reason, ready.since, degraded.status) == (False, "NoController", 7.0, False)


def test_documents_come_page_by_page(bench: Bench) -> None:
    for number in range(5):
        bench.apply(workspace(f"w{number}"))
    bench.apply(FEDERATION)
    seen: list[str] = []
    after = None
    while True:
        page = listed(bench.kinds, None, {"app": "x"}, limit=4, after=after)
        assert page.total == 6
        seen += [one.document.subject for one in page.items]
        after = page.next
        if after is None:
            break
    assert seen == [*(f"workspace/w{number}" for number in range(5)), "federation/f"]
    assert listed(bench.kinds, "federation", {}, limit=None, after=None).total == 1
    assert listed(bench.kinds, None, {"app": "y"}, limit=None, after=None).items == ()
    with pytest.raises(BadParameter, match="begin anew"):
        listed(bench.kinds, None, {}, limit=None, after="workspace/none")


def job(name: str, /, *after: str, **spec: Any) -> Document:
    depends_on = {"depends_on": [{"job": other} for other in after]} if after else {}
    return Document(kind="Job", name=name, spec={"command": ["true"]} | depends_on | spec, labels={"app": "x"})


def ended(bench: Bench, name: str) -> None:
    state = JobState(phase="succeeded", since=8.0, ended_by="exit", num_attempts=1)
    bench.store.jobs.set_state(JobName(name), state)


def test_jobs_come_with_what_they_wait_for_and_write_in(bench: Bench) -> None:
    last = job("last", "first", workspaces=["data"], resources={"memory_bytes": 1 << 30})
    assert bench.apply(last, job("first"), workspace("data"))["created"] == ["job/last", "job/first", "workspace/data"]
    kept = bench.store.jobs.get("last")
    assert (kept.spec.workspaces, kept.spec.resources.memory_bytes) == (("data",), 1 << 30)
    assert bench.apply(*bench.there())["created"] == []
    with pytest.raises(WrongState, match="job/last"):
        bench.apply(remove=("workspace/data",))
    with pytest.raises(WrongState, match="not over yet"):
        bench.apply(remove=("job/first",))


def test_a_job_that_is_over_is_run_anew_only_where_its_document_says_something_else(bench: Bench) -> None:
    bench.apply(job("a"))
    ended(bench, "a")
    assert bench.apply(job("a"))["unchanged"] == ["job/a"]
    bench.apply(dataclasses.replace(job("a"), labels={"app": "y"}))
    assert bench.store.jobs.get("a").state.over, "labels run nothing"
    bench.apply(job("a", retries=1))
    assert not bench.store.jobs.get("a").state.over
    past = Past(bench.store.journal)
    with pytest.raises(NothingToUndo, match="runs it anew"):
        past.undoing(past.latest(1)[0].id)
    ended(bench, "a")
    assert bench.apply(remove=("job/a",))["removed"] == ["job/a"]
    assert bench.forgotten == ["a"]


def test_a_job_that_runs_keeps_its_wish_and_so_does_all_that_came_with_it(bench: Bench) -> None:
    bench.apply(job("a"))
    bench.store.jobs.set_state(JobName("a"), JobState(phase="running", since=8.0, num_attempts=1))
    with pytest.raises(WrongState, match="job/a runs"):
        bench.apply(workspace("data"), job("a", retries=3))
    assert [one.subject for one in bench.there()] == ["job/a"]
    bench.apply(dataclasses.replace(job("a"), labels={}))
    assert bench.store.jobs.get("a").spec.labels == {}


def test_what_fails_while_it_is_written_leaves_memory_as_the_disk(bench: Bench) -> None:
    bench.apply(job("a"), service("chat"))
    with pytest.raises(RuntimeError), bench.store.together():
        bench.store.jobs.put(JobSpec(name=JobName("b"), command=("true",)))
        bench.store.delete_service(ServiceName("chat"))
        raise RuntimeError
    assert [one.subject for one in bench.there()] == ["service/chat", "job/a"]


@pytest.mark.parametrize(
    ("documents", "error", "words"),
    [
        ((job("a", "b"), job("b", "a")), BadParameter, "wait for each other: a -> b -> a"),
        ((job("a", "b"), job("b", "c"), job("c", "b")), BadParameter, "b -> c -> b"),
        ((job("a", "none"),), JobNotFound, "none"),
        ((job("a", workspaces=["none"]),), DocumentNotFound, "none"),
        ((job("a", workspaces=["a-b", "a.b"]),), BadParameter, "workspaces"),
        ((job("a", comand=["x"]),), BadParameter, "spec.comand"),
        ((job("a", resources={"cpu": 1}),), BadParameter, "resources.cpu"),
        ((job("a", command=[]),), BadParameter, "command"),
        ((job("A"),), BadParameter, "A"),
    ],
)
def test_jobs_that_cannot_be_are_refused(
    bench: Bench, documents: tuple[Document, ...], error: type[ThaloomError], words: str
) -> None:
    with pytest.raises(error) as caught:
        bench.apply(*documents)
    assert words in caught.value.message
    assert bench.there() == []


NAMES = st.sampled_from(["a", "b", "c"])
LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y", ""]), max_size=2)
SERVICES = st.builds(
    lambda name, labels, spec: Document(kind="Service", name=name, labels=labels, spec={"model": "tiny"} | spec),
    NAMES,
    LABELS,
    st.fixed_dictionaries(
        {},
        optional={
            "context_length": st.integers(1, 99),
            "replicas": st.integers(1, 2),
            "prefix_reuse": st.booleans(),
            "token_s": st.floats(0, 9),
            "pin_share": st.floats(0, 1),
            "device": st.none(),
            "kv_dtype": st.sampled_from([None, "f16"]),
        },
    ),
)
WORKSPACES = st.builds(
    lambda name, labels, owner: Document(kind="Workspace", name=name, labels=labels, spec={"owner": owner}),
    NAMES,
    LABELS,
    st.sampled_from(["", "me"]),
)
WISHES = st.lists(SERVICES | WORKSPACES, max_size=4, unique_by=lambda one: one.subject)


@settings(max_examples=25)
@given(st.lists(WISHES, min_size=1, max_size=3))
def test_what_is_exported_changes_nothing_and_everything_can_be_taken_back(
    tmp_path_factory: pytest.TempPathFactory, wishes: list[list[Document]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("b"))
    with contextlib.closing(bench.store):
        for wish in wishes:
            before = bench.there()
            bench.apply(*wish)
            after = bench.there()
            assert not {word for word in ("created", "changed", "removed") if bench.apply(*after)[word]}
            if after != before:
                bench.apply(*before, remove=tuple({one.subject for one in after} - {one.subject for one in before}))
                assert bench.there() == before
                bench.apply(*wish)
                assert bench.there() == after
