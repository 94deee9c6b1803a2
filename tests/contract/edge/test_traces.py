"""Traces: one span for each request in the words of the field, sent to a collector; nothing without the extra."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import LiveDoor, live_door
from tests.contract.edge.test_openai_client import in_door
from thaloom.base.events import Recorder
from thaloom.door import traces
from thaloom.edge.api.entrance import gen_ai
from thaloom.edge.api.entrance.access_log import AnswerServed

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextlib.contextmanager
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Spans as they arrive at an OTLP endpoint, which the environment names."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                assert names["service.name"] == "thaloom"
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield spans
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def facts(span: Any) -> dict[str, Any]:
    found = {}
    for pair in span.attributes:
        value = pair.value
        kind = value.WhichOneof("value")
        found[pair.key] = (
            [one.string_value for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
        )
    return found


def test_a_request_becomes_a_span_in_the_words_of_the_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(tracing: Any) -> AnswerServed:
        async with live_door(tmp_path, worker=FakeWorker(degraded="no compiler"), tracing=tracing) as door:
            door.say("Hello")
            await door.post(
                "/v1/chat/completions",
                {"model": "tiny", "messages": [{"role": "user", "content": "a secret"}]},
                headers={"traceparent": PARENT, "x-request-id": "req-1"},
            )
            assert (await door.http.get("/v1/models/none")).status_code == 404
            await door.http.get("/healthz")
            (served,) = door.events.of(AnswerServed)
            assert isinstance(served, AnswerServed)
            return served

    with collector(monkeypatch) as spans:
        tracing = traces(os.environ, Recorder())
        assert tracing is not None
        served = asyncio.run(run(tracing))
        tracing.close()
    chat, model = spans
    assert chat.name == "chat tiny"
    assert chat.kind == 2, "a server's"
    assert chat.trace_id.hex() == PARENT[3:35]
    assert chat.parent_span_id.hex() == PARENT[36:52]
    told = facts(chat)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "thaloom"
    assert told["gen_ai.request.model"] == "tiny"
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["gen_ai.usage.input_tokens"] == served.prompt_tokens
    assert told["gen_ai.usage.output_tokens"] == served.completion_tokens == 5
    assert told["gen_ai.usage.cache_read.input_tokens"] == 16
    assert told["thaloom.queue.seconds"] == 0.001
    assert told["thaloom.degraded"] == ["no compiler"]
    assert told["http.response.status_code"] == 200
    assert told["thaloom.request.id"] == "req-1"
    assert "secret" not in str(chat)
    assert served.trace == PARENT[3:35], "the log names the trace"
    assert (model.name, facts(model)["http.response.status_code"]) == ("GET", 404)
    assert model.parent_span_id == b""


def test_names_are_those_of_the_conventions() -> None:
    """Copied, so that the door need not import them; here they are held to the original."""
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as original

    for ours, theirs in (
        (gen_ai.OPERATION_NAME, original.GEN_AI_OPERATION_NAME),
        (gen_ai.PROVIDER_NAME, original.GEN_AI_PROVIDER_NAME),
        (gen_ai.REQUEST_MODEL, original.GEN_AI_REQUEST_MODEL),
        (gen_ai.RESPONSE_MODEL, original.GEN_AI_RESPONSE_MODEL),
        (gen_ai.FINISH_REASONS, original.GEN_AI_RESPONSE_FINISH_REASONS),
        (gen_ai.INPUT_TOKENS, original.GEN_AI_USAGE_INPUT_TOKENS),
        (gen_ai.OUTPUT_TOKENS, original.GEN_AI_USAGE_OUTPUT_TOKENS),
    ):
        assert ours == theirs


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_traces_are_written_where_the_environment_asks_for_them(environment: dict[str, str], asked: bool) -> None:
    tracing = traces(environment, Recorder())
    assert (tracing is not None) == asked
    if tracing is not None:
        tracing.close()


def test_without_the_extra_it_is_told_and_the_door_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "thaloom.edge.api.entrance.otel", None)
    events = Recorder()
    assert traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, events) is None
    (told,) = events.events
    assert (told.name, told.fields()["subject"]) == ("Degraded", "traces")
    assert "thaloom[otel]" in told.fields()["message"]


def test_nothing_of_it_is_imported_unless_asked_for() -> None:
    """FastAPI imports the API, which does nothing by itself, wherever it is installed; the SDK is ours to leave out."""
    script = "import sys, thaloom.door, thaloom.daemon; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_collector_that_is_not_there_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setattr("thaloom.edge.api.entrance.otel.LAST_WORDS_S", 0.1)

    async def run(tracing: Any) -> None:
        async with live_door(tmp_path, tracing=tracing) as door:
            door.say("Hello")
            for _ in range(20):
                assert (await door.chat()).status_code == 200

    tracing = traces(os.environ, Recorder())
    assert tracing is not None
    asyncio.run(run(tracing))
    tracing.close()


@pytest.mark.parametrize(
    "given", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" + PARENT[2:], PARENT[:-1], PARENT.upper()]
)
def test_a_traceparent_that_is_none_is_ignored(tmp_path: Path, given: str) -> None:
    async def test(door: LiveDoor) -> None:
        assert (await door.http.get("/v1/models", headers={"traceparent": given})).status_code == 200
        assert door.events.events[-1].fields()["trace"] is None
        await door.http.get("/v1/models", headers={"traceparent": PARENT})
        assert door.events.events[-1].fields()["trace"] == PARENT[3:35]

    in_door(tmp_path, test)
