"""Doors are killed with -9 in the middle of a batch and of uploads; the next one goes on, and every line is answered
once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.test_door_process import door_process, home_with_routes

NUM_LINES = 120


@contextlib.asynccontextmanager
async def busy_door(home: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx2.AsyncClient]]:
    """A door process whose log is read, or a pipe full of served requests would stop it."""
    async with door_process(home) as (process, client):
        assert process.stderr is not None
        reading = asyncio.create_task(process.stderr.read())
        try:
            yield process, client
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def jsonl() -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"r{number}",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "tiny", "prompt": "x", "seed": number, "max_tokens": 20},
            }
        ).encode()
        + b"\n"
        for number in range(NUM_LINES)
    )


async def upload(client: httpx2.AsyncClient) -> str:
    response = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", jsonl())})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def batch_of(client: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/v1/batches/{batch_id}")).json()
    return found


async def until_answered(client: httpx2.AsyncClient, batch_id: str, num: int) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (batch := await batch_of(client, batch_id))["request_counts"]["completed"] < num:
            await asyncio.sleep(0.005)
    return batch


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_batch_outlives_its_doors_and_answers_every_line_once(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[39, 72] * 8)
        home = home_with_routes(tmp_path)
        async with worker.listening(tmp_path / "w.sock"):
            async with busy_door(home) as (process, client):
                file_id = await upload(client)
                asked = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
                batch_id = (await client.post("/v1/batches", json=asked)).json()["id"]
                await until_answered(client, batch_id, 5)
                process.send_signal(signal.SIGKILL)
                await process.wait()
            answered = answered_on_disk(home)
            assert 5 <= len(answered) < NUM_LINES, "it was not killed in the middle"
            async with busy_door(home) as (process, client), busy_door(home) as (other, _):
                await until_answered(client, batch_id, len(answered) + 20)
                process.send_signal(signal.SIGKILL)  # one of the two works on it: that one, or the other goes on
                await process.wait()
                assert other.returncode is None
            async with busy_door(home) as (process, client):
                batch = await until_answered(client, batch_id, NUM_LINES)
                async with asyncio.timeout(30):
                    while (batch := await batch_of(client, batch_id))["status"] != "completed":
                        await asyncio.sleep(0.01)
                assert batch["request_counts"] == {"total": NUM_LINES, "completed": NUM_LINES, "failed": 0}
                output = (await client.get(f"/v1/files/{batch['output_file_id']}/content")).text.splitlines()
                assert [json.loads(line)["custom_id"] for line in output] == [f"r{n}" for n in range(NUM_LINES)]
                for text in answered.values():
                    assert text in output, "what was answered before the first kill is the answer"
                assert len((await client.get("/v1/files")).json()["data"]) == 2
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 30) == 0

    asyncio.run(run())


def answered_on_disk(home: Path) -> dict[int, str]:
    database = sqlite3.connect(home / "kept" / "kept.db")
    try:
        return dict(database.execute("SELECT line, text FROM lines").fetchall())
    finally:
        database.close()


def test_an_upload_cut_by_kill_9_leaves_nothing_for_the_next_door(tmp_path: Path) -> None:
    async def run() -> None:
        home = home_with_routes(tmp_path)
        head = (
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b1\r\n"
            b"Content-Length: 9000000\r\n\r\n"
            b'--b1\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        )
        async with busy_door(home) as (process, client):
            port = client.base_url.port
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"x" * 4_000_000)
            async with asyncio.timeout(30):
                while not any(path.stat().st_size for path in (home / "kept").glob("files/*.partial")):
                    await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            writer.close()
        assert len(list((home / "kept" / "files").iterdir())) == 1
        async with busy_door(home) as (_, client):
            assert (await client.get("/v1/files")).json()["data"] == []
            async with asyncio.timeout(30):
                while list((home / "kept" / "files").iterdir()):
                    await asyncio.sleep(0.01)
            await upload(client)

    asyncio.run(run())
