"""Services that nobody asks anything give their memory back, and are there again for the next who asks."""

from __future__ import annotations

import httpx2
import pytest

from tests.system.node import Node, eventually, node
from thaloom.edge.wire.control import PullRequest, ServeRequest, Service

__all__ = ["node"]

pytestmark = pytest.mark.slow

SMALL = {"num_threads": 1, "context_length": 128, "max_sequences": 4}
NOW = 0.1
"""Kept for no longer than this: idle as soon as the node looks."""


def start(node: Node) -> None:
    """With a heart that beats often, so that what is idle is seen soon."""
    node.home.mkdir(parents=True, exist_ok=True)
    (node.home / "config.toml").write_text("heartbeat_s = 0.05\ntick_s = 0.2\n")
    node.start()


def serve(node: Node, name: str = "tiny", **wish: float) -> None:
    with node.client() as client:
        client.pull(PullRequest(source="tiny"))
        client.serve(name, ServeRequest.model_validate({"model": "tiny"} | SMALL | wish))
        client.wait_ready(name, timeout_s=30)
    node.wait_for_door()


def seen(node: Node, name: str = "tiny") -> Service:
    with node.client() as client:
        return client.service(name)


def workers(node: Node) -> list[int]:
    return node.process_pids("thaloom.worker")


def until_idle(node: Node, name: str = "tiny") -> None:
    eventually(lambda: seen(node, name).phase == "idle")


def complete(node: Node, model: str = "tiny", **changes: object) -> httpx2.Response:
    body = {"model": model, "prompt": "The socket option", "max_tokens": 4, "temperature": 0} | changes
    return httpx2.post(f"{node.url}/v1/completions", json=body, timeout=60, trust_env=False)


def test_what_nobody_asks_is_unloaded_and_the_next_request_wakes_it(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=NOW)
    until_idle(node)
    eventually(lambda: workers(node) == [])
    told = seen(node)
    assert told.pid is None
    assert told.idle_since is not None
    answer = complete(node)
    assert answer.status_code == 200, answer.text
    until_idle(node)
