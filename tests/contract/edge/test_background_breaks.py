"""A response streamed in the background whose worker dies, whose door is killed, whose disk is full: nothing is told
twice, and nothing otherwise."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.rehearsed import Scripted, Step, called, ended, said, thought
from tests.contract.edge.test_background_stream import (
    ASK,
    BEGINNING,
    CLOSED,
    OPENED,
    all_of,
    check_numbers,
    fast,
    kinds,
    text_of,
    until,
)
from tests.contract.edge.test_batches_kill import busy_door
from tests.contract.edge.test_door_process import home_with_routes
from tests.contract.edge.test_openai_client import in_door
from thaloom.base.clock import SystemClock
from thaloom.base.errors import DiskFull, StateUnusable, WorkerLost
from thaloom.edge.api.openai.kept import errands
from thaloom.edge.api.openai.kept.responses import background, following
from thaloom.kernel.state.kept import KeepLimits, open_kept
from thaloom.kernel.state.kept.responses import KeptResponses
from thaloom.kernel.state.types import KeptResponse
from thaloom.work.runtime.types import Delta, Done, GenerateRequest

__all__ = ["fast"]  # a fixture


@dataclass
class InTurn(Scripted):
    """Another script for each request that comes; the last one for all that follow."""

    scripts: list[Sequence[Step]] = field(default_factory=list)

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        self.script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        return await super().start(request)


def test_what_a_dead_worker_had_told_is_gone_on_with(tmp_path: Path) -> None:
    """The second time it comes in other pieces, and a call of it under another id."""
    answers = InTurn(scripts=[
        [thought("Let me "), thought("see"), said("He"), WorkerLost("dead")],
        [thought("Let"), thought(" me see"), said("Hello"), called(0, '{"a":', id="c1", name="f"), WorkerLost("dead")],
        [thought("Let me see"), said("H"), said("ello"), called(0, '{"', id="c2", name="f"), called(0, 'a":1}'),
         called(1, "{}", id="c3", name="f"), ended("tool_calls")],
    ])  # fmt: skip

    async def test(door: LiveDoor) -> None:
        events = await all_of(await door.client.responses.create(**ASK))
        check_numbers(events)
        assert kinds(events).count("response.in_progress") == 1
        assert (
            kinds(events).count("response.output_item.added") == kinds(events).count("response.output_item.done") == 4
        )
        thoughts = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
        assert (thoughts, text_of(events)) == ("Let me see", "Hello")
        calls = [(item.call_id, item.arguments) for item in events[-1].response.output[2:]]
        assert calls == [("c1", '{"a":1}'), ("c3", "{}")]
        assert len(answers.requests) == 3
        assert len({request.sampling_changes["seed"] for request in answers.requests}) == 1

    in_door(tmp_path, test, generation=answers)


@pytest.mark.parametrize(
    "second",
    [
        [said("Help me"), ended()],
        [said("Hel"), ended()],
        [thought("Hello"), ended()],
        [called(0, "{}", id="c", name="f"), ended()],
        [said("Hel"), called(0, "{}", id="c", name="f"), said("lo"), ended()],
    ],
)
def test_another_answer_is_never_joined_to_what_was_told(tmp_path: Path, second: Sequence[Step]) -> None:
    gate = asyncio.Event()
    answers = InTurn(scripts=[[said("Hello"), gate, WorkerLost("dead")], second])

    async def test(door: LiveDoor) -> None:
        stream = await door.client.responses.create(**ASK)
        events = await until(stream, "response.output_text.delta")
        gate.set()
        events += await all_of(stream)
        check_numbers(events)
        assert events[-1].type == "response.failed"
        failed = events[-1].response
        assert failed.error.type == "worker_lost"
        assert "not the same" in failed.error.message
        assert failed.output_text == text_of(events) == "Hello"
        assert len(answers.requests) == background.MAX_LOST

    in_door(tmp_path, test, generation=answers)


def test_what_there_is_no_room_to_tell_fails_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    refused: list[DiskFull] = []
    tell = KeptResponses.tell

    def telling(*args: Any, **options: Any) -> bool:
        try:
            return tell(*args, **options)
        except DiskFull as error:
            refused.append(error)
            raise

    monkeypatch.setattr(KeptResponses, "tell", telling)

    async def test(door: LiveDoor) -> None:
        stream = await door.client.responses.create(**ASK)
        events = await until(stream, "response.in_progress")
        async with asyncio.timeout(10):
            while not refused:
                await asyncio.sleep(0.01)
        gate.set()
        events += await all_of(stream)
        check_numbers(events)
        failed = events[-1].response
        assert (failed.status, failed.error.type) == ("failed", "disk_full")
        assert text_of(events) == failed.output_text
        assert len(refused) == 1
        assert (await door.client.responses.retrieve(failed.id)).status == "failed"

    answers = Scripted([said("x" * 20_000), gate, *[said("y")] * 10_000, asyncio.Event(), ended()])
    in_door(tmp_path, test, generation=answers, limits=KeepLimits(max_bytes=15_000))


def test_what_another_door_tells_is_heard_and_silence_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_S", 0.02)
    monkeypatch.setattr(following, "SILENCE_S", 0.01)

    async def test(door: LiveDoor) -> None:
        other = open_kept(door.folder / "kept", SystemClock()).responses
        now = SystemClock().now()
        body = {"id": "resp_1", "status": "queued"}
        kept = KeptResponse(id="resp_1", previous=None, created_at=now, input=[], body=body)
        monkeypatch.setattr(background.BackgroundResponses, "claim", lambda *_: None)
        other.put(kept, request={}, events=[{"type": "response.created", "response": body}])
        lines: asyncio.Queue[str] = asyncio.Queue()

        async def read() -> None:
            async with door.http.stream("GET", "/v1/responses/resp_1?stream=true") as answer:
                async for line in answer.aiter_lines():
                    if line:
                        lines.put_nowait(line)

        reading = asyncio.create_task(read())
        async with asyncio.timeout(20):
            assert await lines.get() == "event: response.created"
            await lines.get()
            assert await lines.get() == ": not yet"
            other.tell("resp_1", [{"type": "response.in_progress"}], after=1)
            while (line := await lines.get()).startswith(":"):
                pass
            assert line == "event: response.in_progress"
            assert json.loads((await lines.get()).removeprefix("data: "))["sequence_number"] == 1
            other.finish("resp_1", body, events=[{"type": "response.completed"}], after=2)
            await reading
        rest = [lines.get_nowait() for _ in range(lines.qsize())]
        assert next(line for line in rest if not line.startswith(":")) == "event: response.completed"

    in_door(tmp_path, test, generation=Scripted())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ends_by", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_door_ended_in_the_middle_tells_nothing_twice_and_nothing_otherwise(
    tmp_path: Path, ends_by: signal.Signals
) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[39, 72] * 20, pause=asyncio.Event(), pause_after=25)
        home = home_with_routes(tmp_path)
        told: list[dict[str, Any]] = []
        async with worker.listening(tmp_path / "w.sock"):
            async with busy_door(home) as (process, client):
                with pytest.raises(httpx2.HTTPError):
                    async with client.stream("POST", "/v1/responses", json=ASK) as answer:
                        async for event in events_of(answer):
                            told.append(event)
                            if worker.pause is not None and len(text(told)) == 25:
                                process.send_signal(ends_by)
                await process.wait()
            await worker.until_idle()
            response_id, last = told[0]["response"]["id"], told[-1]["sequence_number"]
            assert worker.pause is not None
            worker.pause.set()
            path = f"/v1/responses/{response_id}"
            async with busy_door(home) as (process, client), asyncio.timeout(60):
                query = {"stream": "true", "starting_after": last}
                async with client.stream("GET", path, params=query) as answer:
                    rest = [event async for event in events_of(answer)]
                async with client.stream("GET", path, params={"stream": "true"}) as answer:
                    again = [event async for event in events_of(answer)]
                whole = (await client.get(path)).json()
        assert told + rest == again
        assert [event["sequence_number"] for event in again] == list(range(len(again)))
        once = [event["type"] for event in again if event["type"] != "response.output_text.delta"]
        assert once == [*BEGINNING, *OPENED, *CLOSED, "response.completed"]
        assert text(again) == "Hi" * 20 == whole["output"][0]["content"][0]["text"]
        assert again[-1]["response"] == whole
        assert len({request.seed for request in worker.requests}) == 1
        assert len(worker.requests) == 2

    asyncio.run(run())


@pytest.mark.parametrize("at", [2, 3])
def test_a_store_that_cannot_be_written_for_a_while_delays_a_response_and_spoils_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(errands, "REST_S", 0.01)
    gate = asyncio.Event()
    failed: list[int] = []
    tell = KeptResponses.tell

    def telling(*args: Any, **options: Any) -> bool:
        if options["after"] >= at and not failed:
            failed.append(options["after"])
            raise StateUnusable("locked")
        return tell(*args, **options)

    monkeypatch.setattr(KeptResponses, "tell", telling)

    async def test(door: LiveDoor) -> None:
        stream = await door.client.responses.create(**ASK)
        async with asyncio.timeout(10):
            while not failed:
                await asyncio.sleep(0.01)
        gate.set()
        events = await all_of(stream)
        check_numbers(events)
        once = [kind for kind in kinds(events) if kind != "response.output_text.delta"]
        assert once == [*BEGINNING, *OPENED, *CLOSED, "response.completed"]
        assert text_of(events) == "Hel" + "l" * 10_000 == events[-1].response.output_text
        assert failed == [at]

    in_door(tmp_path, test, generation=Scripted([said("Hel"), gate, *[said("l")] * 10_000, ended()]))


def test_what_cannot_even_be_begun_for_want_of_room_fails_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def telling(*_: Any, **__: Any) -> bool:
        raise DiskFull("full")

    monkeypatch.setattr(KeptResponses, "tell", telling)

    async def test(door: LiveDoor) -> None:
        events = await all_of(await door.client.responses.create(**ASK))
        assert kinds(events) == [*BEGINNING[:2], "response.failed"]
        assert events[-1].response.error.type == "disk_full"

    in_door(tmp_path, test, generation=Scripted())


async def events_of(answer: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
