"""Sends a case and reads what comes, by the letter of RFC 9112: a kinder client would not see a broken answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tests.fuzz_door.cases import Case

DEADLINE_S = 600.0
"""For each answer to what was rightly asked: only what hangs takes so long, on however slow and busy a machine."""
PATIENCE_S = 600.0
"""What the door has for ending what never ends. It takes 30 s for a head and 30 s for a body; whether it ends at all is
asked here, and not how fast the machine is."""
QUIET_S = 0.15
"""Whoever sent something torn waits so long for one more word."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*)")


class NotHttp(Exception):
    """What came is no answer, or not the one that was owed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool
    """False only where the connection ended first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    answers: tuple[Answer, ...]
    ended: bool
    """By the door."""


async def talk(case: Case, port: int) -> Talk:
    """Raises NotHttp; TimeoutError where an answer was owed."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, limit=2**20), DEADLINE_S)
    sending = asyncio.create_task(_send(case, writer))
    try:
        match case.sent.manner:
            case "left":
                with contextlib.suppress(OSError):
                    await sending
                return Talk(answers=(), ended=False)
            case "whole":
                async with asyncio.timeout(DEADLINE_S):
                    return await _read_owed(case, reader)
            case "torn":
                return await _read_torn(case, reader)
            case "patient":
                async with asyncio.timeout(PATIENCE_S):
                    data = await _until_end(reader)
                return Talk(answers=tuple(_parse_all(data, is_head=False)), ended=True)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        if case.sent.manner == "left" and case.number % 2:
            _reset(writer)
        writer.transport.abort()


async def _send(case: Case, writer: asyncio.StreamWriter) -> None:
    for pause_s, piece in case.sent.pieces:
        if pause_s:
            await asyncio.sleep(pause_s)
        writer.write(piece)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Go without the courtesies of TCP."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _read_owed(case: Case, reader: asyncio.StreamReader) -> Talk:
    """As many answers as there were requests, and not a byte more."""
    data, ended = b"", False
    while True:
        answers, rest = _parse(data, is_head=case.is_head)
        num_final = sum(answer.status >= 200 for answer in answers)
        closing = any(answer.headers.get("connection") == "close" for answer in answers)
        if rest == b"" and (num_final == case.sent.num_answers or (closing and ended)):
            return Talk(answers=tuple(answers), ended=ended)
        if num_final > case.sent.num_answers:
            raise NotHttp(f"{num_final} answers to {case.sent.num_answers} requests")
        if ended:
            raise NotHttp(
                f"the connection ended after {num_final} of {case.sent.num_answers} answers and {rest[:300]!r}"
            )
        try:
            more = await reader.read(2**18)
        except ConnectionError:
            more = b""
        ended = not more
        data += more


async def _read_torn(case: Case, reader: asyncio.StreamReader) -> Talk:
    """What comes until nothing does for a while; the last of it may be cut by our going."""
    data, ended = b"", False
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(DEADLINE_S):
            while not ended:
                more = await asyncio.wait_for(reader.read(2**18), QUIET_S)
                ended = not more
                data += more
    is_head = case.is_head or case.sent.pieces[0][1].lstrip().startswith(b"HEAD")
    answers, _ = _parse(data, is_head=is_head)
    return Talk(answers=tuple(answer for answer in answers if answer.is_whole), ended=ended)


async def _until_end(reader: asyncio.StreamReader) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := await reader.read(2**18):
            data += more
    return data


def _parse_all(data: bytes, *, is_head: bool) -> list[Answer]:
    answers, rest = _parse(data, is_head=is_head)
    if rest:
        raise NotHttp(f"after {len(answers)} answers: {rest[:300]!r}")
    return answers


def _parse(data: bytes, *, is_head: bool) -> tuple[list[Answer], bytes]:
    """The whole answers in `data`, and what is left of it."""
    answers: list[Answer] = []
    while data:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            if not b"HTTP/1.1 ".startswith(data[:9]):
                raise NotHttp(f"no status line: {data[:300]!r}")
            break
        status, headers = _parse_head(head)
        body = _body(status, headers, rest, is_head=is_head)
        if body is None:
            break
        answers.append(Answer(status=status, headers=headers, body=body[0], is_whole=True))
        data = body[1]
    return answers, data


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.split(b"\r\n")
    match = _STATUS.fullmatch(first)
    if match is None:
        raise NotHttp(f"no status line: {first[:300]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        pair = _HEADER.fullmatch(line)
        if pair is None:
            raise NotHttp(f"no header: {line[:300]!r}")
        name = pair[1].decode().lower()
        if name in headers and name in ("content-length", "transfer-encoding", "content-type"):
            raise NotHttp(f"twice: {line[:300]!r}")
        headers[name] = pair[2].decode("latin-1")
    return int(match[1]), headers


def _body(status: int, headers: Mapping[str, str], rest: bytes, *, is_head: bool) -> tuple[bytes, bytes] | None:
    """(the body, what follows it), or None: it is not whole yet. Source: RFC 9112, 6.3."""
    if is_head or status < 200 or status in (204, 304):
        return b"", rest
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"] != "chunked" or "content-length" in headers:
            raise NotHttp(f"framed in two ways: {headers}")
        return _chunks(rest)
    length = headers.get("content-length")
    if length is None or not length.isdigit():
        raise NotHttp(f"nobody can know how long this answer is: {headers}")
    return None if len(rest) < int(length) else (rest[: int(length)], rest[int(length) :])


def _chunks(rest: bytes) -> tuple[bytes, bytes] | None:
    parts: list[bytes] = []
    at = 0
    while True:
        end = rest.find(b"\r\n", at)
        if end < 0:
            return None
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", rest[at:end]):
            raise NotHttp(f"no chunk size: {rest[at : at + 60]!r}")
        size = int(rest[at:end], 16)
        if len(rest) < end + 4 + size:
            return None
        if rest[end + 2 + size : end + 4 + size] != b"\r\n":
            raise NotHttp(f"no end of a chunk: {rest[end + 2 + size :][:60]!r}")
        parts.append(rest[end + 2 : end + 2 + size])
        at = end + 4 + size
        if size == 0:
            return b"".join(parts), rest[at:]
