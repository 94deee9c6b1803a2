"""Memory of keys and values on a real node: it comes with the need, goes where it is needed more, and is paid back."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence

import pytest

from tests.models import make_model
from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.base.procs import resident_bytes
from thaloom.base.units import MIB
from thaloom.edge.wire.control import JobRequest, JobResources, PullRequest, ServeRequest
from thaloom.kernel.memory.board import PAGE_BYTES, Board, Pool
from thaloom.kernel.memory.sharing import Share

__all__ = ["node"]

pytestmark = pytest.mark.slow

CONTEXT = 512
TOKEN_BYTES = 2 * 16 * 16 * 128 * 2
"""Keys and values of a token: 128 KiB, so that one context is 64 MiB."""
PROMPT = 500


def serve(node: Node, name: str = "wide", **wish: object) -> None:
    folder = make_model(
        node.home / "made",
        hidden_size=64,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=128,
        max_position_embeddings=CONTEXT,
    )
    with node.client() as client:
        client.pull(PullRequest(source=str(folder), name="wide"))
        client.serve(name, ServeRequest(model="wide", num_threads=1, **wish))  # type: ignore[arg-type]
        client.wait_ready(name, timeout_s=PATIENCE_S)
    node.wait_for_door()


def complete(node: Node, prompt: Sequence[int], name: str = "wide", max_tokens: int = 4) -> str:
    fields = {"model": name, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{node.url}/v1/completions", json.dumps(fields).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return str(json.load(answer)["choices"][0]["text"])


def pool(node: Node) -> Pool:
    board = Board.open(node.home / "run" / "pages")
    board.check()
    found = board.look()
    board.close()
    return found


def share(node: Node, name: str = "wide") -> Share:
    worker = node.process("worker", name).id
    return next(share for share in pool(node).shares if share.owner == worker)


def prompt(number: int) -> list[int]:
    return [5 + number] * PROMPT


def test_memory_comes_with_the_need_beyond_what_is_promised(node: Node) -> None:
    node.start()
    serve(node)
    before = share(node)
    assert before.held == before.floor >= CONTEXT * TOKEN_BYTES // PAGE_BYTES
    resident = resident_bytes(node.process("worker").pid) or 0
    answers = [complete(node, prompt(number)) for number in range(5)]
    after = share(node)
    assert after.held >= 3 * before.floor
    assert (resident_bytes(node.process("worker").pid) or 0) - resident > 200 * MIB
    assert [complete(node, prompt(number)) for number in range(5)] == answers


def test_what_is_asked_back_is_given_back(node: Node) -> None:
    """The board is made smaller, as a daemon does for who books memory: the cache goes, its memory is the system's
    again, answers stay. No daemon is there meanwhile, for that would measure what the whole machine has."""
    node.start()
    serve(node)
    answers = [complete(node, prompt(number)) for number in range(6)]
    full, pid = share(node), node.process("worker").pid
    resident = resident_bytes(pid) or 0
    node.kill(node.daemon.pid)
    board = Board.open(node.home / "run" / "pages")
    board.resize(full.floor + 4)
    eventually(lambda: board.look().shares[0].held <= full.floor + 4)
    eventually(lambda: (resident_bytes(pid) or 0) < resident - 64 * MIB)
    assert board.look().num_pages == full.floor + 4
    assert [complete(node, prompt(number)) for number in range(6)] == answers
    assert board.look().shares[0].held <= full.floor + 4
    board.resize(10 * full.floor)
    assert [complete(node, prompt(number)) for number in range(6)] == answers
    assert board.look().shares[0].held >= 3 * full.floor
    board.check()
    board.close()


def test_a_job_that_fits_beside_what_is_lent_begins(node: Node) -> None:
    node.start()
    serve(node)
    answer = complete(node, prompt(1))
    resources = JobResources(memory_bytes=256 * MIB)
    with node.client() as client:
        client.run_job("small", JobRequest(command=["true"], resources=resources))
        assert client.wait_job("small", timeout_s=PATIENCE_S).phase == "succeeded"
    assert complete(node, prompt(1)) == answer


def test_pages_are_lent_while_the_daemon_is_away_and_a_killed_worker_owes_nothing(node: Node) -> None:
    node.start()
    serve(node)
    worker = node.process("worker")
    node.kill(node.daemon.pid)
    answers = [complete(node, prompt(number)) for number in range(3)]
    held = pool(node).shares[0].held
    assert held > pool(node).shares[0].floor
    node.start()
    assert share(node).held == held
    node.kill(worker.pid)
    with node.client() as client:
        eventually(lambda: all(process.id != worker.id for process in client.processes()))
        eventually(lambda: any(process.role == "worker" for process in client.processes()))
        client.wait_ready("wide", timeout_s=PATIENCE_S)
    node.wait_for_door()
    (only,) = pool(node).shares
    assert only.held == only.floor
    assert [complete(node, prompt(number)) for number in range(3)] == answers


def test_what_is_asked_for_by_bytes_is_promised_and_no_more(node: Node) -> None:
    node.start()
    serve(node, kv_bytes=128 * MIB)
    for number in range(4):
        complete(node, prompt(number))
    now = share(node)
    assert now.held == now.floor == 128 * MIB // PAGE_BYTES


def test_a_damaged_board_stops_nobody(node: Node) -> None:
    node.start()
    serve(node)
    node.kill(node.daemon.pid)
    path = node.home / "run" / "pages"
    path.rename(node.home / "run" / "pages.away")
    path.write_bytes(b"nonsense" * 4000)
    node.start()
    complete(node, prompt(1))
    serve(node, "second")
    complete(node, prompt(2), "second")
    assert {one.owner for one in pool(node).shares} == {node.process("worker", "second").id}
