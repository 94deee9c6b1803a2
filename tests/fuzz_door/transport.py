"""What is done to HTTP itself: to paths and queries, headers, lengths and pieces, and to the time a request takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.fuzz_door.harms import LETTERS, TEXTS, change_bytes

Manner = Literal["whole", "torn", "left", "patient"]
"""whole: rightly framed, and must be answered in time. torn: who knows where it ends; whatever comes must be HTTP.
left: the client goes at once. patient: never ends, and the door must put an end to it by itself."""
METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND", b"SEARCH")
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True, kw_only=True)
class Wire:
    """A request on its way to become bytes."""

    method: bytes
    target: bytes
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    framed: bool = True
    """Whether a content-length is added."""

    def encode(self) -> bytes:
        headers = list(self.headers)
        if self.framed and (self.body or self.method not in (b"GET", b"HEAD")):
            headers.append((b"content-length", b"%d" % len(self.body)))
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target), *(b"%b: %b" % pair for pair in headers)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Pieces with the seconds to wait before each; how many answers there must be."""

    pieces: tuple[tuple[float, bytes], ...]
    manner: Manner
    num_answers: int = 1


def at_once(data: bytes, manner: Manner = "whole", num_answers: int = 1) -> Sent:
    return Sent(pieces=((0.0, data),), manner=manner, num_answers=num_answers)


# -- paths, queries and methods


def change_target(wire: Wire, chance: random.Random) -> None:
    path, question, query = wire.target.partition(b"?")
    kind = chance.randrange(12)
    if kind == 0:
        at = chance.randrange(len(path) + 1)
        path = path[:at] + chance.choice(_ENCODED) + path[at:]
    elif kind == 1:
        path = b"".join(b"%%%02X" % letter if chance.random() < 0.3 else bytes([letter]) for letter in path)
    elif kind == 2:
        path += chance.choice((b"/", b"//", b"/.", b"/..", b"/x", b";a=b", b"/" + b"a" * 3000, b".json", b":latest"))
    elif kind == 3:
        path = chance.choice(
            (b"/", b"//x", b"/v1", b"/v1/", b"/api/", b"*", b"/thaloom/v1/", b"/resolve/", b"/v2/x", b"/%")
        )
    elif kind == 4:
        parts = path.split(b"/")
        parts[chance.randrange(1, len(parts))] = chance.choice(_PARTS)
        path = b"/".join(parts)
    elif kind == 5:
        path = path.replace(b"/", chance.choice((b"//", b"/./", b"/x/../", b"%2F", b"\\")))
    elif kind == 6:
        path = chance.choice((path.upper(), path.swapcase(), path[:-1], path[1:] or b"x"))
    elif kind == 7:
        path = (
            chance.choice((b"http://localhost", b"http://evil.example", b"HTTP://127.0.0.1:1", b"https://[::1]")) + path
        )
    else:
        query = chance.choice((
            b"&".join([query] * 3), b"limit=" + chance.choice((b"0", b"-1", b"1e9", b"9" * 50, b"\xd9\xa3", b"", b"x")),
            b"model=" + chance.choice(_ENCODED), b"&" * 3000, b"a=b&" * 200, b"stream=true&starting_after=" + b"9" * 30,
            b"tail=" + chance.choice((b"-1", b"99999999999", b"x")), b"order=x&after=" + b"%00" * 50, b"%", b"=" * 500,
            b"limit=1&limit=2", chance.choice(_ENCODED), b"revision=" + b"a" * 5000, b"source=", b"names=own%00",
        ))  # fmt: skip
        question = b"?"
    wire.target = path + question + query


def change_method(wire: Wire, chance: random.Random) -> None:
    wire.method = chance.choice(METHODS)


_ENCODED = (
    b"%00", b"%0a", b"%0d%0aX:y", b"%2e%2e", b"%2e%2e%2f%2e%2e%2fetc", b"%ff", b"%ed%a0%80", b"%c0%af", b"%", b"%zz",
    b"%u0041", b"%F0%9F%98%80", b"%E2%80%AE", b"%20", b"+", b"%25", b"%252e", b"~", b"'", b"%3Cscript%3E", b"%7F",
    b"{x}", b"|", b"^", b'"', b"<>",
)  # fmt: skip
_PARTS = (
    b"", b"tiny", b"..", b".", b"%2e%2e", b"nothing", b"a" * 300, b"main", b"config.json", b"%00", b"resp_x", b"file-x",
    b"TINY", b"tiny:latest", b"0", b"-1", b"%0a", b"tiny%2Fx", b"refs", b"absent",
)  # fmt: skip


# -- headers


