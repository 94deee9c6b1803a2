"""The fuzzer of the door: its cases are the same every time and end no service, and its judge passes nothing wrong."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote_to_bytes

import pytest

from tests.fuzz_door.cases import Case, make_case
from tests.fuzz_door.judging import NotRight, judge
from tests.fuzz_door.node import MOST_GROWN_MB, grown
from tests.fuzz_door.talking import NotHttp, Talk, talk
from tests.fuzz_door.transport import Wire, at_once

IDS = {"FILE": "file-1", "BATCH": "batch_1", "RESPONSE": "resp_1", "STREAM": "resp_2"}
ERROR = b'{"error":{"message":"m","type":"t","param":null,"code":"%b"}}'


def answer(
    status: bytes = b"200 OK", body: bytes = b"{}", more: bytes = b"", kind: bytes = b"application/json"
) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n" % (status, kind, more, len(body))
    return head + body


def case_of(path: str | None = "/v1/models", *, num_answers: int = 1, is_head: bool = False) -> Case:
    wire = Wire(method=b"GET", target=b"/v1/models", headers=[(b"host", b"localhost")])
    return Case(
        seed=1, number=0, operation=f"GET {path}", harm="none", path=path, is_head=is_head,
        sent=at_once(wire.encode(), "whole", num_answers),
    )  # fmt: skip


def told(case: Case, said: bytes) -> list[str]:
    """What is made of a door that says this and hangs up."""

    async def test() -> Talk:
        async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            writer.close()

        server = await asyncio.start_server(door, "127.0.0.1", 0)
        async with server:
            return await talk(case, server.sockets[0].getsockname()[1])

    return judge(case, asyncio.run(test()))


def test_cases_are_the_same_every_time_and_end_no_service() -> None:
    for number in range(300):
        one, two = make_case(3, number, IDS), make_case(3, number, IDS)
        assert (one.operation, one.harm, one.path) == (two.operation, two.harm, two.path)
        if one.harm != "compressed":  # gzip writes the time
            assert one.sent == two.sent
        said = b"".join(piece for _, piece in one.sent.pieces)
        assert not unquote_to_bytes(said).startswith(b"POST /thaloom/v1/down")
        assert b"keep_alive" not in said


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(), ["200"]),
        (answer(b"400 Bad Request", ERROR % b"bad_parameter"), ["400 bad_parameter"]),
        (answer(b"503 Service Unavailable", ERROR % b"service_loading"),
         ["503 service_loading"]),
        (answer(kind=b"text/event-stream", body=b'data: {"a": 1}\n\ndata: [DONE]\n\n'), ["200"]),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(), ["200"]),
    ],
)  # fmt: skip
def test_right_answers_pass(said: bytes, words: list[str]) -> None:
    assert told(case_of(), said) == words


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense",
        answer()[:-1],
        answer() + b"x",
        answer() + answer(),
        answer(more=b"content-length: 2\r\n"),
        answer(more=b"transfer-encoding: chunked\r\n"),
        answer(more=b"no header\r\n"),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
    ],
)
def test_what_is_no_http_does_not_pass(said: bytes) -> None:
    with pytest.raises(NotHttp):
        told(case_of(), said)


@pytest.mark.parametrize(
    "said",
    [
        answer(b"500 Internal Server Error", ERROR % b"internal_error"),
        answer(b"502 Bad Gateway", ERROR % b"worker_lost"),
        answer(b"507 Insufficient Storage", ERROR % b"disk_full"),
        answer(b"400 Bad Request", ERROR % b"no_such_code"),
        answer(b"400 Bad Request", ERROR % b"model_not_found"),
        answer(b"400 Bad Request", b'{"error": "in words", "code": "bad_parameter"}'),
        answer(b"400 Bad Request", b"in words"),
        answer(b"307 Temporary Redirect"),
        answer(body=b"{"),
        answer(body=b"NaN"),
        answer(kind=b"text/event-stream", body=b'data: {"a": 1}\n'),
        answer(kind=b"text/event-stream", body=b"data: " + ERROR % b"internal_error" + b"\n\n"),
        answer(kind=b"application/x-ndjson", body=b'{"kind": "error", "error": {"code": "worker_lost"}}\n'),
    ],
)
def test_answers_that_nobody_should_get_do_not_pass(said: bytes) -> None:
    with pytest.raises(NotRight):
        told(case_of(), said)


def test_each_protocol_has_its_form() -> None:
    ollama = answer(b"400 Bad Request", b'{"error": "in words", "code": "bad_parameter"}')
    assert told(case_of("/api/chat"), ollama) == ["400 bad_parameter"]
    with pytest.raises(NotRight):
        told(case_of("/v1/messages"), ollama)
    assert told(case_of(None), ollama) == ["400 bad_parameter"], "where nobody knows what was asked, any form will do"


def test_memory_that_grows_from_half_way_on_is_a_failure() -> None:
    half_way = {"door": 120, "worker": 200}
    assert grown({"door": 120 + MOST_GROWN_MB, "worker": 150, "puller": 500}, half_way) == []
    assert grown({"door": 121 + MOST_GROWN_MB, "worker": 200}, half_way) == ["door: 145 MB, half-way 120 MB"]
