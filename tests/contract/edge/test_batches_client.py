"""Batches driven by the current `openai` client over a real loopback socket, through every end a batch can have."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.edge.live_door import LiveDoor, live_door
from tests.contract.edge.rehearsed import Scripted, Step, ended, said
from tests.contract.edge.test_openai_client import in_door
from tests.contract.edge.test_refusals import refusal
from thaloom.base.errors import QueueFull, WorkerLost
from thaloom.edge.api.openai.kept import errands
from thaloom.edge.api.openai.kept.batches import runner
from thaloom.edge.api.openai.kept.batches.runner import BatchOver
from thaloom.edge.api.openai.kept.errands import ErrandStalled

CHAT, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/completions"
OVER = ("completed", "failed", "expired", "cancelled")
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
    RESPONSES: {"model": "tiny", "input": "hi"},
    COMPLETIONS: {"model": "tiny", "prompt": "hi"},
}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "POLL_S", 0.05)
    monkeypatch.setattr(errands, "REST_S", 0.05)
    monkeypatch.setattr(runner, "RETRY_S", 0.01)


def jsonl(endpoint: str, bodies: list[dict[str, Any]]) -> bytes:
    return b"".join(
        json.dumps(
            {"custom_id": f"r{number}", "method": "POST", "url": endpoint, "body": BODIES[endpoint] | body}
        ).encode()
        + b"\n"
        for number, body in enumerate(bodies)
    )


async def start(door: LiveDoor, endpoint: Any, bodies: list[dict[str, Any]], **wishes: Any) -> Any:
    file = await door.client.files.create(file=("in.jsonl", jsonl(endpoint, bodies)), purpose="batch")
    return await door.client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **wishes)


async def until(door: LiveDoor, batch_id: str, *statuses: str) -> Any:
    async with asyncio.timeout(30):
        while (batch := await door.client.batches.retrieve(batch_id)).status not in statuses:
            await asyncio.sleep(0.01)
    return batch


async def lines(door: LiveDoor, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in (await door.client.files.content(file_id)).text.splitlines()]


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, COMPLETIONS])
def test_a_batch_is_answered_in_order_and_what_is_refused_stands_apart(tmp_path: Path, endpoint: str) -> None:
    async def test(door: LiveDoor) -> None:
        bodies: list[dict[str, Any]] = [{"temperature": "hot"} if number == 2 else {} for number in range(7)]
        made = await start(door, endpoint, bodies, metadata={"a": "b"})
        assert (made.object, made.status, made.endpoint, made.metadata) == ("batch", "validating", endpoint, {"a": "b"})
        assert made.expires_at == made.created_at + 86_400
        batch = await until(door, made.id, *OVER)
        assert batch.status == "completed"
        assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (7, 6, 1)
        assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
        assert (batch.model, batch.errors) == ("tiny", None)
        assert batch.usage.total_tokens == 6 * 14
        output = await lines(door, batch.output_file_id)
        assert [line["custom_id"] for line in output] == ["r0", "r1", "r3", "r4", "r5", "r6"]
        assert {line["error"] for line in output} == {None}
        assert {line["response"]["status_code"] for line in output} == {200}
        assert output[0]["response"]["body"]["model"] == "tiny"
        (wrong,) = await lines(door, batch.error_file_id)
        assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("r2", 400)
        assert wrong["response"]["body"]["error"]["param"] == "temperature"
        file = await door.client.files.retrieve(batch.output_file_id)
        assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
        assert [one.id async for one in door.client.batches.list()] == [batch.id]
        assert len(door.events.of(BatchOver)) == 1
        if endpoint == RESPONSES:
            kept = await door.client.responses.retrieve(output[0]["response"]["body"]["id"])
            assert kept.output_text == "Hello"

    in_door(tmp_path, test, generation=Scripted())


def test_a_file_with_mistakes_fails_the_batch_and_names_their_lines(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        data = jsonl(CHAT, [{}]) + b"{\n" + jsonl(CHAT, [{}]) + jsonl(COMPLETIONS, [{}])
        file = await door.client.files.create(file=("in.jsonl", data), purpose="batch")
        made = await door.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        batch = await until(door, made.id, *OVER)
        assert batch.status == "failed"
        assert batch.failed_at is not None
        found = [(error.code, error.line, error.param) for error in batch.errors.data]
        assert found == [("invalid_line", 2, None), ("duplicate_custom_id", 3, "custom_id"), ("invalid_line", 4, "url")]
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        with pytest.raises(openai.ConflictError, match="is failed and cannot be cancelled"):
            await door.client.batches.cancel(batch.id)

    in_door(tmp_path, test, generation=Scripted())


def test_a_batch_is_cancelled_and_what_it_has_is_kept(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def test(door: LiveDoor) -> None:
        answers.script = [said("Hello"), ended()]
        made = await start(door, CHAT, [{}, {}])
        await until(door, made.id, "completed")
        answers.script = [gate, said("Hello"), ended()]
        made = await start(door, CHAT, [{}] * 10)
        async with asyncio.timeout(10):
            while answers.num_open < 4:
                await asyncio.sleep(0.01)
        with pytest.raises(openai.ConflictError) as refused:
            await door.client.files.delete(made.input_file_id)
        assert refused.value.code == "file_in_use"
        cancelling = await door.client.batches.cancel(made.id)
        assert cancelling.status == "cancelling"
        batch = await until(door, made.id, *OVER)
        assert batch.status == "cancelled"
        assert batch.cancelling_at <= batch.cancelled_at
        assert answers.num_open == 0, "what was being answered is not any more"
        assert (batch.request_counts.failed, batch.output_file_id) == (10, None)
        given_up = await lines(door, batch.error_file_id)
        assert [line["custom_id"] for line in given_up] == [f"r{number}" for number in range(10)]
        assert {line["error"]["code"] for line in given_up} == {"batch_cancelled"}
        await door.client.files.delete(made.input_file_id)

    answers = Scripted()
    in_door(tmp_path, test, generation=answers)


def test_a_batch_whose_time_is_over_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaloom.edge.api.openai.kept.batches.routes.COMPLETION_WINDOW_S", {"24h": 0.5})

    async def test(door: LiveDoor) -> None:
        made = await start(door, CHAT, [{"temperature": "hot"}, {}, {}])
        batch = await until(door, made.id, *OVER)
        assert batch.status == "expired"
        assert batch.expired_at is not None
        errors = await lines(door, batch.error_file_id)
        assert [line["custom_id"] for line in errors] == ["r0", "r1", "r2"]
        assert errors[0]["response"]["status_code"] == 400
        assert [line["error"]["code"] for line in errors[1:]] == ["batch_expired"] * 2

    in_door(tmp_path, test, generation=Scripted([asyncio.Event(), ended()]))


def test_full_queues_are_waited_out_and_a_line_that_kills_workers_is_given_up(tmp_path: Path) -> None:
    answers = Scripted(refusals=[QueueFull("full", retry_after_s=0.01)] * 8)

    async def test(door: LiveDoor) -> None:
        made = await start(door, CHAT, [{}] * 3)
        batch = await until(door, made.id, *OVER)
        assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 0)
        assert len(answers.requests) == 11
        answers.script = [said("Hel"), WorkerLost("gone")]
        made = await start(door, CHAT, [{}])
        batch = await until(door, made.id, *OVER)
        assert (batch.status, batch.request_counts.failed) == ("completed", 1)
        assert len(answers.requests) == 11 + runner.MAX_LOST
        (line,) = await lines(door, batch.error_file_id)
        assert line["response"]["body"]["error"]["code"] == "worker_lost"

    in_door(tmp_path, test, generation=answers)


def test_people_are_not_held_back_by_a_batch(tmp_path: Path) -> None:
    gate = asyncio.Event()
    waiting: list[Step] = [gate, said("Hello"), ended()]

    async def test(door: LiveDoor) -> None:
        async with contextlib.AsyncExitStack() as stack:
            person = asyncio.create_task(door.chat())
            stack.callback(person.cancel)
            async with asyncio.timeout(10):
                while not answers.num_open:
                    await asyncio.sleep(0.01)
            made = await start(door, CHAT, [{}] * 12)
            await until(door, made.id, "in_progress")
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert answers.num_open == 2, "the person's, and one of the batch"
            gate.set()
            assert (await person).status_code == 200
        batch = await until(door, made.id, *OVER)
        assert batch.request_counts.completed == 12
        assert answers.most_open <= 4 + 1

    answers = Scripted(waiting)
    in_door(tmp_path, test, generation=answers)


def test_two_doors_on_one_folder_answer_every_line_once(tmp_path: Path) -> None:
    """In one process, so by name they are one: what holds them apart is the store alone."""
    answers = Scripted()

    async def test(door: LiveDoor) -> None:
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "kept").symlink_to(tmp_path / "kept")
        async with live_door(tmp_path / "two", generation=answers) as second:
            made = [await start(one, CHAT, [{}] * 20) for one in (door, second, door)]
            over = [await until(second, batch.id, *OVER) for batch in made]
            assert [batch.request_counts.completed for batch in over] == [20, 20, 20]
            for batch in over:
                assert len(await lines(second, batch.output_file_id)) == 20
            assert len(answers.requests) == 60

    in_door(tmp_path, test, generation=answers)


def test_a_full_store_stalls_a_batch_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(door: LiveDoor) -> None:
        free = [10**12]
        monkeypatch.setattr("thaloom.kernel.state.kept.ledger.free_bytes", lambda _: free[0])
        file = await door.client.files.create(file=("in.jsonl", jsonl(CHAT, [{}] * 3)), purpose="batch")
        free[0] = 0
        made = await door.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        async with asyncio.timeout(10):
            while not door.events.of(ErrandStalled):
                await asyncio.sleep(0.01)
        assert (await door.client.batches.retrieve(made.id)).status == "in_progress"
        free[0] = 10**12
        assert (await until(door, made.id, *OVER)).request_counts.completed == 3

    in_door(tmp_path, test, generation=Scripted())


def test_what_is_no_batch_is_refused(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        other = await door.client.files.create(file=("f", b"x"), purpose="evals")
        right = {"input_file_id": other.id, "endpoint": CHAT, "completion_window": "24h"}
        for change, expected in (
            ({}, (400, "bad_parameter", "input_file_id")),
            ({"input_file_id": "file-none"}, (404, "not_kept", "input_file_id")),
            ({"endpoint": "/v1/images/generations"}, (400, "bad_parameter", "endpoint")),
            ({"completion_window": "7d"}, (400, "bad_parameter", "completion_window")),
            ({"metadata": {"a": 5}}, (400, "bad_parameter", "metadata.a")),
            (
                {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
                (400, "bad_parameter", "output_expires_after.seconds"),
            ),
        ):
            assert refusal(await door.post("/v1/batches", right | change)) == expected
        for path in ("/v1/batches/batch_none", "/v1/batches?after=batch_none"):
            assert refusal(await door.http.get(path))[:2] == (404, "not_kept")
        assert refusal(await door.post("/v1/batches/batch_none/cancel"))[:2] == (404, "not_kept")
        assert refusal(await door.http.get("/v1/batches?limit=101")) == (400, "bad_parameter", "limit")
        assert refusal(await door.http.delete("/v1/batches"))[:2] == (405, "method_not_allowed")

    in_door(tmp_path, test, generation=Scripted())
