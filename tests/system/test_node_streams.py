"""An answer under way while a process of the node is killed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from tests.system.node import Node, eventually, node

__all__ = ["node"]

LONG = {
    "model": "tiny",
    "prompt": "The socket option",
    "stream": True,
    "max_tokens": 900,
    "ignore_eos": True,
    "temperature": 0,
}


@contextlib.contextmanager
def answer(node: Node) -> Iterator[Iterator[str]]:
    """The events of one long answer, as text after `data: `."""
    with httpx2.Client(timeout=30.0, trust_env=False) as client:
        with client.stream("POST", f"{node.url}/v1/completions", json=LONG) as response:
            assert response.status_code == 200, response.read()
            yield (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))


def running(node: Node) -> int:
    with node.client() as client:
        return client.service("tiny").running


def ready(node: Node) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text("heartbeat_s = 0.05\n")
    node.start()
    node.serve_tiny()
    node.wait_for_door()


def test_a_killed_daemon_is_not_noticed_by_who_streams_nor_by_who_comes(node: Node) -> None:
    ready(node)
    with answer(node) as events:
        next(events)
        node.kill(node.daemon.pid)
        rest = list(events)
    assert rest[-1] == "[DONE]"
    reasons = [choice["finish_reason"] for event in rest[:-1] for choice in json.loads(event)["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]
    with answer(node) as events:
        assert list(events)[-1] == "[DONE]"


def test_a_killed_worker_ends_its_streams_with_a_typed_error(node: Node) -> None:
    ready(node)
    worker = node.process("worker").pid  # before: once it answers there is no time to lose
    with answer(node) as events:
        next(events)
        node.kill(worker)
        killed_at = time.monotonic()
        rest = list(events)
    assert time.monotonic() - killed_at < 15  # the promise is 2 s; this is not the place to measure a busy machine
    errors = [json.loads(event) for event in rest if event != "[DONE]" and "error" in json.loads(event)]
    assert [error["error"]["code"] for error in errors] == ["worker_lost"]
    with node.client() as client:
        client.wait_ready("tiny", timeout_s=30)
    eventually(lambda: complete(node) == 200)


def test_a_killed_door_leaves_nothing_running_in_the_worker(node: Node) -> None:
    ready(node)
    worker, door = node.process("worker"), node.process("door")
    with contextlib.suppress(httpx2.TransportError), answer(node) as events:
        next(events)
        eventually(lambda: running(node) == 1)
        node.kill(door.pid)
        list(events)
    eventually(lambda: running(node) == 0)
    assert node.wait_for_door().pid != door.pid
    assert node.process("worker").pid == worker.pid
    eventually(lambda: complete(node) == 200)


def test_a_client_that_leaves_frees_the_worker(node: Node) -> None:
    ready(node)
    with answer(node) as events:
        next(events)
        eventually(lambda: running(node) == 1)
    eventually(lambda: running(node) == 0)


def test_a_response_in_the_background_outlives_its_door_word_for_word(node: Node) -> None:
    """Drawn, not greedy, and with no seed of its caller's: what was told before the kill is where the next door goes
    on."""
    ready(node)
    told = told_until_the_door_dies(node)
    node.wait_for_door()
    path = f"/{told[0]['response']['id']}?stream=true"
    with background(node, "GET", f"{path}&starting_after={told[-1]['sequence_number']}") as events:
        rest = list(events)
    with background(node, "GET", path) as events:
        assert list(events) == told + rest
    assert [event["sequence_number"] for event in told + rest] == list(range(len(told + rest)))
    final = rest[-1]["response"]
    assert final["status"] in ("completed", "incomplete")
    assert text_of(told + rest) == final["output"][0]["content"][0]["text"]


def told_until_the_door_dies(node: Node) -> list[dict[str, Any]]:
    """The events of an answer whose door is killed in the middle of it. A drawn answer may be over sooner than that:
    then another is asked for."""
    for _ in range(10):
        told: list[dict[str, Any]] = []
        doors = [node.wait_for_door().pid]
        with contextlib.suppress(httpx2.TransportError), background(node, "POST") as events:
            for event in events:
                told.append(event)
                if doors and event["type"] == "response.output_text.delta":  # more of them may have come with the first
                    node.kill(doors.pop())
        if told[-1]["type"] == "response.output_text.delta":
            return told
    raise AssertionError("no answer was killed in the middle")


@contextlib.contextmanager
def background(node: Node, method: str, path: str = "") -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a response that is made in the background."""
    body = {"model": "tiny", "input": "Tell me of a cat.", "background": True, "stream": True, "temperature": 1.0}
    body |= {"max_output_tokens": 400}
    with httpx2.Client(timeout=30.0, trust_env=False) as client:
        url = f"{node.url}/v1/responses{path}"
        with client.stream(method, url, json=body if method == "POST" else None) as response:
            assert response.status_code == 200, response.read()
            yield (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def complete(node: Node) -> int:
    body = {"model": "tiny", "prompt": "The", "max_tokens": 1}
    try:
        return httpx2.post(f"{node.url}/v1/completions", json=body, timeout=30.0, trust_env=False).status_code
    except httpx2.TransportError:
        return 0
