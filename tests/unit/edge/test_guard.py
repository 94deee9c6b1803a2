"""Who may ask: loopback names and pages of loopback, and nobody who only looks like one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadRequest, DiskFull, Forbidden, TooLarge
from thaloom.base.events import Recorder
from thaloom.edge.api.entrance.access_log import RequestServed
from thaloom.edge.api.entrance.guard import Guard, RequestCrashed, check
from thaloom.edge.api.entrance.hosts import Hosts, is_loopback, is_loopback_origin
from thaloom.edge.api.measures.metrics import DoorMetrics


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7411", "localhost.", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:7411"]
)
def test_loopback_hosts_pass(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", ":80", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1", "10.0.0.1",
     "0.0.0.0", "[::]", "::1", "[::1", "127.1", "2130706433", "0x7f.0.0.1", "localhost:x", "localhost:123456",
     "localhost, evil.example", "localhost/..", "localhost..", "[::ffff:10.0.0.1]"],
)  # fmt: skip
def test_other_hosts_do_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("origin", ["http://localhost", "http://localhost:3000", "https://127.0.0.1", "http://[::1]:5"])
def test_pages_of_loopback_pass(origin: str) -> None:
    assert is_loopback_origin(origin)


@pytest.mark.parametrize(
    "origin", ["", "null", "file://", "https://evil.example", "http://localhost/x", "localhost", "ftp://localhost",
               "http://localhost.evil.example", "http://[::1", "http://a@localhost", "http://localhost?x",
               "http://localhost#x"],
)  # fmt: skip
def test_other_pages_do_not(origin: str) -> None:
    assert not is_loopback_origin(origin)


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode()) for name, value in pairs])


def test_a_request_needs_exactly_one_host() -> None:
    check(headers(("host", "localhost")))
    for bad in ([], [("host", "localhost"), ("host", "evil.example")]):
        with pytest.raises(BadRequest):
            check(headers(*bad))


def test_every_origin_must_be_ours() -> None:
    with pytest.raises(Forbidden, match="evil"):
        check(headers(("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")))


def test_headers_have_bounds() -> None:
    with pytest.raises(TooLarge):
        check(headers(("host", "localhost"), *[("a", "b")] * 100))
    with pytest.raises(TooLarge):
        check(headers(("host", "localhost"), ("a", "b" * 33_000)))


class Outside:
    """The server's side of ASGI, kept for a look."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}


def through(app: Any, *, metrics: DoorMetrics | None = None, **scope: Any) -> tuple[list[Message], Recorder]:
    outside, events = Outside(), Recorder()
    guard = Guard(app, clock=ManualClock(), emit=events, metrics=metrics or DoorMetrics())
    facts: Scope = {"type": "http", "method": "GET", "path": "/x", "headers": [(b"host", b"localhost")]} | scope
    try:
        asyncio.run(guard(facts, outside.receive, outside.send))
    except ZeroDivisionError:
        outside.sent.append({"type": "raised"})
    return outside.sent, events


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_every_request_has_an_id_and_is_logged() -> None:
    sent, events = through(fine)
    ((name, request_id),) = sent[0]["headers"]
    assert name == b"x-request-id"
    (served,) = events.of(RequestServed)
    assert isinstance(served, RequestServed)
    assert (served.request, served.status, served.path) == (request_id.decode(), 204, "/x")


def test_what_machines_ask_every_few_seconds_is_no_news_while_it_goes_well() -> None:
    async def ok(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert [event.level for event in through(ok, path="/healthz")[1].events] == ["debug"]
    assert [event.level for event in through(fine, path="/healthz")[1].events] == ["info"]
    assert [event.level for event in through(ok, path="/v1/models")[1].events] == ["info"]


@pytest.mark.parametrize(("given", "taken"), [(b"mine-1", True), (b"two words", False), (b"x" * 200, False)])
def test_a_clients_own_id_is_kept_if_it_is_a_plain_word(given: bytes, taken: bool) -> None:
    sent, _ = through(fine, headers=[(b"host", b"localhost"), (b"x-request-id", given)])
    assert (sent[0]["headers"][0][1] == given) is taken


def test_a_defect_is_logged_and_answered_without_its_inside() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("secret")

    metrics = DoorMetrics()
    sent, events = through(broken, metrics=metrics)
    assert metrics.registry.get_sample_value("thaloom_errors_total", {"code": "internal_error"}) == 1
    assert sent[0]["status"] == 500
    assert b"internal_error" in sent[1]["body"]
    assert b"secret" not in sent[1]["body"]
    (crashed,) = events.of(RequestCrashed)
    assert isinstance(crashed, RequestCrashed)
    assert "secret" in crashed.error


def test_a_defect_in_the_middle_of_an_answer_breaks_the_connection() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ZeroDivisionError

    sent, events = through(broken)
    assert sent[-1] == {"type": "raised"}
    assert len(events.of(RequestCrashed)) == 1


def test_a_leaf_raised_anywhere_is_told_in_our_form() -> None:
    async def full(scope: Scope, receive: Receive, send: Send) -> None:
        raise DiskFull("no space", free_bytes=0)

    sent, events = through(full)
    assert sent[0]["status"] == 507
    assert events.of(RequestCrashed) == []


def test_websockets_are_closed() -> None:
    sent, _ = through(fine, type="websocket")
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_door_that_was_given_names_is_asked_by_them() -> None:
    hosts = Hosts(lambda: {"gpu.example.org", "10.0.0.1", "*.lab.example.org", "fd00::1"})
    for host in ("gpu.example.org", "GPU.example.org.:7411", "10.0.0.1:7411", "a.lab.example.org", "[fd00::1]:1"):
        assert hosts.knows(host), host
    for host in ("lab.example.org", "a.b.lab.example.org", "example.org", "10.0.0.2", "gpu.example.org.evil", ""):
        assert not hosts.knows(host), host
    assert hosts.knows("localhost:7411"), "loopback's names always count"
    assert hosts.knows_origin("https://gpu.example.org:7411")
    assert not hosts.knows_origin("https://evil.example.org")


def test_the_address_a_connection_came_to_is_a_name_of_the_door() -> None:
    hosts = Hosts()
    assert hosts.knows("192.0.2.7:7411", "192.0.2.7")
    assert hosts.knows("192.0.2.7", "::ffff:192.0.2.7"), "a socket of both kinds tells it so"
    assert hosts.knows("[2001:db8::0:1]:7411", "2001:db8::1")
    assert not hosts.knows("192.0.2.8", "192.0.2.7")
    assert not hosts.knows("192.0.2.8", None)
    assert not hosts.knows("gpu", "192.0.2.7")
    check(headers(("host", "192.0.2.7"), ("origin", "https://192.0.2.7")), hosts, "192.0.2.7")
    with pytest.raises(Forbidden):
        check(headers(("host", "192.0.2.7"), ("origin", "https://192.0.2.8")), hosts, "192.0.2.7")
    with pytest.raises(Forbidden):
        check(headers(("host", "192.0.2.7")))
