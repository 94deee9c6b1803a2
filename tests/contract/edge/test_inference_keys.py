"""Keys and their limits hold for what models of tensors compute, as they do for answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2

from tests.contract.edge.doorkeepers import FixedKeys, bearer, guarded_door
from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.scripted_door import Scripted

TENSOR = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}
ASKED: dict[str, dict[str, Any]] = {
    "/v2/models/tiny/infer": {"json": {"inputs": [TENSOR]}},
    "/v1/images/generations": {"json": {"model": "tiny", "prompt": "hi"}},
    "/v1/audio/speech": {"json": {"model": "tiny", "input": "hi", "voice": "a"}},
    "/v1/audio/transcriptions": {"data": {"model": "tiny"}, "files": {"file": ("s.wav", b"RIFF")}},
}


async def ask(door: LiveDoor, path: str, key: str | None) -> httpx2.Response:
    return await door.http.post(path, headers={} if key is None else bearer(key), **ASKED[path])


def test_no_key_computes_nothing_and_a_key_only_what_it_is_for(tmp_path: Path) -> None:
    async def run() -> None:
        keys, scripted = FixedKeys(), Scripted(names=("tiny", "other"))
        async with guarded_door(tmp_path, keys, generation=scripted) as door:
            good, other = keys.add("good", models=("tiny",)), keys.add("other", models=("other",))
            for path in ASKED:
                assert (await ask(door, path, None)).status_code == 401, path
                assert (await ask(door, path, "wrong")).status_code == 401, path
                assert (await ask(door, path, other)).status_code == 403, path
                assert (await ask(door, path, good)).status_code == 200, path
            for path in ("/v2", "/v2/models/tiny", "/v2/models/tiny/ready"):
                assert (await door.http.get(path)).status_code == 401, path
                assert (await door.http.get(path, headers=bearer(good))).status_code == 200, path
            assert (await door.http.get("/v2/models/tiny", headers=bearer(other))).status_code == 403
            for path in ("/v2/health/live", "/v2/health/ready"):
                assert (await door.http.get(path)).status_code == 200

    asyncio.run(run())


def test_each_counts_as_a_request_and_takes_no_tokens(tmp_path: Path) -> None:
    async def run() -> None:
        keys = FixedKeys()
        async with guarded_door(tmp_path, keys, generation=Scripted()) as door:
            key = keys.add("few", requests_per_minute=4, tokens_per_minute=10)
            for left, path in zip((3, 2, 1, 0), ASKED, strict=True):
                answer = await ask(door, path, key)
                assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
                assert answer.headers["x-ratelimit-remaining-tokens"] == "10"
            for path in ASKED:
                refused = await ask(door, path, key)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "15"), path

    asyncio.run(run())
