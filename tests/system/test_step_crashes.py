"""A daemon that is killed at any write of the journal, the steps of its reconciler among them (a worker or the door
started, ended, forgotten), leaves a machine with which the next daemon reaches what is wished, with nothing twice and
nothing left over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException

import pytest

from tests.system.killing import points
from tests.system.node import PATIENCE_S, TINY, Node, eventually, node
from thaloom.base.actions import Terms
from thaloom.base.clock import SystemClock
from thaloom.base.errors import NodeNotRunning
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import PullRequest, ServeRequest
from thaloom.init.layout import Layout
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import JournalEntry
from thaloom.kernel.trust.seals import node_key, sealing

__all__ = ["node"]

pytestmark = pytest.mark.slow
NUM_WRITES = 32
"""Of an undisturbed run: two for each action that is asked for, and for each step."""

STEP_KINDS = {"model.import", "service.serve", "service.stop", "node.down"}
"""What is asked for in it."""


def serve(client: ControlClient, context_length: int) -> None:
    client.serve("chat", ServeRequest(model="tiny", num_threads=1, context_length=context_length))


def lose_worker(client: ControlClient, node: Node) -> None:
    lost = client.service("chat").pid
    if lost is not None:
        node.kill(lost)
    eventually(lambda: client.service("chat").pid not in (None, lost))


def ready(client: ControlClient) -> None:
    client.wait_ready("chat", timeout_s=PATIENCE_S)


STEPS: list[Callable[[ControlClient, Node], object]] = [
    lambda client, _: client.pull(PullRequest(source=str(TINY), name="tiny")),
    lambda client, _: serve(client, 64),
    lambda client, _: ready(client),
    lambda client, _: serve(client, 128),
    lambda client, _: ready(client),
    lose_worker,
    lambda client, _: ready(client),
    lambda client, _: client.stop("chat"),
    lambda client, node: eventually(lambda: not workers(client)),
]


DEAD = (NodeNotRunning, OSError, HTTPException)
"""How a call ends when the daemon does."""


def workers(client: ControlClient) -> list[int]:
    return [process.pid for process in client.processes() if process.role == "worker"]


def is_up(node: Node) -> bool:
    """Whether it answers. It may end in the middle of that: the test is about its end."""
    with suppress(*DEAD), node.client() as client:
        return client.status().pid > 0
    return False


def go_through(node: Node) -> None:
    """Each step until it is done, once by its id; where the daemon dies of it, with the next daemon."""
    for number, step in enumerate(STEPS):
        while True:
            with suppress(*DEAD), node.client() as client, client.on_terms(Terms(action=f"step-{number}")):
                step(client, node)
                break
            if node.daemon.poll() is not None:
                node.start()


def leave_nothing(node: Node) -> None:
    """The door alone is left, then nothing; the books say the same."""
    while True:
        with suppress(*DEAD), node.client() as client:
            assert client.services() == []
            assert client.verify_journal().faults == []
            client.down()
        if node.daemon.wait(PATIENCE_S) == 0:
            break
        node.start()
    assert [process.pid for process in node.processes_of_home()] == []
    layout = Layout(node.home)
    with contextlib.closing(StateStore(layout.state, SystemClock(), seal=sealing(node_key(layout.node_key)))) as store:
        assert list(store.leases()) == []
        assert store.journal.unfinished() == []
        assert store.journal.verify().faults == ()
    assert [path.name for path in layout.run.rglob("w-*")] == []


def entries(node: Node) -> list[JournalEntry]:
    layout = Layout(node.home)
    with contextlib.closing(StateStore(layout.state, SystemClock(), seal=sealing(node_key(layout.node_key)))) as store:
        return store.journal.latest(1000)


def test_an_undisturbed_run_has_as_many_writes_as_are_tried(node: Node) -> None:
    node.start()
    go_through(node)
    leave_nothing(node)
    written = entries(node)
    assert len(written) == NUM_WRITES
    assert {entry.kind for entry in written} >= STEP_KINDS


@pytest.mark.parametrize(("number", "when"), points(NUM_WRITES))
def test_the_next_daemon_goes_on_after_a_kill_at_each_write(number: int, when: str, node: Node) -> None:
    killed = node.launch(str(number), when, module="tests.system.killing")
    eventually(lambda: killed.poll() is not None or is_up(node))
    if killed.poll() is not None:
        node.start()
    go_through(node)
    leave_nothing(node)
