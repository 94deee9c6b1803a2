"""Weights that outlive their worker, on the real node: whoever comes next attaches, and answers the same."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.random_models import Shape, make

from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.base import memory_files
from thaloom.edge.wire.control import PullRequest, ServeRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow

LARGE = Shape(
    family="llama", layers=2, hidden=1024, mlp=4096, heads=8, kv_heads=8, head_size=128, vocab=4096, context=512,
    rope_theta=1e4,
)  # fmt: skip
"""Some 40 million parameters: more than weights.WORTH_KEEPING, and made in a second."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(LARGE, tmp_path_factory.mktemp("large") / "model")


def serve(node: Node, model: Path, **wish: Any) -> None:
    with node.client() as client:
        if not client.models():
            client.pull(PullRequest(source=str(model), name="large"))
        client.serve("large", ServeRequest.model_validate({"model": "large", "num_threads": 1} | wish))
        client.wait_ready("large", timeout_s=PATIENCE_S)
    node.wait_for_door()


def answer(node: Node) -> str:
    return node.answer("large", max_tokens=12)


def shared(pid: int) -> set[int]:
    """The memory files for weights that a process holds, by their numbers on the host."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if (memory_files.name_of(int(path.name), pid) or "").startswith("thaloom-weights-"):
            found.add(path.stat().st_ino)
    return found


def started(node: Node) -> list[dict[str, Any]]:
    """What each worker told of itself when it was ready."""
    lines = (node.home / "logs" / "large.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in events if event.get("event") == "WorkerReady"]


def workers(node: Node) -> list[int]:
    with node.client() as client:
        return [process.pid for process in client.processes() if process.service == "large"]


def booked(node: Node) -> int:
    with node.client() as client:
        return max(memory.reserved_bytes for memory in client.status().memory)


def test_a_killed_worker_attaches_and_answers_the_same(node: Node, large: Path) -> None:
    node.start()
    serve(node, large)
    first, wanted = workers(node)[0], answer(node)
    (kept,) = shared(first)
    reserved = booked(node)
    healed = node.heal("large")
    assert answer(node) == wanted
    assert shared(healed) == {kept}
    assert len(started(node)) == 2
    assert all(told["shared_weight_bytes"] == told["weight_bytes"] > 0 for told in started(node))
    eventually(lambda: abs(booked(node) - reserved) < 64 << 20)


def test_replicas_share_one_and_it_is_booked_once(node: Node, large: Path) -> None:
    node.start()
    serve(node, large)
    alone, wanted = booked(node), answer(node)
    weights = started(node)[0]["weight_bytes"]
    (before,) = workers(node)
    serve(node, large, replicas=2)
    with node.client() as client:
        eventually(lambda: client.service("large").ready_replicas == 2 and before not in workers(node))
    eventually(lambda: len(workers(node)) == 2)
    one, two = workers(node)
    assert shared(one) == shared(two) != set()
    assert {answer(node) for _ in range(4)} == {wanted}
    eventually(lambda: booked(node) - alone < 2 * weights)  # the second is measured, not estimated, once it is ready
    for pid in (one, two):
        assert os.access(f"/proc/{pid}/maps", os.R_OK)
        (line,) = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "thaloom-weights-" in line]
        assert line.split()[1] == "r--s"


def test_a_later_daemon_finds_it_with_the_worker_it_adopts(node: Node, large: Path) -> None:
    node.start()
    serve(node, large)
    first, wanted = workers(node)[0], answer(node)
    kept = shared(first)
    node.kill(node.daemon.pid)
    node.start()
    assert workers(node) == [first]
    assert shared(node.heal("large")) == kept
    assert answer(node) == wanted


def test_a_worker_killed_while_it_fills_leaves_nothing_that_looks_whole(node: Node, large: Path) -> None:
    """Killed as soon as it is there, and a little later each time: what it leaves is not taken for weights."""
    node.start()
    with node.client() as client:
        client.pull(PullRequest(source=str(large), name="large"))
        for delay_s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6):
            client.serve("large", ServeRequest(model="large", num_threads=1))
            pid = eventually(lambda: workers(node))[0]
            time.sleep(delay_s)
            node.kill(pid)
            client.stop("large")
            eventually(lambda: not workers(node))
    serve(node, large)
    wanted = answer(node)
    assert started(node)[-1]["shared_weight_bytes"] > 0
    node.heal("large")
    assert answer(node) == wanted


def test_what_nobody_uses_goes_with_its_model(node: Node, large: Path) -> None:
    node.start()
    serve(node, large)
    with node.client() as client:
        client.stop("large")
        eventually(lambda: not workers(node))
        eventually(lambda: not any(memory.reserved_bytes for memory in client.status().memory))
        assert shared(node.daemon.pid)  # in case somebody comes back
        client.remove_model("large")
        assert not shared(node.daemon.pid)
        assert [event.name for event in client.events()].count("SharedWeightsDropped") == 1


def test_weights_of_an_encrypted_model_lie_in_no_shared_memory(node: Node, large: Path) -> None:
    node.home.mkdir(parents=True, exist_ok=True)
    key = node.home / "master.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    node.start()
    with node.client() as client:
        client.pull(PullRequest(source=str(large), name="large", encrypt=True))
    serve(node, large)
    assert shared(workers(node)[0]) == set()
    assert started(node)[0]["shared_weight_bytes"] == 0
