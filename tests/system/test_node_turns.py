"""Two services at the same cores of a real node take turns, and one that is killed in its turn holds up nobody."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import httpx2
import pytest

from tests.models import make_model
from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.edge.wire.control import PullRequest, ServeRequest
from thaloom.work.runtime.turns.turnstile import Seated, Turnstile

__all__ = ["node"]

pytestmark = pytest.mark.slow

NAMES = ("one", "two")
PRIORITIES = {"one": "high", "two": "low"}
"""The second waits for the first, and not the other way round."""
TOKENS = 400


@contextmanager
def turnstile(node: Node) -> Iterator[Turnstile]:
    with closing(Turnstile.open(node.home / "run" / "turns")) as opened:
        yield opened


def seated(node: Node, name: str) -> Seated | None:
    worker = node.process("worker", name).id
    with turnstile(node) as opened:
        return next((one for one in opened.seated() if one.name == worker), None)


def stream(node: Node, name: str, begun: threading.Event) -> list[str]:
    """All events of one long answer; `begun` is set with the first."""
    ask = {"model": name, "prompt": "The socket option", "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
    events: list[str] = []
    with httpx2.Client(timeout=PATIENCE_S, trust_env=False) as client:
        with client.stream("POST", f"{node.url}/v1/completions", json=ask | {"temperature": 0}) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    events.append(line.removeprefix("data: "))
                    begun.set()
    return events


def text(events: list[str]) -> str:
    assert events[-1] == "[DONE]"
    return "".join(choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"])


def serve(node: Node, *names: str) -> None:
    """Of a model that is large enough for turns (work.runtime.turns.turns.SHORT_NS), with a thread for each core."""
    folder = make_model(
        node.home / "made",
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=512,
    )
    with node.client() as client:
        client.pull(PullRequest(source=str(folder), name="large"))
        for name in names:
            client.serve(name, ServeRequest(model="large", weights="int8", priority=PRIORITIES[name]))
        for name in names:
            client.wait_ready(name, timeout_s=PATIENCE_S)
    node.wait_for_door()


def test_two_services_take_turns_and_answer_as_ever(node: Node) -> None:
    node.start()
    serve(node, *NAMES)
    alone = text(stream(node, "one", threading.Event()))
    assert all(one is not None and one.turns == 0 for one in (seated(node, name) for name in NAMES))
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda name: text(stream(node, name, threading.Event())), NAMES))
    assert answers == [alone, alone]
    for name in NAMES:
        one = seated(node, name)
        assert one is not None
        assert one.turns > 0
    with node.client() as client:
        shown = [process for process in client.processes() if process.role == "worker"]
    assert all(process.turn_held_s and process.turn_waited_s is not None for process in shown)
    with httpx2.Client(timeout=PATIENCE_S, trust_env=False) as client:
        page = client.get(f"{node.url}/metrics").text
    waited = [line for line in page.splitlines() if line.startswith("thaloom_worker_turn_wait_seconds_total")]
    assert len(waited) == 2


def test_a_worker_killed_in_its_turn_holds_up_nobody(node: Node) -> None:
    node.start()
    serve(node, *NAMES)
    alone = text(stream(node, "two", threading.Event()))
    victim = node.process("worker", "one").pid
    begun = {name: threading.Event() for name in NAMES}
    with ThreadPoolExecutor() as pool:
        answers = {name: pool.submit(stream, node, name, begun[name]) for name in NAMES}
        assert all(event.wait(PATIENCE_S) for event in begun.values())
        kill_in_its_turn(node, victim)
        assert text(answers["two"].result(PATIENCE_S)) == alone
    eventually(lambda: node.process("worker", "one").pid != victim)
    with node.client() as client:
        client.wait_ready("one", timeout_s=PATIENCE_S)
    eventually(lambda: seated(node, "one") is not None)


def kill_in_its_turn(node: Node, pid: int) -> None:
    """It is stopped until it was stopped in its turn, and then killed."""
    worker = node.process("worker", "one").id
    with turnstile(node) as opened:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if any(one.holds and one.name == worker for one in opened.seated()):
                os.kill(pid, signal.SIGSTOP)
                if any(one.holds and one.name == worker for one in opened.seated()):
                    os.kill(pid, signal.SIGKILL)
                    return
                os.kill(pid, signal.SIGCONT)
    raise AssertionError("it was never seen in its turn")


def test_a_damaged_turnstile_stops_nobody_and_is_told(node: Node) -> None:
    """The next daemon makes a new one."""
    node.start()
    path = node.home / "run" / "turns"
    path.rename(node.home / "run" / "turns.away")
    path.write_bytes(b"no turnstile")
    serve(node, "one")
    assert text(stream(node, "one", threading.Event()))
    assert (node.home / "logs" / "one.log").read_text().count("TurnsNotTaken") == 1
    node.kill(node.daemon.pid)
    node.start()
    serve(node, "two")
    assert seated(node, "two") is not None
