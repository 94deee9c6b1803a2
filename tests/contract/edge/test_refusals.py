"""Every refusal over a real socket: the right status, the field by its name, and one form of error body."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import ASK, LiveDoor
from tests.contract.edge.test_openai_client import in_door
from thaloom.base.errors import QueueFull

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PLAIN = {"model": "tiny", "prompt": "x"}


def refusal(response: httpx2.Response) -> tuple[int, str, str | None]:
    """(status, code, param), after a look at the body's form."""
    body = response.json()
    assert set(body) == {"error"}
    assert {"message", "type", "param", "code"} <= set(body["error"])
    assert body["error"]["message"]
    assert response.headers["x-request-id"]
    return response.status_code, body["error"]["code"], body["error"]["param"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_field_is_a_400_that_names_it(tmp_path: Path, stream: bool) -> None:
    async def test(door: LiveDoor) -> None:
        for path, body, param in (
            (CHAT, ASK | {"temperature": "hot"}, "temperature"),
            (CHAT, ASK | {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
            (CHAT, ASK | {"tools": [{"type": "function"}]}, "tools[0].function"),
            (COMPLETIONS, PLAIN | {"prompt": [1, -1]}, "prompt[1]"),
            (COMPLETIONS, PLAIN | {"prompt": ""}, "prompt"),
            (COMPLETIONS, PLAIN | {"prompt": [[1, 2], [3, 100_000]]}, "prompt"),
        ):
            assert refusal(await door.post(path, body | {"stream": stream})) == (400, "bad_parameter", param)
        await door.worker.until_idle()

    in_door(tmp_path, test)


def test_a_body_that_is_no_json_object_is_a_400(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        lone = b'{"model": "\\ud800"}'
        for body in (b"", b"{", b"[]", b"null", b'"x"', b"5", b"\xff\xfe", b"NaN", lone, b"[" * 100_000):
            for path in (CHAT, COMPLETIONS):
                assert refusal(await door.post(path, content=body))[:2] == (400, "bad_request")

    in_door(tmp_path, test)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        body = json.dumps(ASK)[:-1] + ', "metadata": ' + "[" * 5000 + "]" * 5000 + "}"
        assert refusal(await door.post(CHAT, content=body.encode()))[:2] == (400, "bad_request")

    in_door(tmp_path, test)


def zipped(data: bytes) -> dict[str, Any]:
    return {"content": gzip.compress(data), "headers": {"content-encoding": "gzip"}}


def test_a_gzipped_body_is_read(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        for name in ("gzip", "x-gzip", "GZIP"):
            body = zipped(json.dumps(ASK).encode()) | {"headers": {"content-encoding": name}}
            assert (await door.post(CHAT, **body)).status_code == 200

    in_door(tmp_path, test)


def test_other_encodings_are_a_415_that_names_what_is_read(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        for name in ("br", "zstd", "deflate", "gzip, gzip", "x"):
            response = await door.post(CHAT, content=b"xx", headers={"content-encoding": name})
            assert refusal(response)[:2] == (415, "encoding_not_read")
            assert response.headers["accept-encoding"] == "gzip, identity"

    in_door(tmp_path, test)


def test_what_is_no_whole_gzip_is_a_400(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        whole = gzip.compress(json.dumps(ASK).encode())
        for content in (b"", b"xx", whole[:-1], whole[:20], whole + b"x", whole + whole, b"\x1f\x8b" + b"\x00" * 30):
            response = await door.post(CHAT, content=content, headers={"content-encoding": "gzip"})
            assert refusal(response)[:2] == (400, "bad_request")
        response = await door.post(CHAT, **zipped(b"[" * 100_000))
        assert refusal(response)[:2] == (400, "bad_request")

    in_door(tmp_path, test)


def test_a_bomb_is_refused_before_it_is_large(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        bomb = zipped(b" " * (2 * 1024 * 1024 * 1024 // 16))  # 128 MiB of spaces in 130 kB
        twice = zipped(bomb["content"])
        tracemalloc.start()
        try:
            assert refusal(await door.post(CHAT, **bomb))[:2] == (413, "too_large")
            assert refusal(await door.post(CHAT, **twice))[:2] == (400, "bad_request")
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 3 * 8 * 1024 * 1024, "no more of it is made than is read"

    in_door(tmp_path, test)


def test_a_body_that_does_not_arrive_is_a_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaloom.edge.api.routes.body.BODY_DEADLINE_S", 0.05)
    monkeypatch.setattr("thaloom.edge.api.entrance.connection.REST_DEADLINE_S", 0.05)

    async def test(door: LiveDoor) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.rsplit(":", 1)[1]))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(30):
            answer = await reader.read()  # until the door closes: it does not wait for the rest
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"body_late"' in answer

    in_door(tmp_path, test)

    in_door(tmp_path, test)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_refused_as_such(tmp_path: Path, chunked: bool) -> None:
    async def chunks() -> Any:
        for _ in range(9):
            yield b" " * 1024 * 1024

    async def test(door: LiveDoor) -> None:
        content: Any = chunks() if chunked else b" " * (9 * 1024 * 1024)
        try:
            response = await door.post(CHAT, content=content)
        except httpx2.TransportError:
            return  # closed while we were still sending: refused as well
        assert refusal(response)[:2] == (413, "too_large")

    in_door(tmp_path, test)


def test_unknown_paths_and_methods_are_refused_in_the_same_form(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        assert refusal(await door.http.get("/v1/nothing")) == (404, "unknown_path", None)
        assert refusal(await door.http.get("/v1/chat/completions/")) == (404, "unknown_path", None)
        response = await door.http.get(CHAT)
        assert refusal(response) == (405, "method_not_allowed", None)
        assert response.headers["allow"] == "POST"
        assert refusal(await door.http.delete("/v1/models"))[:2] == (405, "method_not_allowed")
        assert refusal(await door.http.get("/v1/models/other")) == (404, "model_not_found", "model")

    in_door(tmp_path, test)


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
def test_foreign_hosts_and_origins_are_refused_on_every_path(tmp_path: Path, headers: dict[str, str]) -> None:
    async def test(door: LiveDoor) -> None:
        for path in ("/v1/models", "/healthz", "/", "/thaloom/v1/status", "/nothing"):
            assert refusal(await door.http.get(path, headers=headers)) == (403, "forbidden", None)
        assert refusal(await door.post(COMPLETIONS, PLAIN, headers=headers)) == (403, "forbidden", None)

    in_door(tmp_path, test)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:5173", "https://[::1]"])
def test_a_page_of_this_machine_may_ask_from_a_browser(tmp_path: Path, origin: str) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}

    async def test(door: LiveDoor) -> None:
        before = await door.http.options(CHAT, headers={"origin": origin} | asked)
        assert (before.status_code, before.content) == (204, b"")
        assert before.headers["access-control-allow-origin"] == origin
        assert "POST" in before.headers["access-control-allow-methods"]
        assert before.headers["access-control-allow-headers"] == "authorization,content-type"
        for answer in (
            await door.post(COMPLETIONS, PLAIN, headers={"origin": origin}),
            await door.http.get("/v1/nothing", headers={"origin": origin}),
        ):
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["vary"] == "Origin"
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-origin" not in (await door.http.get("/v1/models")).headers

    in_door(tmp_path, test)


def test_no_page_is_let_in_to_the_control_api_or_from_elsewhere(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        asked = {"access-control-request-method": "DELETE", "origin": "http://localhost:3000"}
        control = await door.http.options("/thaloom/v1/services/tiny", headers=asked)
        assert "access-control-allow-origin" not in control.headers
        assert control.status_code >= 400
        foreign = await door.http.options(CHAT, headers=asked | {"origin": "https://evil.example"})
        assert refusal(foreign)[:2] == (403, "forbidden")
        assert "access-control-allow-origin" not in foreign.headers

    in_door(tmp_path, test)


def test_too_many_headers_are_refused(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        many = {f"x-{index}": "y" for index in range(200)}
        assert refusal(await door.http.get("/healthz", headers=many))[:2] == (413, "too_large")
        assert refusal(await door.http.get("/healthz", headers={"x": "y" * 40_000}))[:2] == (413, "too_large")

    in_door(tmp_path, test)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_worker_or_its_absence_refuses_keeps_its_status(tmp_path: Path, stream: bool) -> None:
    async def test(door: LiveDoor) -> None:
        door.worker.refuse_with = QueueFull("full", retry_after_s=1.2)
        response = await door.chat(stream=stream)
        assert refusal(response) == (429, "queue_full", None)
        assert response.headers["retry-after"] == "2"
        (there,) = door.routes.routes
        facts = {name: getattr(there, name) for name in there.__slots__}
        for phase, expected in (("loading", (503, "service_loading", None)), ("failed", (503, "service_failed", None))):
            door.routes.routes = [type(there)(**facts | {"phase": phase, "sockets": ()})]
            response = await door.chat(stream=stream)
            assert refusal(response) == expected
            assert ("retry-after" in response.headers) == (phase == "loading")

    in_door(tmp_path, test)


def test_n_answers_are_all_refused_if_one_is(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("x" * 100)
        body = PLAIN | {"prompt": ["ok", "x" * 300], "stream": True}
        assert refusal(await door.post(COMPLETIONS, body))[:2] == (400, "prompt_too_long")
        await door.worker.until_idle()

    in_door(tmp_path, test, worker=FakeWorker(endless=True))