def change_headers(wire: Wire, chance: random.Random) -> Sent:
    """Rightly framed still, but for what no server could read."""
    kind = chance.randrange(14)
    if kind == 0:
        wire.headers += [(b"x-%d" % i, b"y") for i in range(chance.choice((90, 101, 2000)))]
    elif kind == 1:
        wire.headers.append((b"x-long", b"y" * chance.choice((8_000, 33_000, 70_000, 300_000))))
    elif kind == 2:
        wire.headers.append((b"n" * chance.choice((300, 40_000)), b"y"))
    elif kind == 3:
        _replace(wire.headers, b"host", chance.choice((
            b"", b"evil.example", b"localhost.", b"LOCALHOST:80", b"127.0.0.1:99999", b"[::1]:1", b"127.1", b"0x7f.1",
            b"localhost@evil", b"localhost, evil", b"[::1", b"\xff", b"localhost:0x1", b"a" * 9000,
        )))  # fmt: skip
    elif kind == 4:
        wire.headers[:] = [pair for pair in wire.headers if pair[0] != b"host"] * chance.choice((0, 1)) or [
            (b"a", b"b")
        ]
    elif kind == 5:
        origin = chance.choice((b"http://evil.example", b"null", b"http://localhost", b"http://[", b"file://", b"\xe9"))
        wire.headers.append((b"origin", origin))
    elif kind == 6:
        _replace(wire.headers, b"content-type", chance.choice((
            b"text/plain", b"", b"application/x-www-form-urlencoded", b"multipart/form-data",
            b"application/json; charset=x",
            b"multipart/form-data; boundary=", b"application/json;" * 500, b"\xff\xfe", b"application/xml",
            b"image/png",
        )))  # fmt: skip
    elif kind == 7:
        wire.headers.append(chance.choice((
            (b"expect", b"100-continue"), (b"expect", b"x"), (b"upgrade", b"websocket"), (b"upgrade", b"h2c"),
            (b"connection", b"upgrade, close"), (b"connection", b"close"), (b"te", b"trailers"), (b"via", b"1.1 x"),
            (b"connection", b"keep-alive, host, content-length"), (b"accept", b"x/y"), (b"accept-encoding", b"br;q=x"),
        )))  # fmt: skip
    elif kind == 8:
        wire.headers.append(chance.choice((
            (b"range", b"bytes=0-"), (b"range", b"bytes=5-1"), (b"range", b"bytes=-5"), (b"range", b"bytes=0-0,2-3"),
            (b"range", b"bytes=99999999999999999999-"), (b"range", b"bytes=" + b"0-1," * 2000), (b"range", b"x=1"),
            (b"if-none-match", b"*"), (b"if-range", b'"x"'), (b"if-match", b'"\xe9"'), (b"last-event-id", b"9" * 99),
        )))  # fmt: skip
    elif kind == 9:
        wire.headers.append((b"x-request-id", chance.choice((b"a", b"a" * 129, b"a b", b"\xe9", b"", b"a\tb"))))
    elif kind == 10:
        wire.headers.append(chance.choice((
            (b"anthropic-version", b"2023-06-01"), (b"anthropic-version", b"\xff"), (b"authorization", b"Bearer x"),
            (b"authorization", b"Basic \xff"), (b"x-api-key", b"k" * 5000), (b"authorization", b""), (b"x-api-key",
            b""),
            (b"traceparent", b"00-" + b"0" * 32 + b"-x-01"), (b"traceparent",
            b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
            (b"x-forwarded-for", b"1.2.3.4"), (b"forwarded", b"host=evil"), (b"content-range", b"bytes 0-1/2"),
        )))  # fmt: skip
    elif kind == 11:
        wire.headers.append((b"cookie", chance.choice(TEXTS).encode("utf-8", "replace").replace(b"\r\n", b"")[:2000]))
        return at_once(wire.encode(), "torn")
    else:
        name, value = chance.choice((
            (b"x\x00y", b"z"), (b"x y", b"z"), (b"x", b"a\x00b"), (b"x", b"a\rb"), (b"x", b"a\nb: c"), (b"", b"x"),
            (b" x", b"y"),
            (b"x", b"\x7f\x01"), (b"content-length", b"5"), (b"content-length", b"-1"), (b"content-length", b"0x5"),
            (b"content-length", b"9" * 30), (b"content-length", b"5, 5"), (b"transfer-encoding", b"chunked"),
            (b"transfer-encoding", b"gzip"), (b"transfer-encoding", b"x, chunked"), (b"transfer-encoding",
            b"\x0bchunked"),
            (b"content-length ", b"3"), (b"host", b"localhost"),
        ))  # fmt: skip
        wire.headers.insert(chance.randrange(len(wire.headers) + 1), (name, value))
        return at_once(wire.encode(), "torn")
    return at_once(wire.encode())


def _replace(headers: Headers, name: bytes, value: bytes) -> None:
    headers[:] = [pair for pair in headers if pair[0] != name] + [(name, value)]


# -- pieces


def chunked(wire: Wire, chance: random.Random) -> Sent:
    """In chunks: right ones, or some that are not."""
    wire.headers.append((b"transfer-encoding", b"chunked"))
    wire.framed = False
    size = chance.choice((1, 7, 100, 10**6))
    parts = [wire.body[at : at + size] for at in range(0, min(len(wire.body), 500 * size), size)]
    told = b"".join(b"%x%b\r\n%b\r\n" % (len(part), chance.choice((b"", b"", b";a=b")), part) for part in parts)
    if len(b"".join(parts)) == len(wire.body) and chance.random() < 0.4:
        wire.body = told + b"0\r\n" + chance.choice((b"", b"x-trailer: y\r\n")) + b"\r\n"
        return at_once(wire.encode())
    wire.body = chance.choice((
        told + b"-1\r\n\r\n", told + b"ffffffffffffffffff\r\nx", told + b"z\r\n", told[:-3] + b"0\r\n\r\n",
        told + b"0\r\n",
        told + b"5\r\nab\r\n0\r\n\r\n", b"0x5\r\nabcde\r\n0\r\n\r\n", b"5" + b";x" * 50_000 + b"\r\nabcde\r\n0\r\n\r\n",
        told + b"0\r\n" + b"x: y\r\n" * 5000 + b"\r\n", b"\r\n\r\n", b"7fffffff\r\n" + b"x" * 1000,
        told.replace(b"\r\n", b"\n"),
    ))  # fmt: skip
    return at_once(wire.encode(), "torn")


def wrong_length(wire: Wire, chance: random.Random) -> Sent:
    length = len(wire.body) + chance.choice((-5, -1, 1, 5, 1000, 9 * 1024 * 1024, 2**40))
    wire.headers.append((b"content-length", b"%d" % length))
    if chance.random() < 0.2:
        wire.headers.append((b"content-length", b"%d" % (length + 1)))
    wire.framed = False
    return at_once(wire.encode(), "torn")


def broken_bytes(wire: Wire, chance: random.Random) -> Sent:
    """The whole request as bytes, most harms in its head."""
    data = wire.encode()
    at = data.find(b"\r\n\r\n") + 4
    if chance.random() < 0.7:
        return at_once(change_bytes(data[:at], chance) + data[at:], "torn")
    return at_once(chance.choice((
        chance.randbytes(chance.randrange(1, 300)), b"\x16\x03\x01\x02\x00\x01\x00" + chance.randbytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n", data.replace(b"\r\n", b"\n"), data.replace(b"HTTP/1.1",
        b"HTTP/1.0"),
        data.replace(b"HTTP/1.1", chance.choice((b"HTTP/9.9", b"http/1.1", b"HTTP/1.1 x", b"ICY", b""))),
        b"\r\n" * 50 + data,
        chance.choice(LETTERS) + data, data.replace(b" ", b"\t", 1),
        b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"A" * 100_000, b"GET " + b"/a" * 40_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", data.replace(b"\r\n",
        b"\r\n ", 2),
    )), "torn")  # fmt: skip


