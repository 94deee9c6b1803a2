"""What is done later for the holder of a key is done under the limits of that key, and comes last."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.edge.doorkeepers import FixedKeys, bearer, guarded_door
from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.rehearsed import Scripted
from tests.contract.edge.test_refusals import refusal
from thaloom.base.clock import SystemClock
from thaloom.edge.api.openai.kept import errands
from thaloom.kernel.state.kept import open_kept
from thaloom.kernel.state.types import Keys

BODY = {"model": "tiny", "prompt": "x"}
BACKGROUND = {"model": "tiny", "input": "hi", "background": True}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "POLL_S", 0.05)


async def errors_of_a_batch(door: LiveDoor, key: str) -> list[int]:
    """The statuses of a batch's lines that were refused, after all of it."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": BODY}
    files = {"file": ("in.jsonl", json.dumps(line).encode())}
    made = await door.http.post("/v1/files", data={"purpose": "batch"}, files=files, headers=bearer(key))
    asked = {"input_file_id": made.json()["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    batch: dict[str, Any] = (await door.post("/v1/batches", asked, headers=bearer(key))).json()
    async with asyncio.timeout(20):
        while batch["status"] != "completed":
            await asyncio.sleep(0.01)
            batch = (await door.http.get(f"/v1/batches/{batch['id']}", headers=bearer(key))).json()
    if batch["error_file_id"] is None:
        return []
    errors = await door.http.get(f"/v1/files/{batch['error_file_id']}/content", headers=bearer(key))
    return [json.loads(text)["response"]["status_code"] for text in errors.text.splitlines()]


async def made(door: LiveDoor, key: str) -> dict[str, Any]:
    response: dict[str, Any] = (await door.post("/v1/responses", BACKGROUND, headers=bearer(key))).json()
    async with asyncio.timeout(20):
        while response["status"] in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
            response = (await door.http.get(f"/v1/responses/{response['id']}", headers=bearer(key))).json()
    return response


def test_batches_and_the_background_have_the_limits_of_who_asked(tmp_path: Path) -> None:
    answers = Scripted()

    async def run() -> None:
        keys = FixedKeys()
        free, bound = keys.add("free"), keys.add("bound", models=("other",))
        async with guarded_door(tmp_path, keys, generation=answers) as door:
            assert refusal(await door.http.get("/v1/batches"))[:2] == (401, "unauthorized")
            assert await errors_of_a_batch(door, free) == []
            assert (await made(door, free))["status"] == "completed"
            assert {request.priority for request in answers.requests} == {"low"}
            assert len(answers.requests) == 2
            assert await errors_of_a_batch(door, bound) == [403]
            response = await made(door, bound)
            assert (response["status"], response["error"]["type"]) == ("failed", "forbidden")
            assert len(answers.requests) == 2, "nothing was generated for a key that may not"

    asyncio.run(run())


def test_what_was_asked_with_a_key_that_is_gone_is_not_done(tmp_path: Path) -> None:
    gate = asyncio.Event()
    answers = Scripted([gate, *Scripted().script])

    async def run() -> None:
        keys = FixedKeys()
        first = keys.add("first")
        keys.add("another")
        async with guarded_door(tmp_path, keys, generation=answers) as door:
            asked = [(await door.post("/v1/responses", BACKGROUND, headers=bearer(first))).json() for _ in range(6)]
            async with asyncio.timeout(20):
                while answers.num_open < 4:
                    await asyncio.sleep(0.01)
            left = tuple(key for key in keys.keys.keys if key.name != "first")
            keys.keys = Keys(version=9, published_at=0.0, require_keys=True, keys=left)
            gate.set()
            kept = open_kept(door.folder / "kept", SystemClock())  # no key reads them any more
            found = []
            for response in asked:
                async with asyncio.timeout(20):
                    while response["status"] in ("queued", "in_progress"):
                        await asyncio.sleep(0.01)
                        response = kept.responses.get(response["id"], holder="first").body
                found.append((response["status"], response["error"] and response["error"]["type"]))
            kept.close()
            assert found == [("completed", None)] * 4 + [("failed", "unauthorized")] * 2

    asyncio.run(run())


def test_what_one_key_keeps_is_there_for_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        keys = FixedKeys()
        mine, others = keys.add("mine"), keys.add("others")
        async with guarded_door(tmp_path, keys, generation=Scripted()) as door:
            line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": BODY}
            files = {"file": ("in.jsonl", json.dumps(line).encode())}
            made = await door.http.post("/v1/files", data={"purpose": "batch"}, files=files, headers=bearer(mine))
            file = made.json()["id"]
            wish = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
            batch = (await door.post("/v1/batches", wish, headers=bearer(mine))).json()["id"]
            said = {"model": "tiny", "input": "my secret"}
            response = (await door.post("/v1/responses", said, headers=bearer(mine))).json()["id"]
            waiting = (await door.post("/v1/responses", BACKGROUND, headers=bearer(mine))).json()["id"]
            stream = await door.post("/v1/responses", BACKGROUND | {"stream": True}, headers=bearer(mine))
            told = json.loads(stream.text.split("data: ")[1].split("\n")[0])["response"]["id"]
            again = await door.http.get(f"/v1/responses/{told}?stream=true", headers=bearer(mine))
            assert again.text == stream.text
            theirs: list[tuple[str, str, Any]] = [
                ("GET", f"/v1/files/{file}", None),
                ("GET", f"/v1/files/{file}/content", None),
                ("GET", f"/v1/files?after={file}", None),
                ("DELETE", f"/v1/files/{file}", None),
                ("POST", "/v1/batches", wish),
                ("GET", f"/v1/batches/{batch}", None),
                ("GET", f"/v1/batches?after={batch}", None),
                ("POST", f"/v1/batches/{batch}/cancel", {}),
                ("GET", f"/v1/responses/{response}", None),
                ("GET", f"/v1/responses/{response}/input_items", None),
                ("GET", f"/v1/responses/{told}?stream=true", None),
                ("GET", f"/v1/responses/{told}?stream=true&starting_after=0", None),
                ("POST", "/v1/responses", said | {"previous_response_id": response}),
                ("POST", "/v1/responses/input_tokens", said | {"previous_response_id": response}),
                ("POST", f"/v1/responses/{waiting}/cancel", {}),
                ("DELETE", f"/v1/responses/{response}", None),
            ]
            for method, path, body in theirs:
                answer = await door.http.request(method, path, json=body, headers=bearer(others))
                assert refusal(answer)[:2] == (404, "not_kept"), (method, path)
            for path in ("/v1/files", "/v1/batches"):
                assert (await door.http.get(path, headers=bearer(others))).json()["data"] == []
                assert len((await door.http.get(path, headers=bearer(mine))).json()["data"]) >= 1
            async with asyncio.timeout(20):
                while (now := (await door.http.get(f"/v1/batches/{batch}", headers=bearer(mine))).json())[
                    "status"
                ] != "completed":
                    await asyncio.sleep(0.01)
            output = f"/v1/files/{now['output_file_id']}/content"
            assert (await door.http.get(output, headers=bearer(mine))).status_code == 200
            assert refusal(await door.http.get(output, headers=bearer(others)))[:2] == (404, "not_kept")
            more = said | {"previous_response_id": response}
            assert (await door.post("/v1/responses", more, headers=bearer(mine))).status_code == 200
            for method, path, body in theirs[-1:] + theirs[3:4]:
                answer = await door.http.request(method, path, json=body, headers=bearer(mine))
                assert answer.json()["deleted"] is True

    asyncio.run(run())
