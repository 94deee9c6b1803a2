"""What is not the OpenAI protocol: health, version, metrics, the document, the front page, the control routes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import LiveDoor, route
from tests.contract.edge.test_connection import exchange
from tests.contract.edge.test_openai_client import in_door
from tests.contract.edge.test_refusals import refusal
from thaloom import __version__
from thaloom.base.errors import NodeNotRunning
from thaloom.edge.api.app import PAGES
from thaloom.edge.api.openai.speaking import EXCHANGES, GENERATIONS


def test_health_and_version(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        assert (await door.http.get("/healthz")).json() == {"status": "alive"}
        assert (await door.http.get("/version")).json() == {"name": "thaloom", "version": __version__}

    in_door(tmp_path, test)


def test_readiness_tells_of_every_service(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        (there,) = door.routes.routes
        door.routes.routes.append(route(tmp_path, there.tokenizer_files, name="big", phase="loading", sockets=()))
        ready = await door.http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "ready",
            "services": [{"name": "tiny", "ready": True}, {"name": "big", "ready": False}],
        }

    in_door(tmp_path, test)


def test_without_routes_the_door_lives_and_is_not_ready(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        def gone() -> Any:
            raise NodeNotRunning("no routes")

        door.routes.current = gone  # type: ignore[method-assign]
        assert (await door.http.get("/healthz")).status_code == 200
        for path in ("/readyz", "/v1/models", "/v1/models/tiny"):
            assert refusal(await door.http.get(path)) == (503, "node_not_running", None)
        assert refusal(await door.chat()) == (503, "node_not_running", None)
        metrics = await door.http.get("/metrics")
        assert metrics.status_code == 200
        assert "thaloom_routes_readable 0.0" in metrics.text

    in_door(tmp_path, test)


def test_the_front_page_leads_to_pages_that_exist(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        page = await door.http.get("/")
        assert page.headers["content-type"].startswith("text/html")
        links = [part.split('"')[0] for part in page.text.split('href="')[1:]]
        assert links == list(PAGES)
        for link in links:
            assert (await door.http.get(link)).status_code in (200, 405, 503), link

    in_door(tmp_path, test)


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        (there,) = door.routes.routes
        door.routes.routes.append(
            route(tmp_path, there.tokenizer_files, name="gone", sockets=(str(tmp_path / "gone.sock"),))
        )
        assert (await door.chat()).status_code == 200
        assert (await door.chat(stream=True)).status_code == 200
        assert (await door.chat(model="no such")).status_code == 404
        assert (await door.chat(temperature="hot")).status_code == 400
        page = await door.http.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(page.text)}
        values = {
            (sample.name, *(value for name, value in sorted(sample.labels.items()))): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert values["thaloom_requests_total", "POST", "/v1/chat/completions", "200"] == 2
        assert values["thaloom_requests_total", "POST", "/v1/chat/completions", "404"] == 1
        assert values["thaloom_errors_total", "model_not_found"] == 1
        assert values["thaloom_errors_total", "bad_parameter"] == 1
        assert values["thaloom_completion_tokens_total", "tiny"] == 2 * len(door.worker.tokens)
        assert values["thaloom_cached_prompt_tokens_total", "tiny"] == 32
        for name in ("time_to_first_token", "time_per_output_token", "queue", "prefill", "decode", "answer"):
            assert values[f"thaloom_{name}_seconds_count", "tiny"] == 2
        assert values["thaloom_inter_token_seconds_count", "tiny"] == 2 * (len(door.worker.tokens) - 1)
        assert values["thaloom_inter_token_seconds_sum", "tiny"] == pytest.approx(2 * 0.003)
        assert values["thaloom_answers_total", "stop", "tiny"] == 2
        assert values["thaloom_worker_up", "tiny", "tiny"] == 1
        assert values["thaloom_worker_up", "tiny", "gone"] == 0
        assert values["thaloom_worker_kv_blocks_used", "tiny", "tiny"] == 4
        assert values["thaloom_worker_degraded", "tiny", "tiny"] == 1
        assert ("thaloom_worker_kv_blocks", "tiny", "gone") not in values  # not up is not zero
        info = families["thaloom_worker_info"].samples[0].labels
        assert (info["degraded"], info["device"]) == ("no compiler", "cpu")

    in_door(tmp_path, test, worker=FakeWorker(degraded="no compiler"))


def test_every_metric_is_ours_and_says_what_it_is(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        page = await door.http.get("/metrics")
        for family in text_string_to_metric_families(page.text):
            assert family.name.startswith(("thaloom_", "vllm:", "process_"))
            assert family.documentation.endswith(".")
            assert family.type in ("counter", "gauge", "histogram")
            assert not family.name.endswith("_created")

    in_door(tmp_path, test)


def test_what_can_be_got_can_be_asked_for_its_head(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        for path in (*PAGES, "/v1/models/tiny", "/nothing"):
            if not path.startswith(("/thaloom", "/v1/c", "/v1/messages", "/api/chat")):
                head, got = await door.http.head(path), await door.http.get(path)
                assert (head.status_code, head.content) == (got.status_code, b""), path

    in_door(tmp_path, test)


def test_labels_do_not_grow_with_what_strangers_try(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        for index in range(5):
            await door.http.get(f"/stranger/{index}")
            await door.http.request(f"METHOD{index}", "/")
            await door.chat(model=f"stranger{index}")
        page = (await door.http.get("/metrics")).text
        assert "stranger" not in page
        assert "METHOD" not in page

    in_door(tmp_path, test)


def test_a_model_asked_for_by_its_long_name_is_the_same_model(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        short, long = (await door.chat(model="tiny")).json(), (await door.chat(model="tiny:latest")).json()
        assert short["system_fingerprint"] == long["system_fingerprint"]
        assert (short["model"], long["model"]) == ("tiny", "tiny:latest")
        assert 'model="tiny:latest"' not in (await door.http.get("/metrics")).text

    in_door(tmp_path, test)


def test_the_document_describes_every_route(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        document = (await door.http.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
        pages = {path for path in PAGES if not path.startswith("/thaloom/")}
        assert {"/", "/v1/models/{model}", *GENERATIONS, *EXCHANGES, *pages} <= set(document["paths"])
        text = json.dumps(document)
        for reference in text.split('"$ref": "')[1:]:
            name = reference.split('"')[0].removeprefix("#/components/schemas/")
            assert name in document["components"]["schemas"]
        assert "messages" in document["components"]["schemas"]["ChatRequest"]["properties"]

    in_door(tmp_path, test)


# -- control routes


async def _echo(request: Request) -> JSONResponse:
    return JSONResponse(
        {"method": request.method, "path": str(request.url.path), "query": str(request.url.query),
         "body": (await request.body()).decode(), "host": request.headers["host"]},
        status_code=418, headers={"x-of-the-daemon": "yes"},
    )  # fmt: skip


async def _lines(_: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        yield b"one\n"
        await asyncio.sleep(30)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@contextlib.asynccontextmanager
async def control(socket: Path) -> AsyncIterator[uvicorn.Server]:
    app = Starlette(
        routes=[Route("/thaloom/v1/lines", _lines), Route("/{path:path}", _echo, methods=["GET", "PUT", "POST"])]
    )
    server = uvicorn.Server(
        uvicorn.Config(app, uds=str(socket), loop="asyncio", ws="none", log_config=None, timeout_graceful_shutdown=1)
    )
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            while not server.started:
                await asyncio.sleep(0.005)
        yield server
    finally:
        server.should_exit = True
        await running


def test_control_requests_are_passed_on_whole(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        async with control(tmp_path / "control.sock"):
            response = await door.http.put("/thaloom/v1/services/a%20b?x=1&y=%C3%A9", content=b'{"a": 1}')
            assert response.status_code == 418
            assert response.headers["x-of-the-daemon"] == "yes"
            assert response.headers["x-request-id"]
            assert response.json() == {
                "method": "PUT", "path": "/thaloom/v1/services/a b", "query": "x=1&y=%C3%A9", "body": '{"a": 1}',
                "host": "localhost",
            }  # fmt: skip

    in_door(tmp_path, test)


@pytest.mark.parametrize("path", ["/thaloom/v1/../../healthz", "/thaloom/v1/%2e%2e/%2E%2e/x", "/thaloom/v1/a/.."])
def test_nothing_outside_the_control_paths_can_be_reached_through_them(tmp_path: Path, path: str) -> None:
    async def test(door: LiveDoor) -> None:
        async with control(tmp_path / "control.sock"):
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            answer = await exchange(door, request.encode())
            assert answer.startswith(b"HTTP/1.1 404")
            assert b"unknown_path" in answer

    in_door(tmp_path, test)


def test_headers_that_are_not_ascii_are_passed_on_too(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        async with control(tmp_path / "control.sock"):
            head = b"POST /thaloom/v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n"
            answer = await exchange(door, head + b"Content-Type: \xff\xfe\r\nAccept: \xe9\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 418")

    in_door(tmp_path, test)


def test_control_streams_come_as_they_are_made_and_end_with_their_reader(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        async with control(tmp_path / "control.sock") as server:
            async with door.http.stream("GET", "/thaloom/v1/lines") as response:
                assert await anext(response.aiter_lines()) == "one"
            async with asyncio.timeout(30):
                while server.server_state.tasks:
                    await asyncio.sleep(0.005)

    in_door(tmp_path, test)


def test_without_a_daemon_control_is_away_and_models_are_served(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hi")
        assert refusal(await door.http.get("/thaloom/v1/status")) == (503, "node_not_running", None)
        assert (await door.chat()).status_code == 200

    in_door(tmp_path, test)


def test_a_control_body_has_a_bound(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        response = await door.http.put("/thaloom/v1/services/x", content=b" " * (1024 * 1024 + 1))
        assert refusal(response)[:2] == (413, "too_large")

    in_door(tmp_path, test)
