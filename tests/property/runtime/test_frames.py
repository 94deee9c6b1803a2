"""Whatever arrives at a worker's socket is a request, an end, or a BadRequest; never anything else."""

from __future__ import annotations

import asyncio
import struct
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.runtime.doubles import ask
from thaloom.base.errors import BadRequest
from thaloom.work.runtime.messages import (
    Accepted,
    Failed,
    Finished,
    Generate,
    GetStatus,
    LogprobRow,
    Reply,
    ReplyFrames,
    Request,
    Shutdown,
    Started,
    Tokens,
    encode,
    read_reply,
    read_request,
)

WHOLE = encode(ask([1, 2, 3], 5, logprobs=3))
REPLIES: list[Reply] = [
    Accepted(waiting=3),
    Tokens(
        tokens=[1, 2],
        logprobs=[LogprobRow(chosen=-0.5, top_tokens=[1], top_logprobs=[-0.5])],
        started=Started(cached_tokens=16, queue_s=0.1, prefill_s=0.2),
    ),
    Finished(
        reason="stop", prompt_tokens=1, completion_tokens=2, cached_tokens=0, queue_s=0.0, prefill_s=0.1, decode_s=0.2
    ),
    Failed(error={"code": "queue_full", "details": {"running": 3}}),
]


def read(data: bytes) -> Request | None:
    async def story() -> Request | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_request(reader)

    return asyncio.run(story())


@settings(max_examples=150)
@given(body=st.binary(max_size=60))
def test_any_body_is_a_request_or_a_bad_one(body: bytes) -> None:
    try:
        assert isinstance(read(struct.pack(">I", len(body)) + body), Generate | GetStatus | Shutdown)
    except BadRequest:
        pass


@settings(max_examples=150)
@given(at=st.integers(4, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_damaged_request_is_a_request_or_a_bad_one(at: int, byte: int) -> None:
    try:
        read(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])
    except BadRequest:
        pass


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_torn_frame_is_an_end(length: int) -> None:
    assert read(WHOLE[:length]) is None


@settings(max_examples=50)
@given(prompt=st.lists(st.integers(0, 2**31 - 1), max_size=20), seed=st.integers(-(2**63), 2**64 - 1))
def test_what_is_sent_is_what_is_read(prompt: list[int], seed: int) -> None:
    request = ask(prompt, 3, seed=seed, temperature=0.5)
    assert read(encode(request)) == request


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_replies_too(reply: Reply) -> None:
    async def story() -> Reply | None:
        reader = asyncio.StreamReader()
        reader.feed_data(encode(reply))
        return await read_reply(reader)

    assert asyncio.run(story()) == reply


def test_a_request_nested_without_end_is_a_bad_one() -> None:
    tag = msgspec.msgpack.encode("type") + msgspec.msgpack.encode("generate") + msgspec.msgpack.encode("unknown")
    for nested in (b"\x82" + tag + b"\x91" * 100_000 + b"\x01", b"\x81\xa1x" * 100_000 + b"\x01"):
        with pytest.raises(BadRequest, match="not a request"):
            read(struct.pack(">I", len(nested)) + nested)


@given(cuts=st.lists(st.integers(0, 500), max_size=12))
def test_replies_are_the_same_however_their_bytes_arrive(cuts: list[int]) -> None:
    data = b"".join(encode(reply) for reply in REPLIES)
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    frames = ReplyFrames()
    found = [reply for start, end in pairwise(edges) for reply in frames.feed(data[start:end])]
    assert found == REPLIES


@settings(max_examples=150)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_replies_or_a_bad_one(data: bytes) -> None:
    try:
        ReplyFrames().feed(data)
    except BadRequest:
        pass


def test_a_frame_that_claims_too_much_is_a_bad_one_at_once() -> None:
    with pytest.raises(BadRequest, match="larger than"):
        ReplyFrames().feed(struct.pack(">I", 2**31))
