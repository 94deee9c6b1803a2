"""The client counts what came and when; loads fit the context; what a server may do wrong is an error, not a figure."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from benchmarks.engine.served.client import Answer, Ask, Endpoint, ServerFailed, drive, figures, quantile
from benchmarks.engine.served.loads import CONTEXT, LOADS, conversations, fixed, scaled
from benchmarks.engine.served.servers import free_port, high_water_mark, tree


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def tokens(number: int) -> list[bytes]:
    return [event(choices=[{"text": f"t{i}"}]) for i in range(number)]


def usage(number: int) -> bytes:
    return event(choices=[], usage={"completion_tokens": number})


@contextmanager
def server(*events: bytes, status: str = "200 OK") -> Iterator[tuple[int, list[dict[str, object]]]]:
    """Answers every request with these chunks; gives its port and the bodies it was sent."""
    loop = asyncio.new_event_loop()
    bodies: list[dict[str, object]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split()[0])
        bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for piece in events:
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port, bodies
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listening.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_every_ask_is_answered_once_and_sent_as_token_ids() -> None:
    with server(*tokens(3), usage(3), b"data: [DONE]\n\n") as (port, bodies):
        endpoint = Endpoint(port=port, model="m", extra=(("cache_prompt", False),))
        answers = drive(endpoint, [Ask(prompt=(i, 7), new_tokens=3) for i in range(5)], 2)
    assert [answer.num_tokens for answer in answers] == [3] * 5
    assert all(answer.begun_s <= answer.first_s <= answer.last_s for answer in answers)
    assert sorted(body["prompt"][0] for body in bodies) == list(range(5))  # type: ignore[index]
    assert bodies[0]["ignore_eos"] is True
    assert bodies[0]["cache_prompt"] is False


@pytest.mark.parametrize(
    ("events", "status", "says"),
    [
        ([*tokens(2), usage(2)], "200 OK", "3 tokens were asked for, 2 came"),
        ([usage(3)], "200 OK", "3 tokens were asked for"),
        ([event(error={"message": "out of memory"})], "200 OK", "out of memory"),
        ([b"loading"], "503 Service Unavailable", "503"),
    ],
)
def test_a_server_that_does_not_do_its_work_gives_no_figure(events: list[bytes], status: str, says: str) -> None:
    with server(*events, status=status) as (port, _), pytest.raises(ServerFailed, match=says):
        drive(Endpoint(port=port, model="m"), [Ask(prompt=(1,), new_tokens=3)], 1)


def test_nobody_listening_is_a_failed_server() -> None:
    with pytest.raises(ServerFailed):
        drive(Endpoint(port=free_port(), model="m"), [Ask(prompt=(1,), new_tokens=2)], 1)


def test_figures_are_over_the_whole_load() -> None:
    answers = [
        Answer(begun_s=1.0, first_s=2.0, last_s=4.0, num_tokens=5),
        Answer(begun_s=1.5, first_s=4.5, last_s=11.0, num_tokens=14),
    ]
    told = figures(answers)
    assert told.tokens_per_s == 19 / 10
    assert told.per_token_p50_s == pytest.approx(0.5)
    assert (told.first_token_p50_s, told.first_token_p99_s) == (pytest.approx(2.0), pytest.approx(2.98))
    assert Answer(begun_s=0, first_s=1, last_s=1, num_tokens=1).per_token_s is None


def test_quantiles() -> None:
    assert quantile([3.0], 0.99) == 3.0
    assert quantile(range(101), 0.5) == 50
    assert quantile(range(101), 0.99) == pytest.approx(99)
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_loads_fit_the_context_and_differ_by_seed() -> None:
    for load in (*LOADS, conversations(16, 96)):
        assert all(prompt + answer <= CONTEXT for prompt, answer in load.lengths), load.name
        assert len(load.lengths) >= load.num_clients
    assert scaled([(1, 1), (400, 40)]) == ((1, 2), (100, 10))
    asks = fixed(2).asks(100, seed=1)
    assert asks != fixed(2).asks(100, seed=2)
    assert all(3 <= token < 100 for ask in asks for token in ask.prompt)


def test_memory_is_read_for_a_tree_of_processes() -> None:
    assert tree(os.getpid())[0] == os.getpid()
    assert high_water_mark(os.getpid()) > 1_000_000
    assert high_water_mark(2**22 - 1) == 0
