"""Keys on a real node: made through its socket, asked for by its door, and neither forgotten nor bypassed."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx2
import openai
import pytest

from tests.system.node import Node, eventually, node
from thaloom.base.errors import Unauthorized
from thaloom.edge.client.openai import OpenAIClient
from thaloom.edge.wire.control import KeyRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow

ASK = {"model": "tiny", "prompt": "The socket option", "max_tokens": 4}


def ask(node: Node, key: str | None = None) -> httpx2.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx2.post(f"{node.url}/v1/completions", json=ASK, headers=headers, timeout=30.0, trust_env=False)


def streamed(node: Node, key: str | None) -> list[dict[str, Any]]:
    with OpenAIClient(node.url, api_key=key) as client:
        with client.stream("/v1/completions", ASK | {"stream": True}) as chunks:
            return list(chunks)


def answers(node: Node) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return httpx2.get(f"{node.url}/healthz", trust_env=False).status_code == 200
    return False


def test_a_node_with_keys(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    assert ask(node).status_code == 200
    assert ask(node, "sk-none").status_code == 200, "without keys, what clients send means nothing"
    with node.client() as client:
        alice = client.make_key(KeyRequest(name="alice", requests_per_minute=600)).secret
        bob = client.make_key(KeyRequest(name="bob", requests_per_minute=1, models=["tiny"])).secret
    assert ask(node).status_code == 401, "from the moment the key is made"
    assert ask(node, alice).status_code == 200
    assert ask(node, bob).status_code == 200
    refused = ask(node, bob)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    # The control API is no way around it.
    for path in ("status", "keys", "./keys", "%6beys"):
        url = f"{node.url}/thaloom/v1/{path}"
        assert httpx2.get(url, headers={"authorization": f"Bearer {alice}"}, trust_env=False).status_code == 403, path
    # The field's client, and ours.
    theirs = openai.OpenAI(base_url=f"{node.url}/v1", api_key=alice, max_retries=0)
    assert theirs.completions.create(model="tiny", prompt="The", max_tokens=2).choices[0].text
    theirs.close()
    with (
        OpenAIClient(node.url, api_key=alice) as ours,
        ours.stream("/v1/completions", ASK | {"stream": True}) as chunks,
    ):
        assert list(chunks)
    with OpenAIClient(node.url) as ours, pytest.raises(Unauthorized):
        with ours.stream("/v1/completions", ASK | {"stream": True}) as chunks:
            list(chunks)

    node.kill(node.process("door").pid)  # the next door knows the keys
    eventually(lambda: answers(node))
    assert ask(node).status_code == 401
    assert ask(node, alice).status_code == 200
    node.kill(node.daemon.pid)  # and so it does without a daemon, and after one
    assert ask(node).status_code == 401
    assert ask(node, alice).status_code == 200
    node.start()
    node.wait_for_door()
    assert ask(node).status_code == 401
    with node.client() as client:
        client.remove_key("alice")
        assert ask(node, alice).status_code == 401
        client.remove_key("bob")
    assert ask(node).status_code == 200, "without any key nobody is asked for one"


def test_keys_that_are_not_required(node: Node) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text("require_keys = false\n")
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    with node.client() as client:
        alice = client.make_key(KeyRequest(name="alice", requests_per_minute=1)).secret
        assert not client.keys().required
    assert ask(node).status_code == 200
    assert [ask(node, alice).status_code for _ in range(2)] == [200, 429]
    assert ask(node).status_code == 200


def test_through_the_door_nobody_makes_the_first_key(node: Node) -> None:
    node.start()
    node.wait_for_door()
    url = f"{node.url}/thaloom/v1/keys"
    assert httpx2.post(url, json={"name": "mallory"}, trust_env=False).status_code == 403
    assert httpx2.get(f"{node.url}/thaloom/v1/status", trust_env=False).status_code == 200
    with node.client() as client:
        assert client.keys().keys == []
