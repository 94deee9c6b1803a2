"""Keys and their limits over a real socket: who is let in, what is refused, when it may come again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.edge.doorkeepers import FixedKeys, bearer, guarded_door
from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import ASK, LiveDoor
from tests.contract.edge.test_refusals import CHAT, COMPLETIONS, refusal
from thaloom.base.errors import QueueFull

Test = Callable[[LiveDoor, FixedKeys], Awaitable[None]]


def in_guarded_door(folder: Path, test: Test, **options: Any) -> None:
    async def run() -> None:
        keys = FixedKeys()
        async with guarded_door(folder, keys, **options) as door:
            door.say("Hello")
            await test(door, keys)

    asyncio.run(run())


async def ask(door: LiveDoor, key: str | None, **body: Any) -> Any:
    return await door.post(CHAT, ASK | body, headers={} if key is None else bearer(key))


def test_a_keys_priority_goes_with_its_requests(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        keys.require_keys = False
        for key in (keys.add("a", priority="high"), None, keys.add("c", priority="low")):
            await ask(door, key)
        assert [request.rank for request in door.worker.requests] == [0, 1, 2]

    in_guarded_door(tmp_path, test)


def test_a_key_and_what_was_narrowed_from_it_are_one_owner(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        keys.require_keys = False
        first = keys.add("first")
        narrowed = keys.add("narrowed", parent="first")
        for key in (first, narrowed, keys.add("again", parent="narrowed"), keys.add("other"), None):
            await ask(door, key)
        *mine, others, nobodys = [request.owner for request in door.worker.requests]
        assert len({*mine}) == 1
        assert others not in (mine[0], "")
        assert nobodys == ""

    in_guarded_door(tmp_path, test)


def test_without_any_key_nobody_is_asked_for_one(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        for key in (None, "none", "sk-whatever"):
            response = await ask(door, key)
            assert response.status_code == 200
            assert not any(name.startswith("x-ratelimit") for name in response.headers)

    in_guarded_door(tmp_path, test)


def test_a_key_opens_by_the_habits_of_every_client(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice")
        for headers in (
            bearer(key),
            {"Authorization": f"bearer  {key}"},
            {"x-api-key": key},
            {"api-key": key},
            {"authorization": "Bearer none", "x-api-key": key},
            {"authorization": "Basic xyz", "api-key": key},
        ):
            assert (await door.post(CHAT, ASK, headers=headers)).status_code == 200
            assert (await door.http.get("/v1/models", headers=headers)).status_code == 200

    in_guarded_door(tmp_path, test)


def test_who_has_no_key_is_a_401_that_says_how(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice")
        for headers in ({}, bearer("none"), bearer(key[:-1]), {"x-api-key": key + "x"}, {"authorization": key}):
            for path in (CHAT, COMPLETIONS):
                response = await door.post(path, ASK, headers=headers)
                assert refusal(response) == (401, "unauthorized", None)
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["error"]["type"] == "authentication_error"
                assert key[:30] not in response.text
            keys.clock.at += 60.0  # who guesses slowly is told so each time
            assert refusal(await door.http.get("/v1/models", headers=headers))[0] == 401
            assert refusal(await door.http.get("/nothing", headers=headers))[0] == 401
        client = openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
        await client.close()
        assert door.worker.requests == []

    in_guarded_door(tmp_path, test)


def test_probes_and_what_describes_the_door_need_no_key(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        keys.add("alice")
        for path in ("/", "/healthz", "/readyz", "/version", "/metrics", "/openapi.json"):
            assert (await door.http.get(path)).status_code == 200

    in_guarded_door(tmp_path, test)


def test_where_keys_are_required_the_control_api_asks_for_one_too(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        assert refusal(await door.http.get("/thaloom/v1/status"))[1] == "node_not_running", "handed on, to nobody"
        key = keys.add("alice")
        for headers in ({}, bearer("none")):
            assert refusal(await door.http.get("/thaloom/v1/status", headers=headers))[:2] == (401, "unauthorized")
        answer = await door.http.get("/thaloom/v1/status", headers=bearer(key))
        assert refusal(answer)[1] == "node_not_running", "handed on: what its holder may is the daemon's to say"

    in_guarded_door(tmp_path, test)


def test_where_keys_are_not_required_only_those_shown_have_limits(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        keys.require_keys = False
        key = keys.add("alice", requests_per_minute=1)
        for anyone in (None, "none", key):
            assert (await ask(door, anyone)).status_code == 200
        assert refusal(await ask(door, key))[0] == 429
        assert (await ask(door, None)).status_code == 200

    in_guarded_door(tmp_path, test)


def test_an_expired_key_opens_nothing(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", expires_at=1010.0)
        assert (await ask(door, key)).status_code == 200
        keys.clock.at = 1010.0
        keys.require_keys = False
        keys.add("bob")
        response = await ask(door, key)
        assert refusal(response)[:2] == (401, "unauthorized"), "not even where keys are not required"
        assert "expired" in response.json()["error"]["message"]

    in_guarded_door(tmp_path, test)


def test_a_key_is_for_its_models_only(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", models=("tiny",))
        other = keys.add("bob", models=("other",))
        assert (await ask(door, key)).status_code == 200
        assert (await ask(door, key, model="tiny:latest")).status_code == 200
        for stream in (False, True):
            assert refusal(await ask(door, other, stream=stream)) == (403, "forbidden", "model")
        assert refusal(await ask(door, key, model="other")) == (403, "forbidden", "model")

    in_guarded_door(tmp_path, test)


@pytest.mark.parametrize("stream", [False, True])
def test_requests_a_minute(tmp_path: Path, stream: bool) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", requests_per_minute=2)
        bob = keys.add("bob", requests_per_minute=1)
        for left in (1, 0):
            response = await ask(door, key, stream=stream)
            assert response.status_code == 200
            assert response.headers["x-ratelimit-limit-requests"] == "2"
            assert response.headers["x-ratelimit-remaining-requests"] == str(left)
        assert response.headers["x-ratelimit-reset-requests"] == "1m0s"
        response = await ask(door, key, stream=stream)
        assert refusal(response) == (429, "rate_limited", None)
        assert response.headers["retry-after"] == "30"
        assert response.json()["error"]["retry_after_s"] == 30.0
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert (await ask(door, bob, stream=stream)).status_code == 200, "the limits of one are not another's"
        assert len(door.worker.requests) == 3
        keys.clock.at += 12.5
        assert (await ask(door, key, stream=stream)).headers["retry-after"] == "18"
        keys.clock.at += 17.5
        assert (await ask(door, key, stream=stream)).status_code == 200, "after the time that was told"

    in_guarded_door(tmp_path, test)


def test_several_answers_of_one_request_count_once_and_so_does_their_prompt(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", requests_per_minute=5, tokens_per_minute=100_000)
        response = await ask(door, key, n=3)
        assert response.headers["x-ratelimit-remaining-requests"] == "4"
        usage = response.json()["usage"]
        assert response.headers["x-ratelimit-remaining-tokens"] == str(100_000 - usage["total_tokens"])
        assert response.headers["x-thaloom-prompt-tokens"] == str(usage["prompt_tokens"])
        assert response.headers["x-thaloom-completion-tokens"] == str(usage["completion_tokens"])

    in_guarded_door(tmp_path, test)


def test_what_asks_no_model_is_not_counted(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", requests_per_minute=1)
        for _ in range(3):
            response = await door.http.get("/v1/models", headers=bearer(key))
            assert response.headers["x-ratelimit-remaining-requests"] == "1"
        assert refusal(await ask(door, key, temperature="hot"))[0] == 400
        assert (await ask(door, key)).status_code == 200

    in_guarded_door(tmp_path, test)


def test_tokens_a_minute_are_reserved_before_and_corrected_after(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", tokens_per_minute=200)
        response = await ask(door, key, max_tokens=150)
        usage = response.json()["usage"]
        left = 200 - usage["total_tokens"]
        assert response.headers["x-ratelimit-remaining-tokens"] == str(left), "what did not come is given back"
        response = await ask(door, key, max_tokens=200)
        assert refusal(response) == (429, "rate_limited", None)
        assert response.json()["error"]["details"] == {"limit_of": "tokens", "limit": 200}
        assert response.json()["error"]["retry_after_s"] == pytest.approx((200 - left) * 60 / 200)
        keys.clock.at += response.json()["error"]["retry_after_s"]
        assert (await ask(door, key, max_tokens=200)).status_code == 200

    in_guarded_door(tmp_path, test)


def test_what_the_worker_refuses_costs_no_tokens(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", tokens_per_minute=200)
        door.worker.refuse_with = QueueFull("full", retry_after_s=1.0)
        response = await ask(door, key, max_tokens=100)
        assert refusal(response)[:2] == (429, "queue_full")
        assert response.headers["x-ratelimit-remaining-tokens"] == "200"

    in_guarded_door(tmp_path, test)


def test_who_leaves_pays_for_what_came(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", tokens_per_minute=1000)
        body = ASK | {"stream": True, "max_tokens": 200}
        async with door.http.stream("POST", CHAT, json=body, headers=bearer(key)) as response:
            assert int(response.headers["x-ratelimit-remaining-tokens"]) < 800, "reserved"
            async for line in response.aiter_lines():
                if "content" in line and '""' not in line:
                    break
        await door.worker.until_idle()
        for _ in range(200):  # until the door has seen it too
            response = await door.http.get("/v1/models", headers=bearer(key))
            left = int(response.headers["x-ratelimit-remaining-tokens"])
            if left > 800:
                break
            await asyncio.sleep(0.01)
        assert 800 < left < 1000

    in_guarded_door(tmp_path, test, worker=FakeWorker(endless=True))


def test_requests_at_the_same_time(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", concurrent=2)
        door.worker.pause = asyncio.Event()
        running = [asyncio.create_task(ask(door, key)) for _ in range(2)]
        while len(door.worker.requests) < 2:
            await asyncio.sleep(0.005)
        response = await ask(door, key)
        assert refusal(response)[:2] == (429, "rate_limited")
        assert int(response.headers["retry-after"]) >= 1
        door.worker.pause.set()
        assert [one.status_code for one in await asyncio.gather(*running)] == [200, 200]
        for _ in range(5):
            assert (await ask(door, key)).status_code == 200, "one after another is no more than one at a time"

    in_guarded_door(tmp_path, test)


def test_however_a_request_ends_its_place_is_free_again(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice", concurrent=1)
        door.worker.die_after = 0
        assert (await ask(door, key)).status_code == 502
        door.worker.die_after = None
        door.worker.refuse_with = QueueFull("full", retry_after_s=1.0)
        assert refusal(await ask(door, key))[1] == "queue_full"
        door.worker.refuse_with = None
        door.worker.endless = True
        async with door.http.stream("POST", CHAT, json=ASK | {"stream": True}, headers=bearer(key)) as response:
            async for _ in response.aiter_lines():
                break
        await door.worker.until_idle()
        door.worker.endless = False
        for _ in range(200):  # until the door has seen it too
            if (response := await ask(door, key)).status_code == 200:
                break
            await asyncio.sleep(0.01)
        assert response.status_code == 200

    in_guarded_door(tmp_path, test)


def test_the_log_tells_whose_request_it_was_and_never_the_key(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        key = keys.add("alice")
        await ask(door, key)
        await door.http.get("/v1/models", headers=bearer(key))
        answered, listed = [event for event in door.events.events if event.name in ("AnswerServed", "RequestServed")]
        facts = answered.fields()
        assert (facts["key"], facts["model"], facts["finish"]) == ("alice", "tiny", ("stop",))
        assert facts["prompt_tokens"] == len(door.worker.requests[0].prompt)
        assert facts["completion_tokens"] == len(door.worker.tokens)
        assert (facts["cached_tokens"], facts["queue_ms"], facts["prefill_ms"]) == (16, 1.0, 2.0)
        assert facts["decode_ms"] == 3.0
        assert listed.fields()["key"] == "alice"
        assert key[20:] not in str(door.events.events)

    in_guarded_door(tmp_path, test)


def test_a_stream_tells_its_cost_in_a_comment_if_asked_to(tmp_path: Path) -> None:
    async def test(door: LiveDoor, keys: FixedKeys) -> None:
        for asked in (False, True):
            headers = {"x-thaloom-cost": "1"} if asked else {}
            response = await door.post(CHAT, ASK | {"stream": True}, headers=headers)
            lines = [line for line in response.text.split("\n\n") if line]
            assert lines[-1] == "data: [DONE]"
            assert lines[-2].startswith(": server-timing: queue;dur=1.0, prefill;dur=2.0, decode;dur=3.0; ") == asked
            assert sum(line.startswith(":") for line in lines) == asked

    in_guarded_door(tmp_path, test)
