"""Responses made in the background and streamed, driven by the current `openai` client: followed live and from any
event on, by anybody of their holder, whatever breaks meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.rehearsed import Scripted, called, ended, said, thought
from tests.contract.edge.test_openai_client import in_door
from tests.contract.edge.test_refusals import refusal
from thaloom.base.errors import ModelNotFound
from thaloom.edge.api.openai.kept import errands
from thaloom.edge.api.openai.kept.responses import background, making

ASK: dict[str, Any] = {"model": "tiny", "input": "hi", "background": True, "stream": True}
BEGINNING = ["response.created", "response.queued", "response.in_progress"]
OPENED = ["response.output_item.added", "response.content_part.added"]
CLOSED = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "POLL_S", 0.05)
    monkeypatch.setattr(background, "RETRY_S", 0.01)
    monkeypatch.setattr(making, "TELL_S", 0.01)


async def all_of(stream: Any) -> list[Any]:
    async with asyncio.timeout(20):
        return [event async for event in stream]


async def until(stream: Any, kind: str) -> list[Any]:
    """The events up to the first of that type."""
    events = []
    async with asyncio.timeout(20):
        async for event in stream:
            events.append(event)
            if event.type == kind:
                return events
    raise AssertionError(f"no {kind} in {[event.type for event in events]}")


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def kinds(events: list[Any]) -> list[str]:
    return [event.type for event in events]


def check_numbers(events: list[Any], first: int = 0) -> None:
    assert [event.sequence_number for event in events] == list(range(first, first + len(events)))


def test_it_is_streamed_as_it_is_made_and_from_every_event_again(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in range(2)]
    answers = Scripted([said("Hel"), gates[0], said("lo"), gates[1], said(" there"), ended()])

    async def test(door: LiveDoor) -> None:
        stream = await door.client.responses.create(**ASK, metadata={"a": "b"})
        events = await until(stream, "response.output_text.delta")
        assert kinds(events) == [*BEGINNING, *OPENED, "response.output_text.delta"]
        assert [event.response.status for event in events[:3]] == ["queued", "queued", "in_progress"]
        made = events[0].response
        assert (made.background, made.metadata, text_of(events)) == (True, {"a": "b"}, "Hel")
        assert (await door.client.responses.retrieve(made.id)).status == "in_progress"
        live = [
            asyncio.create_task(
                all_of(await door.client.responses.retrieve(made.id, stream=True, starting_after=after))
            )
            for after in (0, 4, 5)
        ]
        gates[0].set()
        events += await until(stream, "response.output_text.delta")
        assert text_of(events) == "Hello"
        gates[1].set()
        events += await all_of(stream)
        check_numbers(events)
        assert kinds(events)[-5:] == ["response.output_text.delta", *CLOSED, "response.completed"]
        assert text_of(events) == "Hello there" == events[-1].response.output_text
        whole = await door.client.responses.retrieve(made.id)
        assert whole == events[-1].response
        for after, reader in zip((0, 4, 5), live, strict=True):
            assert await reader == events[after + 1 :]
        assert await all_of(await door.client.responses.retrieve(made.id, stream=True)) == events
        for after in range(len(events) + 3):
            again = await door.client.responses.retrieve(made.id, stream=True, starting_after=after)
            assert await all_of(again) == events[after + 1 :]
        more = await door.client.responses.create(model="tiny", input="and", previous_response_id=made.id)
        assert more.status == "completed"

    in_door(tmp_path, test, generation=answers)


def test_a_lost_connection_loses_nothing(tmp_path: Path) -> None:
    gate = asyncio.Event()
    answers = Scripted([thought("Hm"), said("Hel"), gate, said("lo"), called(0, "{", id="c", name="f"),
                        called(0, "}"), ended("tool_calls")])  # fmt: skip

    async def test(door: LiveDoor) -> None:
        stream = await door.client.responses.create(**ASK)
        events = await until(stream, "response.output_text.delta")
        await stream.close()
        await asyncio.sleep(0)
        assert answers.num_open == 1, "it is made all the same"
        gate.set()
        response_id, last = events[0].response.id, events[-1].sequence_number
        rest = await all_of(await door.client.responses.retrieve(response_id, stream=True, starting_after=last))
        check_numbers(events + rest)
        final = rest[-1].response
        assert text_of(events + rest) == "Hello" == final.output_text
        assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
        assert final.output[2].arguments == "{}"

    in_door(tmp_path, test, generation=answers)


def test_the_clients_own_streams_take_it_up(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def test(door: LiveDoor) -> None:
        async with door.client.responses.stream(model="tiny", input="hi", background=True) as stream:
            first = await until(stream, "response.output_text.delta")
        response_id, last = first[0].response.id, first[-1].sequence_number

        def synchronous() -> tuple[list[Any], Any, Any]:
            with openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0) as client:
                plain = list(client.responses.retrieve(response_id, stream=True, starting_after=last))
                with client.responses.stream(response_id=response_id, starting_after=last) as stream:
                    events = list(stream)
                    return plain, events, stream.get_final_response()

        doing = asyncio.create_task(asyncio.to_thread(synchronous))
        gate.set()
        plain, events, final = await doing
        assert kinds(events) == kinds(plain)
        assert events[0].sequence_number == plain[0].sequence_number == last + 1
        assert text_of(first) + text_of(plain) == "Hello" == final.output_text
        async with door.client.responses.stream(response_id=response_id) as again:
            assert (await again.get_final_response()).output_text == "Hello"

    in_door(tmp_path, test, generation=Scripted([said("Hel"), gate, said("lo"), ended()]))


def test_one_that_is_cancelled_ends_as_one_that_did_not_become_whole(tmp_path: Path) -> None:
    answers = Scripted([said("Hel"), asyncio.Event(), ended()])

    async def test(door: LiveDoor) -> None:
        stream = await door.client.responses.create(**ASK)
        events = await until(stream, "response.output_text.delta")
        response_id = events[0].response.id
        assert (await door.client.responses.cancel(response_id)).status == "cancelled"
        events += await all_of(stream)
        check_numbers(events)
        assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "cancelled")
        async with asyncio.timeout(10):
            while answers.num_open:
                await asyncio.sleep(0.01)
        assert (await door.client.responses.cancel(response_id)).status == "cancelled"
        assert await all_of(await door.client.responses.retrieve(response_id, stream=True)) == events

    in_door(tmp_path, test, generation=answers)


def test_one_that_is_deleted_ends_with_an_error(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        stream = await door.client.responses.create(**ASK)
        events = await until(stream, "response.output_text.delta")
        response_id = events[0].response.id
        await door.client.responses.delete(response_id)
        (error,) = await all_of(stream)
        assert (error.type, error.code, error.param) == ("error", "not_kept", "response_id")
        assert error.sequence_number == events[-1].sequence_number
        with pytest.raises(openai.NotFoundError):
            await door.client.responses.retrieve(response_id, stream=True)

    in_door(tmp_path, test, generation=Scripted([said("Hel"), asyncio.Event(), ended()]))


def test_one_that_fails_or_takes_too_long_ends_with_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Scripted(refusals=[ModelNotFound("gone")])

    async def test(door: LiveDoor) -> None:
        events = await all_of(await door.client.responses.create(**ASK))
        assert kinds(events) == [*BEGINNING, "response.failed"]
        assert events[-1].response.error.message == "gone"
        monkeypatch.setattr(background, "DEADLINE_S", 0.3)
        answers.script = [said("Hel"), asyncio.Event(), ended()]
        events = await all_of(await door.client.responses.create(**ASK))
        check_numbers(events)
        assert kinds(events)[5:] == ["response.output_text.delta", *CLOSED, "response.failed"]
        failed = events[-1].response
        assert (failed.status, failed.error.type, failed.output_text) == ("failed", "deadline_exceeded", "Hel")
        assert await door.client.responses.retrieve(failed.id) == failed

    in_door(tmp_path, test, generation=answers)


def test_readers_hold_nothing_back(tmp_path: Path) -> None:
    """Not one who takes nothing, not several who wait: what they listen to is made as if nobody waited."""
    gate = asyncio.Event()
    answers = Scripted([gate, *[said("word " * 20_000) for _ in range(40)], ended()])

    async def test(door: LiveDoor) -> None:
        streams = [await door.client.responses.create(**ASK) for _ in range(3)]
        first = [await until(stream, "response.in_progress") for stream in streams]
        async with asyncio.timeout(10):
            while answers.num_open < 3:
                await asyncio.sleep(0.01)
        response_id = first[0][0].response.id
        host, port = door.url.removeprefix("http://").split(":")
        _, deaf = await asyncio.open_connection(host, int(port))
        deaf.write(f"GET /v1/responses/{response_id}?stream=true HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        gate.set()
        async with asyncio.timeout(20):
            while (await door.client.responses.retrieve(response_id)).status != "completed":
                await asyncio.sleep(0.01)
        deaf.close()
        rest = await all_of(streams[0])
        assert len(text_of(rest)) == 40 * 100_000
        for stream in streams[1:]:
            await stream.close()

    in_door(tmp_path, test, generation=answers)


def test_only_what_was_asked_for_as_a_stream_is_streamed(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        plain = await door.client.responses.create(model="tiny", input="hi")
        stream = await door.client.responses.create(model="tiny", input="hi", stream=True)
        streamed = (await all_of(stream))[-1].response
        waiting = await door.client.responses.create(**ASK | {"stream": False})
        for response in (plain, streamed, waiting):
            answer = await door.http.get(f"/v1/responses/{response.id}?stream=true")
            assert refusal(answer) == (400, "bad_parameter", "stream")
            assert "with background and stream" in answer.text
        events = await all_of(await door.client.responses.create(**ASK))
        path = f"/v1/responses/{events[0].response.id}"
        for query, param in (
            ("stream=maybe", "stream"),
            ("stream=true&starting_after=-1", "starting_after"),
            ("stream=true&starting_after=x", "starting_after"),
            ("starting_after=1.5", "starting_after"),
            ("stream=true&starting_after=99999999999", "starting_after"),
        ):
            assert refusal(await door.http.get(f"{path}?{query}")) == (400, "bad_parameter", param)
        assert refusal(await door.http.get("/v1/responses/none?stream=true"))[:2] == (404, "not_kept")
        assert (await door.http.get(f"{path}?stream=false&starting_after=3")).json()["status"] == "completed"
        assert refusal(await door.post("/v1/responses", ASK | {"store": False}))[2] == "store"
        assert refusal(await door.post("/v1/responses", ASK | {"model": "no"}))[:2] == (404, "model_not_found")
        head = await door.http.head(f"{path}?stream=true")
        assert (head.status_code, head.text) == (200, "")
        assert head.headers["content-type"].startswith("text/event-stream")

    in_door(tmp_path, test, generation=Scripted())
