"""Services that nobody asks anything give their memory back, and are there again for the next who asks."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import pytest

from tests.system.node import Node, eventually, node
from thaloom.base.errors import OutOfMemory
from thaloom.base.units import MIB
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import KeyRequest, PullRequest, ServeRequest, Service

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


def complete(
    node: Node, model: str = "tiny", *, client: httpx2.Client | None = None, **changes: object
) -> httpx2.Response:
    """`client`: one that is there already, for those who ask at once."""
    body = {"model": model, "prompt": "The socket option", "max_tokens": 4, "temperature": 0} | changes
    if client is not None:
        return client.post(f"{node.url}/v1/completions", json=body)
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


def happened(node: Node, name: str) -> int:
    with node.client() as client:
        return [event.name for event in client.events(limit=1000)].count(name)


def test_what_is_loaded_again_answers_every_protocol_whole_and_in_pieces(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=NOW)
    asked = [{"role": "user", "content": "What does chmod do?"}]
    wakings: list[Callable[[], object]] = []
    with contextlib.ExitStack() as stack:
        openai_client = stack.enter_context(
            openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=60.0)
        )
        anthropic_client = stack.enter_context(
            anthropic.Anthropic(base_url=node.url, api_key="none", max_retries=0, timeout=60.0)
        )
        ollama_client = stack.enter_context(ollama.Client(host=node.url, timeout=60.0, trust_env=False))
        chat: Any = {"model": "tiny", "messages": asked, "max_tokens": 4}
        wakings += [
            lambda: openai_client.chat.completions.create(**chat).choices[0].message.content,
            lambda: list(openai_client.chat.completions.create(**chat, stream=True)),
            lambda: openai_client.embeddings.create(model="tiny", input="a").data[0].embedding,
            lambda: anthropic_client.messages.create(**chat).content,
            lambda: list(anthropic_client.messages.create(**chat, stream=True)),
            lambda: ollama_client.chat("tiny", asked, options={"num_predict": 4}).message.content,
            lambda: list(ollama_client.chat("tiny", asked, options={"num_predict": 4}, stream=True)),
            lambda: ollama_client.embed("tiny", "a").embeddings,
        ]
        for waking in wakings:
            until_idle(node)
            assert waking()
        until_idle(node)
        assert ollama_client.ps().models == []
        load = ollama_client.chat("tiny", asked, options={"num_predict": 1}).load_duration
        assert load is not None
        assert load > 0
    assert happened(node, "ServiceWoken") == len(wakings) + 1


def test_many_who_ask_at_once_cause_one_start(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=2.0)  # long enough for the last of them to come before the first is forgotten
    until_idle(node)
    eventually(lambda: workers(node) == [])
    before = happened(node, "ProcessStarted")
    with httpx2.Client(timeout=60, trust_env=False) as client, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: complete(node, client=client), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert happened(node, "ProcessStarted") == before + 1
    assert happened(node, "ServiceWoken") == 1


def test_a_client_that_leaves_leaves_no_start_hanging(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=NOW)
    until_idle(node)
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 100, "ignore_eos": True})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)) as connection:
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        eventually(lambda: happened(node, "ServiceWoken") == 1)
    until_idle(node)
    eventually(lambda: workers(node) == [])


def test_requests_that_come_while_it_is_unloaded_are_all_answered(node: Node) -> None:
    """Each is sent at about the moment at which the node finds the service idle."""
    start(node)
    serve(node, keep_alive_s=0.0)
    for number in range(60):
        answer = complete(node, max_tokens=1)
        assert answer.status_code == 200, answer.text
        if number % 10 == 9 and happened(node, "ServiceUnloaded") >= 20:
            break  # on a busy machine each start takes seconds
        time.sleep(0.002 * (7 * number % 40))
    assert happened(node, "ServiceUnloaded") > 0


def test_one_that_is_asked_is_not_unloaded(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=0.0)
    body = {"model": "tiny", "prompt": "The socket option", "max_tokens": 100, "ignore_eos": True, "stream": True}
    with httpx2.stream("POST", f"{node.url}/v1/completions", json=body, timeout=60, trust_env=False) as answer:
        told = answer.read().decode()
    assert "data: [DONE]" in told
    assert '"error"' not in told


def test_pinned_services_stay_and_a_change_of_mind_disturbs_nobody(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=-1.0)
    pid = seen(node).pid
    eventually(lambda: (seen(node).idle_since or math.inf) < time.time() - 1)
    assert (seen(node).phase, seen(node).unload_at) == ("ready", None)
    with node.client() as client:
        client.serve("tiny", ServeRequest.model_validate({"model": "tiny"} | SMALL | {"keep_alive_s": 3600.0}))
        told = client.service("tiny")
        assert (told.phase, told.pid) == ("ready", pid)
        assert told.idle_since is not None
        assert told.unload_at == pytest.approx(told.idle_since + 3600.0, abs=1.0)
        client.serve("tiny", ServeRequest.model_validate({"model": "tiny"} | SMALL | {"keep_alive_s": 0.0}))
    until_idle(node)


def test_idle_stays_idle_over_a_restart_and_since_when(node: Node) -> None:
    start(node)
    serve(node, "gone", keep_alive_s=NOW)
    serve(node, "kept", keep_alive_s=3600.0)
    until_idle(node, "gone")
    eventually(lambda: seen(node, "kept").idle_since)
    before = {name: seen(node, name).idle_since for name in ("gone", "kept")}
    kept = seen(node, "kept").pid
    node.kill(node.daemon.pid)
    node.start()
    eventually(lambda: seen(node, "kept").idle_since)
    assert seen(node, "gone").idle_since == before["gone"]
    assert seen(node, "kept").idle_since == pytest.approx(before["kept"], abs=1.0)
    assert (seen(node, "gone").phase, seen(node, "kept").phase) == ("idle", "ready")
    assert seen(node, "kept").pid == kept
    assert len(workers(node)) == 1
    node.wait_for_door()
    assert complete(node, "gone").status_code == 200


def test_a_daemon_that_is_killed_while_it_wakes_somebody_ends_no_wait(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=3.0)
    until_idle(node)
    eventually(lambda: workers(node) == [])
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(complete, node) for _ in range(4)]
        eventually(lambda: workers(node))
        node.kill(node.daemon.pid)
        node.start()
        assert [each.result().status_code for each in waiting] == [200] * 4
        until_idle(node)
        node.kill(node.daemon.pid)
        late = pool.submit(complete, node)
        time.sleep(0.2)  # it asks in vain
        node.start()
        assert late.result().status_code == 200


def with_virtual_memory(node: Node, num_bytes: int) -> None:
    node.environment["THALOOM_VIRTUAL_DEVICES"] = json.dumps([{"id": "virtual:0", "memory_bytes": num_bytes}])


def on_device(name: str, **wish: Any) -> tuple[str, ServeRequest]:
    return name, ServeRequest.model_validate({"model": "tiny", "device": "virtual:0"} | SMALL | wish)


def test_idle_services_make_room_and_a_refusal_says_what_would(node: Node) -> None:
    with_virtual_memory(node, 150 * MIB)
    start(node)
    with node.client() as client:
        client.pull(PullRequest(source="tiny"))
        client.serve(*on_device("a", keep_alive_s=-1.0))
        client.wait_ready("a", timeout_s=30)
        node.wait_for_door()
        assert complete(node, "a").status_code == 200
        eventually(lambda: seen(node, "a").idle_since)
        with pytest.raises(OutOfMemory, match=r"would fit if 'a' were unloaded, idle for .*, and is kept") as refusal:
            client.serve(*on_device("b"))
        told = refusal.value.details
        assert told["needed_bytes"] > told["free_bytes"]
        (named,) = told["would_fit_without"]
        assert (named["service"], named["pinned"]) == ("a", True)
        assert named["bytes"] > 0

        client.serve(*on_device("a", keep_alive_s=3600.0))
        eventually(lambda: _served(client, "b"))
        client.wait_ready("b", timeout_s=30)
        assert seen(node, "a").phase == "idle"
        (memory,) = [one for one in client.status().memory if one.device == "virtual:0"]
        assert memory.reserved_bytes < 2 * told["needed_bytes"]

        client.keep_alive("b", -1.0)
        refused = complete(node, "a")
        assert refused.status_code == 507
        assert "would fit if 'b' were unloaded" in refused.json()["error"]["message"]
        assert seen(node, "a").phase == "idle"
        client.keep_alive("b", 3600.0)
        for one, other in (("a", "b"), ("b", "a")):  # asked in turn: each waits until the other may go
            assert complete(node, one).status_code == 200
            assert (seen(node, one).phase, seen(node, other).phase) == ("ready", "idle")


def _served(client: ControlClient, name: str) -> bool:
    """Once the other has been idle for long enough to make room."""
    try:
        client.serve(*on_device(name))
    except OutOfMemory as error:
        return error.retry_after_s is None  # waiting would not help: what follows fails
    return True


def test_ollamas_keep_alive_holds_for_the_model(node: Node) -> None:
    start(node)
    serve(node)
    asked = [{"role": "user", "content": "hi"}]
    with ollama.Client(host=node.url, timeout=60.0, trust_env=False) as client:

        def left_s() -> float:
            (loaded,) = client.ps().models
            assert loaded.expires_at is not None
            return loaded.expires_at.timestamp() - time.time()

        assert 200 < left_s() <= 300, "as on a node of Ollama's"
        client.chat("tiny", asked, options={"num_predict": 1}, keep_alive="1h30m")
        assert 5000 < left_s() <= 5400
        client.chat("tiny", asked, options={"num_predict": 1})
        assert 5000 < left_s() <= 5400, "until a request says otherwise"
        assert client.embed("tiny", "a", keep_alive=600).embeddings
        assert 500 < left_s() <= 600
        client.generate("tiny", keep_alive=-1)
        assert left_s() > 1e9
        assert client.generate("tiny", keep_alive=0).done_reason == "unload"
        until_idle(node)
        assert client.ps().models == []
        assert client.generate("tiny").done_reason == "load"
        assert 200 < left_s() <= 300, "what was asked for ends with the model"
        lines = list(client.chat("tiny", asked, options={"num_predict": 4}, stream=True, keep_alive=0))
        assert lines[-1].done
        until_idle(node)
        client.delete("tiny")
    with node.client() as control:
        assert control.services() == []


def test_who_may_not_ask_a_service_cannot_wake_it(node: Node) -> None:
    start(node)
    serve(node, keep_alive_s=NOW)
    serve(node, "other", keep_alive_s=3600.0)
    until_idle(node)
    with node.client() as client:
        secret = client.make_key(KeyRequest(name="k", models=["other"])).secret
    headers = {"authorization": f"Bearer {secret}"}
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
    ask = functools.partial(httpx2.post, f"{node.url}/v1/completions", json=body, timeout=60, trust_env=False)
    eventually(lambda: ask().status_code == 401)
    assert ask(headers=headers).status_code == 403
    wake = httpx2.post(f"{node.url}/thaloom/v1/services/tiny/wake", headers=headers, trust_env=False)
    assert wake.status_code == 403
    assert seen(node).phase == "idle"
    assert happened(node, "ServiceWoken") == 0
