"""Reading a request's body within bounds, and noticing when its sender has gone."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from thaloom.base.errors import BadRequest, BodyLate, EncodingNotRead, TooLarge
from thaloom.base.units import format_bytes
from thaloom.edge.api.entrance.visits import hold

T = TypeVar("T")
MAX_BODY_BYTES = 8 * 1024 * 1024
"""A context of a million tokens as text; more is a mistake or an attack."""
BODY_DEADLINE_S = 30.0


class ClientGone(Exception):
    """The client closed its connection; there is nobody left to answer."""


async def read_object(scope: Scope, receive: Receive, *, limit: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The body as a JSON object, gzipped or plain. Raises BadRequest, TooLarge, QueueFull, BodyLate, EncodingNotRead,
    ClientGone.

    Nesting deeper than 200 is refused by the parser, as are NaN, lone surrogates and numbers of thousands of digits.
    """
    body = await read_plain(Headers(scope=scope), receive, limit=limit)
    hold(parsed_bytes(body))
    try:
        data = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadRequest(f"the body must be a JSON object, not {_json_kind(data)}")
    return data


async def read_plain(headers: Headers, receive: Receive, *, limit: int) -> bytes:
    """The body as it was before it was gzipped, if it was. Raises BadRequest, TooLarge, QueueFull, BodyLate,
    EncodingNotRead, ClientGone."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise EncodingNotRead(f"a body with content-encoding {encoding!r} is not read; send it plain, or with gzip")
    body = await read_body(receive, declared=headers.get("content-length"), limit=limit)
    if encoding == "identity":
        return body
    plain = gunzip(body, limit=limit)
    hold(len(plain))
    return plain


async def read_body(receive: Receive, *, declared: str | None, limit: int) -> bytes:
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {format_bytes(int(declared))}, at most {format_bytes(limit)} are read")
    chunks: list[bytes] = []
    num_bytes, more = 0, True
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunks.append(message.get("body", b""))
                hold(len(chunks[-1]))
                num_bytes += len(chunks[-1])
                if num_bytes > limit:
                    raise TooLarge(f"the body has more than the {format_bytes(limit)} that are read")
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise BodyLate(f"the body did not arrive within {BODY_DEADLINE_S:g} s") from error
    return b"".join(chunks)


def gunzip(data: bytes, *, limit: int) -> bytes:
    """What `data` was before it was compressed: at most `limit` bytes are ever made of it, whatever it would become.

    Raises BadRequest for what is not whole, TooLarge. Source: RFC 1952.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not gzip: {error}") from error
    if len(unpacked) > limit:
        raise TooLarge(f"the body is compressed from more than the {format_bytes(limit)} that are read")
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest("the body is not one whole gzip member")
    return unpacked


def parsed_bytes(body: bytes) -> int:
    """What a JSON text takes in memory when it is read: not less than that, and at most some times as much. Of `[],[],`
    it is thirty times the length, of a text of ASCII once; one character beyond the BMP makes four times of its whole
    text.

    Source: measured with CPython 3.11 (tests/unit/edge/test_room.py).
    """
    wide = 1 if body.isascii() and b"\\u" not in body else 4
    return wide * len(body) + sum(num_bytes * body.count(sign) for sign, num_bytes in _OF_SIGN.items())


_OF_SIGN = {b",": 72, b"[": 96, b"{": 112, b":": 224}
"""Bytes: a value and its place in a list; an empty list; an empty object; a name, and its place among others."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, unless the client goes first: then it is cancelled, and ClientGone raised. The body must be read."""
    doing = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((doing, watching), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientGone
        return doing.result()
    finally:
        for task in (doing, watching):
            task.cancel()
        await asyncio.gather(doing, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json_kind(data: Any) -> str:
    return (
        "null" if data is None else {list: "an array", str: "a string", bool: "a boolean"}.get(type(data), "a number")
    )
