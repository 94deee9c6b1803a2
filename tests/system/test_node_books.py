"""What is written down before and after, and what a kill in between leaves of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import make_model
from tests.system.node import PATIENCE_S, TINY, Node, eventually, node
from thaloom.base.clock import SystemClock
from thaloom.base.errors import BadParameter, DeadlineExceeded, ThaloomError
from thaloom.base.ids import ServiceName
from thaloom.edge.wire.control import PullRequest, ServeRequest
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import ServiceSpec

__all__ = ["node"]

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def books_of(node: Node) -> Iterator[StateStore]:
    """The state of a node that is down."""
    with contextlib.closing(StateStore(node.home / "state.db", SystemClock())) as store:
        yield store


def down(node: Node) -> None:
    with node.client() as client:
        client.down()
    assert node.daemon.wait(timeout=30) == 0


def test_every_action_is_in_the_journal_before_and_after(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    down(node)
    with books_of(node) as store:
        journal = store.journal.latest(100)
        assert store.leases() == []
    intents = {entry.action: entry for entry in journal if entry.phase == "intent"}
    outcomes = {entry.action: entry for entry in journal if entry.phase == "outcome"}
    assert intents.keys() == outcomes.keys()
    kinds = [entry.kind for entry in reversed(journal) if entry.phase == "intent"]
    assert kinds == [
        *("StartDoor", "model.import", "service.serve", "StartWorker"),
        *("node.down", "StopDoor", "Forget", "StopWorker", "Forget"),
    ]
    assert all(intents[action].id < outcomes[action].id for action in intents)
    assert all(entry.data.get("done") or entry.data.get("ending") == "done" for entry in outcomes.values())
    (start,) = [entry for entry in intents.values() if entry.kind == "StartWorker"]
    assert start.data["service"] == "tiny"
    assert start.data["needed_bytes"] > TINY.joinpath("model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ServiceSpec(name=ServiceName("x"), model="gone"), "ModelNotFound"),
        (ServiceSpec(name=ServiceName("x"), model="tiny", kv_bytes=1 << 50), "OutOfMemory"),
        (ServiceSpec(name=ServiceName("x"), model="tiny", device="gpu:7"), "DeviceNotFound"),  # type: ignore[arg-type]
    ],
)
def test_a_wish_that_cannot_be_met_any_more_is_held_and_says_why(node: Node, spec: ServiceSpec, reason: str) -> None:
    node.start()
    with node.client() as client:
        client.pull(PullRequest(source=str(TINY), name="tiny"))
    down(node)
    with books_of(node) as store:
        store.put_service(spec)
    node.start()
    with node.client() as client:
        service = client.service("x")
        ready = service.condition("Ready")
        assert (service.phase, service.pid) == ("pending", None)
        assert ready is not None
        assert (ready.status, ready.reason) == (False, reason)
        with pytest.raises(DeadlineExceeded):
            client.wait_ready("x", timeout_s=0)
        assert any(event.name == "ServiceHeld" for event in client.events())
        node.serve_tiny()  # and it is in nobody's way
        client.stop("x")


def test_a_held_wish_is_met_when_its_model_comes(node: Node) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text("tick_s = 600\n")
    with books_of(node) as store:
        store.put_service(ServiceSpec(name=ServiceName("tiny"), model="tiny"))
    node.start()
    with node.client() as client:
        assert client.service("tiny").phase == "pending"
        client.pull(PullRequest(source=str(TINY), name="tiny"))
        client.wait_ready("tiny", timeout_s=30)


def test_a_kill_at_any_moment_of_a_start_leaves_one_worker_or_none(node: Node) -> None:
    """Never two, never one that nobody knows of."""
    node.start()
    with node.client() as client:
        client.pull(PullRequest(source=str(TINY), name="tiny"))
    for round_number in range(6):
        name = f"s{round_number}"
        asking = threading.Thread(target=ask, args=(node, name))
        asking.start()
        asking.join(0.012 * round_number)
        node.kill(node.daemon.pid)
        asking.join(30)
        node.start()
        with node.client() as client:
            if name not in [service.name for service in client.services()]:
                client.serve(name, ServeRequest(model="tiny"))
            worker = client.wait_ready(name, timeout_s=30).pid
            assert workers(node) == [worker]
            client.stop(name)
            eventually(lambda: workers(node) == [])


def ask(node: Node, name: str) -> None:
    with contextlib.suppress(ThaloomError), node.client() as client:
        client.serve(name, ServeRequest(model="tiny"))


def workers(node: Node) -> list[int]:
    """By the machine's account, not the node's."""
    return node.process_pids("thaloom.worker")


def test_a_service_whose_model_was_replaced_says_so_and_goes_on(node: Node, tmp_path: Path) -> None:
    node.start()
    node.serve_tiny()
    with node.client() as client:
        before = client.service("tiny")
        client.pull(PullRequest(source=str(make_model(tmp_path / "other")), name="tiny", replace=True))
        outdated = eventually(lambda: client.service("tiny").condition("Outdated"))
        assert outdated.reason == "ModelReplaced"
        assert client.service("tiny").pid == before.pid
        assert client.service("tiny").phase == "ready"
        client.stop("tiny")
        client.serve("tiny", ServeRequest(model="tiny", num_threads=1))
        client.wait_ready("tiny", timeout_s=PATIENCE_S)
        assert client.service("tiny").condition("Outdated") is None


def test_a_wish_that_can_never_be_met_leaves_the_healthy_one_alone(node: Node) -> None:
    node.start()
    node.serve_tiny()
    with node.client() as client:
        before = client.service("tiny")
        for wish in (ServeRequest(model="tiny", context_length=1 << 30), ServeRequest(model="tiny", kv_bytes=1)):
            with pytest.raises(BadParameter):
                client.serve("tiny", wish)
        assert client.service("tiny").pid == before.pid
        assert client.service("tiny").phase == "ready"
