"""Responses made in the background, driven by the current `openai` client: made, cancelled, deleted, failed, outliving
a door that is killed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.rehearsed import Scripted, ended, said
from tests.contract.edge.test_batches_kill import busy_door
from tests.contract.edge.test_door_process import home_with_routes
from tests.contract.edge.test_openai_client import in_door
from tests.contract.edge.test_refusals import refusal
from thaloom.base.errors import ModelNotFound, QueueFull, WorkerLost
from thaloom.edge.api.openai.kept import errands
from thaloom.edge.api.openai.kept.responses import background

UNMADE = ("queued", "in_progress")
ASK: dict[str, Any] = {"model": "tiny", "input": "hi", "background": True}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "POLL_S", 0.05)
    monkeypatch.setattr(background, "RETRY_S", 0.01)


async def made(door: LiveDoor, response_id: str) -> Any:
    async with asyncio.timeout(20):
        while (response := await door.client.responses.retrieve(response_id)).status in UNMADE:
            await asyncio.sleep(0.01)
    return response


def test_a_response_is_made_while_nobody_waits_and_can_be_built_upon(tmp_path: Path) -> None:
    gate = asyncio.Event()
    answers = Scripted([gate, said("Hello"), ended()])

    async def test(door: LiveDoor) -> None:
        queued = await door.client.responses.create(**ASK, metadata={"a": "b"})
        assert (queued.status, queued.background, queued.output, queued.usage) == ("queued", True, [], None)
        async with asyncio.timeout(10):
            while (await door.client.responses.retrieve(queued.id)).status != "in_progress":
                await asyncio.sleep(0.01)
        with pytest.raises(openai.BadRequestError, match="wait until it is made") as refused:
            await door.client.responses.create(model="tiny", input="x", previous_response_id=queued.id)
        assert refused.value.param == "previous_response_id"
        gate.set()
        response = await made(door, queued.id)
        assert (response.status, response.output_text, response.metadata) == ("completed", "Hello", {"a": "b"})
        assert (response.id, response.created_at, response.usage.total_tokens) == (queued.id, queued.created_at, 14)
        assert response.background is True
        again = await door.client.responses.create(**ASK, previous_response_id=queued.id)
        assert (await made(door, again.id)).status == "completed"
        roles = [message.role for message in answers.requests[-1].messages or ()]
        assert roles == ["user", "assistant", "user"]
        assert [item.type async for item in door.client.responses.input_items.list(queued.id)] == ["message"]
        cancelled = await door.client.responses.cancel(queued.id)
        assert cancelled.status == "completed", "what is made is not unmade"

    in_door(tmp_path, test, generation=answers)


def test_one_that_is_cancelled_or_deleted_is_made_no_further(tmp_path: Path) -> None:
    answers = Scripted([asyncio.Event(), ended()])

    async def test(door: LiveDoor) -> None:
        first = await door.client.responses.create(**ASK)
        second = await door.client.responses.create(**ASK)
        async with asyncio.timeout(10):
            while answers.num_open < 2:
                await asyncio.sleep(0.01)
        assert (await door.client.responses.cancel(first.id)).status == "cancelled"
        assert (await door.client.responses.cancel(first.id)).status == "cancelled"
        await door.client.responses.delete(second.id)
        async with asyncio.timeout(10):
            while answers.num_open:
                await asyncio.sleep(0.01)
        assert (await door.client.responses.retrieve(first.id)).status == "cancelled"
        with pytest.raises(openai.NotFoundError):
            await door.client.responses.retrieve(second.id)

    in_door(tmp_path, test, generation=answers)


def test_a_full_queue_is_waited_out_and_what_cannot_be_made_says_why(tmp_path: Path) -> None:
    answers = Scripted(refusals=[QueueFull("full", retry_after_s=0.01)] * 5)

    async def test(door: LiveDoor) -> None:
        response = await door.client.responses.create(**ASK)
        assert (await made(door, response.id)).output_text == "Hello"
        assert len(answers.requests) == 6
        answers.refusals = [ModelNotFound("gone")]
        response = await made(door, (await door.client.responses.create(**ASK)).id)
        assert (response.status, response.error.message, response.error.type) == ("failed", "gone", "model_not_found")
        answers.script = [said("Hel"), WorkerLost("dead")]
        response = await made(door, (await door.client.responses.create(**ASK)).id)
        assert (response.status, response.error.type) == ("failed", "worker_lost")
        assert len(answers.requests) == 6 + 1 + background.MAX_LOST
        assert refusal(await door.post("/v1/responses", ASK | {"model": "no"}))[:2] == (404, "model_not_found")
        first = await door.client.responses.create(**ASK)
        await made(door, first.id)
        await door.client.responses.delete(first.id)
        response = await door.post("/v1/responses", ASK | {"previous_response_id": first.id})
        assert refusal(response) == (404, "not_kept", "previous_response_id")

    in_door(tmp_path, test, generation=answers)


def test_one_that_takes_a_day_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "DEADLINE_S", 0.2)

    async def test(door: LiveDoor) -> None:
        response = await made(door, (await door.client.responses.create(**ASK)).id)
        assert (response.status, response.error.type) == ("failed", "deadline_exceeded")

    in_door(tmp_path, test, generation=Scripted([asyncio.Event(), ended()]))


def test_it_outlives_a_door_that_is_killed(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[39, 72], pause=asyncio.Event())
        home = home_with_routes(tmp_path)
        async with worker.listening(tmp_path / "w.sock"):
            async with busy_door(home) as (process, client):
                response = (await client.post("/v1/responses", json=ASK)).json()
                async with asyncio.timeout(20):
                    while not worker.num_open:
                        await asyncio.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                await process.wait()
            await worker.until_idle()
            assert worker.pause is not None
            worker.pause.set()
            async with busy_door(home) as (_, client):
                async with asyncio.timeout(20):
                    while (found := (await client.get(f"/v1/responses/{response['id']}")).json())["status"] in UNMADE:
                        await asyncio.sleep(0.01)
            assert (found["status"], found["output"][0]["content"][0]["text"]) == ("completed", "Hi")

    asyncio.run(run())
