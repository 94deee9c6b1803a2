"""The door as a process: opens, serves, refuses to be seen from outside, ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import ASK, route, text_files
from thaloom.door import listen, openapi_document
from thaloom.kernel.state.routes import publish
from thaloom.kernel.state.types import Routes


@contextlib.asynccontextmanager
async def door_process(home: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx2.AsyncClient]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "thaloom.door", "--home", str(home), "--port", "0", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        opened = json.loads(await asyncio.wait_for(process.stderr.readline(), 30))
        assert opened["event"] == "DoorOpened"
        assert opened["pid"] == process.pid
        async with httpx2.AsyncClient(base_url=opened["url"], trust_env=False, verify=False, timeout=20) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def home_with_routes(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    there = route(tmp_path, text_files(tmp_path / "model"))
    publish(run / "routes.json", Routes(version=1, published_at=0.0, control_socket="", routes=(there,)))
    return tmp_path


def test_it_serves_from_published_routes_and_finishes_streams_before_it_ends(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[39, 72], pause=asyncio.Event())
        home = home_with_routes(tmp_path)
        async with worker.listening(tmp_path / "w.sock"), door_process(home) as (process, client):
            assert (await client.get("/readyz")).json()["services"] == [{"name": "tiny", "ready": True}]
            async with client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as response:
                lines = response.aiter_lines()
                while '"Hi"' not in (line := await anext(lines)) and '"i"' not in line:
                    pass
                process.send_signal(signal.SIGTERM)
                await closed_to_newcomers(client)
                assert worker.pause is not None
                worker.pause.set()
                rest = [line async for line in lines]
            assert "data: [DONE]" in rest
            assert await asyncio.wait_for(process.wait(), 30) == 0
            assert process.stderr is not None
            events = [json.loads(line) for line in (await process.stderr.read()).splitlines()]
            assert events[-1]["event"] == "DoorClosed"
            assert {event["event"] for event in events} == {"AnswerServed", "DoorClosed"}

    asyncio.run(run())


async def closed_to_newcomers(client: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
            except ConnectionError:  # refused; or reset, if it stood in the queue of a door that was just closing
                return
            writer.close()
            await asyncio.sleep(0.02)


def test_it_lives_before_there_are_routes(tmp_path: Path) -> None:
    async def run() -> None:
        async with door_process(tmp_path) as (process, client):
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503
            home_with_routes(tmp_path)
            assert (await client.get("/readyz")).status_code == 200
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 30) == 0

    asyncio.run(run())


def start(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "thaloom.door", *arguments],
        capture_output=True, text=True, timeout=30, env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, json.loads(done.stderr.splitlines()[0])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_it_refuses_to_be_seen_from_outside_without_a_certificate(tmp_path: Path, host: str) -> None:
    exit_code, event = start("--home", str(tmp_path), "--host", host, "--port", "0")
    assert (exit_code, event["code"]) == (7, "certificate_missing")


def test_a_taken_port_is_told_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        exit_code, event = start("--home", str(tmp_path), THALOOM_PORT=str(other.getsockname()[1]))
    assert (exit_code, event["code"]) == (4, "port_taken")


def test_settings_that_cannot_be_read_are_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[keep]\nmax_bites = 5\n")
    exit_code, event = start("--home", str(tmp_path), "--port", "0")
    assert (exit_code, event["code"]) == (2, "bad_parameter")
    assert "max_bites" in event["message"]


def test_a_port_that_is_none_is_refused(tmp_path: Path) -> None:
    assert start("--home", str(tmp_path), "--port", "99999")[0] == 2
    command = [sys.executable, "-m", "thaloom.door", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | {"THALOOM_PORT": "x"})
    assert done.returncode == 2
    assert "--port" in done.stderr


def test_the_document_can_be_had_without_a_node(tmp_path: Path) -> None:
    async def run() -> None:
        async with door_process(tmp_path) as (_, client):
            assert (await client.get("/openapi.json")).json() == openapi_document()

    asyncio.run(run())


def test_localhost_and_ipv6_loopback_can_be_listened_on() -> None:
    for host in ("localhost", "127.0.0.2", "::1"):
        with contextlib.suppress(OSError), contextlib.closing(listen(host, 0)) as listener:
            assert listener.getsockname()[1] > 0


def test_the_door_loads_neither_arrays_nor_an_http_client_to_begin_with() -> None:
    script = "import sys, thaloom.door; print([n for n in ('numpy', 'httpx2', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]"
