"""Our own small client against a real door: the same leaves on both sides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import ASK, LiveDoor
from tests.contract.edge.test_openai_client import in_door
from thaloom.base.errors import BadParameter, DeadlineExceeded, NodeNotRunning, QueueFull, WorkerLost
from thaloom.edge.client.openai import OpenAIClient


def read(url: str, **changes: Any) -> list[dict[str, Any]]:
    with OpenAIClient(url) as client, client.stream("/v1/chat/completions", ASK | {"stream": True} | changes) as chunks:
        return list(chunks)


def test_an_answer_is_streamed_to_its_end(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello, 世界!")
        chunks = await asyncio.to_thread(read, door.url, stream_options={"include_usage": True})
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "Hello, 世界!"
        assert chunks[-1]["usage"]["completion_tokens"] == len(door.worker.tokens)

    in_door(tmp_path, test)


def test_signs_that_end_lines_elsewhere_are_text_in_an_answer(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("a\u2028b\u0085c")
        chunks = await asyncio.to_thread(read, door.url)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "a\u2028b\u0085c"

    in_door(tmp_path, test)


def test_refusals_come_out_as_the_leaf_they_were(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        with pytest.raises(BadParameter) as wrong:
            await asyncio.to_thread(read, door.url, temperature="hot")
        assert wrong.value.param == "temperature"
        door.worker.refuse_with = QueueFull("full", retry_after_s=2.5)
        with pytest.raises(QueueFull) as full:
            await asyncio.to_thread(read, door.url)
        assert full.value.retry_after_s == 2.5

    in_door(tmp_path, test)


def test_an_error_in_the_stream_is_raised(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        with pytest.raises(WorkerLost):
            await asyncio.to_thread(read, door.url)

    in_door(tmp_path, test, worker=FakeWorker(die_after=1))


def test_leaving_early_cancels(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("x")

        def leave() -> None:
            with OpenAIClient(door.url) as client:
                with client.stream("/v1/chat/completions", ASK | {"stream": True}) as chunks:
                    next(chunks)

        await asyncio.to_thread(leave)
        await door.worker.until_idle()
        assert door.worker.num_cancelled == 1

    in_door(tmp_path, test, worker=FakeWorker(endless=True))


def test_no_door_is_a_node_that_does_not_run() -> None:
    with pytest.raises(NodeNotRunning):
        read("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("answer", "leaf"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\": []}\n\n", WorkerLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\ndata: {\"choices\": []}\n\n", WorkerLost),
        (None, DeadlineExceeded),
    ],
)  # fmt: skip
def test_a_part_of_an_answer_does_not_pass_for_a_whole_one(answer: bytes | None, leaf: type[Exception]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read(100_000)
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    def ask(port: int) -> None:
        with OpenAIClient(f"http://127.0.0.1:{port}", silence_timeout_s=0.2) as client:
            with client.stream("/v1/completions", {}) as chunks:
                list(chunks)

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            with pytest.raises(leaf):
                await asyncio.to_thread(ask, server.sockets[0].getsockname()[1])

    asyncio.run(run())
