"""Several workers of one service, and names that stand for services, on the real node."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.system.cli import thaloom
from tests.system.node import Node, eventually, node
from thaloom.edge.wire.control import PullRequest, ServeRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow

SMALL = {"num_threads": 1, "context_length": 128, "max_sequences": 4}


def serve(node: Node, name: str, **wish: int) -> None:
    with node.client() as client:
        if not client.models():
            client.pull(PullRequest(source="tiny"))
        client.serve(name, ServeRequest.model_validate({"model": "tiny"} | SMALL | wish))
        client.wait_ready(name, timeout_s=30)


def complete(node: Node, model: str) -> httpx2.Response:
    body = {"model": model, "prompt": "The socket option", "max_tokens": 8, "temperature": 0}
    return httpx2.post(f"{node.url}/v1/completions", json=body, timeout=30, trust_env=False)


def workers(node: Node, service: str) -> list[int]:
    with node.client() as client:
        return [process.pid for process in client.processes() if process.service == service]


def ready_replicas(node: Node, service: str) -> int:
    with node.client() as client:
        return client.service(service).ready_replicas


def test_replicas_share_the_work_and_one_may_die(node: Node) -> None:
    node.start()
    serve(node, "tiny", replicas=2)
    node.wait_for_door()
    eventually(lambda: ready_replicas(node, "tiny") == 2)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: complete(node, "tiny"), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    metrics = httpx2.get(f"{node.url}/metrics", trust_env=False).text
    served = [line for line in metrics.splitlines() if line.startswith("thaloom_worker_requests_total")]
    assert sum(float(line.split()[-1]) for line in served) >= 16

    os.kill(workers(node, "tiny")[0], signal.SIGKILL)
    assert [complete(node, "tiny").status_code for _ in range(6)] == [200] * 6
    eventually(lambda: ready_replicas(node, "tiny") == 2)


def test_fewer_replicas_take_workers_away_and_a_new_wish_replaces_one_after_the_other(node: Node) -> None:
    node.start()
    serve(node, "tiny", replicas=2)
    node.wait_for_door()
    eventually(lambda: ready_replicas(node, "tiny") == 2)
    before = set(workers(node, "tiny"))
    serve(node, "tiny", replicas=2, max_queue=7)
    least = 2
    while set(workers(node, "tiny")) & before:
        least = min(least, ready_replicas(node, "tiny"))
        assert complete(node, "tiny").status_code == 200
    assert least >= 1
    serve(node, "tiny", replicas=1, max_queue=7)
    eventually(lambda: len(workers(node, "tiny")) == 1)


def test_an_alias_is_served_shown_and_removed(node: Node) -> None:
    node.start()
    serve(node, "old")
    serve(node, "new")
    node.wait_for_door()
    told = thaloom(node, "alias", "set", "chat", "old=1", "new=1", "--canary", "new", "--json")
    assert told.code == 0, told.err
    assert told.document["canary"] == "new"
    eventually(lambda: complete(node, "chat").status_code == 200)
    names = [model["id"] for model in httpx2.get(f"{node.url}/v1/models", trust_env=False).json()["data"]]
    assert names == ["new", "old", "chat"]
    with node.client() as client:
        client.return_canary("chat", told.document["revision"], "it was slow")
    assert "it was slow" in thaloom(node, "alias", "ls").out
    for words, code in (
        (["alias", "set", "old", "new"], "name_taken"),
        (["alias", "set", "x", "nobody"], "service_not_found"),
        (["alias", "set", "x", "old=0"], "bad_parameter"),
        (["alias", "set", "x", "old", "--canary", "new"], "bad_parameter"),
        (["serve", "tiny", "--name", "chat"], "name_taken"),
        (["alias", "rm", "nobody"], "alias_not_found"),
    ):
        refused = thaloom(node, *words, "--json")
        assert refused.error["code"] == code, words
    assert thaloom(node, "alias", "set", "x", "old=much").code == 2
    assert thaloom(node, "alias", "rm", "chat").code == 0
    eventually(lambda: complete(node, "chat").status_code == 404)