def slowly(wire: Wire, chance: random.Random) -> Sent:
    """Whole in the end: in up to twenty pieces, for at most some two seconds."""
    data = wire.encode()
    cuts = sorted(chance.randrange(len(data)) for _ in range(chance.choice((1, 3, 19))))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return Sent(pieces=tuple((chance.choice((0.0, 0.01, 0.1)), piece) for piece in pieces), manner="whole")


def left(wire: Wire, chance: random.Random) -> Sent:
    """Said to the end or not, and gone before or in the middle of the answer."""
    data = wire.encode()
    until = chance.choice((0, 1, len(data) // 2, len(data) - 1, len(data), len(data), len(data)))
    return Sent(pieces=((0.0, data[:until]), (chance.choice((0.0, 0.002, 0.02)), b"")), manner="left")


def pipelined(wire: Wire, chance: random.Random) -> Sent:
    """Several at once on one connection: each gets its answer, or, ahead too far, the connection is broken."""
    wire.headers = [pair for pair in wire.headers if pair[0] != b"connection"]
    count = chance.choice((2, 3, 8, 15, 40))
    return at_once(wire.encode() * count, "whole" if count <= 15 else "torn", count)


def patient(wire: Wire, chance: random.Random) -> Sent:
    """Half a head or half a body, or a byte a second: the door has to end it, for the client never does."""
    data = wire.encode()
    head = data.find(b"\r\n\r\n") + 4
    kind = chance.randrange(4)
    if kind == 0:
        return at_once(data[: head - 3], "patient")
    if kind == 1:
        drops = tuple((1.0, b"x-%d: y\r\n" % i) for i in range(80))
        return Sent(pieces=((0.0, data[: head - 2]), *drops), manner="patient")
    body = wire.body or b'{"model": "tiny"}'
    if kind == 2:
        promised = Wire(method=b"POST", target=b"/v1/completions", headers=wire.headers, framed=False)
        promised.headers.append((b"content-length", b"%d" % (len(body) + 500)))
        drops = tuple((1.0, b" ") for _ in range(80))
        return Sent(pieces=((0.0, promised.encode() + body), *drops), manner="patient")
    return at_once(b"", "patient")


WAYS: tuple[tuple[float, Callable[[Wire, random.Random], Sent]], ...] = (
    (3, chunked),
    (2, wrong_length),
    (4, broken_bytes),
    (1.5, slowly),
    (2.5, left),
    (1.5, pipelined),
    (0.06, patient),
)
