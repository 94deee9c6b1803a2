"""Names that stand for services: what is refused, what is kept, when a canary goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import AliasNotFound, BadParameter, NameTaken, RevisionConflict, ServiceNotFound
from thaloom.base.events import Recorder
from thaloom.base.ids import ServiceName
from thaloom.init.aliasing import Aliasing
from thaloom.init.events import CanaryGone
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Alias, ServiceSpec, Share

OLD, NEW, CHAT = ServiceName("old"), ServiceName("new"), ServiceName("chat")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.store = StateStore(folder / "state.db", ManualClock(5.0))
        for name in (OLD, NEW):
            self.store.put_service(ServiceSpec(name=name, model="m"))
        self.events = Recorder()
        self.told = 0
        self.aliasing = Aliasing(self.store, self.events, self.wake)

    def wake(self) -> None:
        self.told += 1


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def alias(canary: ServiceName | None = NEW) -> Alias:
    return Alias(name=CHAT, shares=(Share(service=OLD, weight=9), Share(service=NEW)), canary=canary)


def test_what_is_kept_survives_and_counts_its_changes(bench: Bench, tmp_path: Path) -> None:
    kept = bench.aliasing.put(alias())
    assert (kept.revision, kept.created_at, bench.told) == (1, 5.0, 1)
    assert bench.aliasing.put(alias()) == kept, "the same again changes nothing"
    assert bench.aliasing.put(alias(canary=None)).revision == 2
    with pytest.raises(RevisionConflict):
        bench.store.put_alias(alias(), expected_revision=1)
    again = StateStore(tmp_path / "state.db", ManualClock(9.0))
    assert again.aliases() == list(bench.aliasing.list())
    again.close()


def test_a_canary_goes_once_and_only_for_its_own_revision(bench: Bench) -> None:
    first = bench.aliasing.put(alias())
    assert bench.aliasing.send_home(CHAT, first.revision + 1, "slow").returned == ""
    gone = bench.aliasing.send_home(CHAT, first.revision, "slow")
    assert (gone.returned, gone.revision) == ("slow", 2)
    assert bench.aliasing.send_home(CHAT, gone.revision, "late").returned == "slow"
    assert len(bench.events.of(CanaryGone)) == 1
    assert bench.aliasing.put(alias()).returned == "", "wished again, it is tried again"


def test_names_do_not_meet(bench: Bench) -> None:
    with pytest.raises(NameTaken):
        bench.aliasing.put(Alias(name=OLD, shares=(Share(service=NEW),)))
    with pytest.raises(ServiceNotFound):
        bench.aliasing.put(Alias(name=CHAT, shares=(Share(service=ServiceName("gone")),)))
    bench.aliasing.put(alias())
    with pytest.raises(NameTaken):
        bench.aliasing.refuse_name(CHAT)
    bench.aliasing.remove(CHAT)
    bench.aliasing.refuse_name(CHAT)
    for ask in (bench.aliasing.get, bench.aliasing.remove):
        with pytest.raises(AliasNotFound):
            ask(CHAT)


@pytest.mark.parametrize(
    "changes",
    [
        {"shares": ()},
        {"shares": (Share(service=OLD), Share(service=OLD))},
        {"shares": (Share(service=OLD, weight=-1),)},
        {"shares": (Share(service=OLD, weight=1001),)},
        {"shares": (Share(service=OLD, weight=0),)},
        {"shares": (Share(service=OLD),), "canary": NEW},
        {"shares": (Share(service=OLD, weight=0), Share(service=NEW)), "canary": NEW},
        {"shares": (Share(service=CHAT),)},
    ],
)
def test_an_alias_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Alias(**{"name": CHAT} | changes)  # type: ignore[arg-type]
