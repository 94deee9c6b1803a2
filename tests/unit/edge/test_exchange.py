"""One JSON object for another: in turn, in order, and given up when nobody waits."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import pytest
from starlette.types import Message

from tests.contract.edge.scripted_door import Scripted
from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, BadRequest, ModelNotFound, QueueFull
from thaloom.edge.api.routes.exchange import Asked, Exchange, in_turn
from thaloom.work.runtime.types import Generation


def test_works_are_done_a_few_at_once_and_keep_their_order() -> None:
    under_way = most = 0

    async def work(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(20 - number):
            await asyncio.sleep(0)
        under_way -= 1
        return number

    works = [functools.partial(work, number) for number in range(20)]
    assert asyncio.run(in_turn(works, at_once=3)) == list(range(20))
    assert most == 3


def test_the_first_failure_ends_all_works() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        raise QueueFull("full")

    async def run() -> None:
        async with asyncio.timeout(10):
            await in_turn([wait, fail, wait], at_once=3)

    with pytest.raises(QueueFull):
        asyncio.run(run())
    assert ended == ["cancelled", "cancelled"]


async def exchange(answer: Any, body: bytes, *, leaves: bool = False) -> list[Message]:
    sent: list[Message] = []
    inbox: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": []}
    async with asyncio.timeout(10):
        await Exchange(answer, "x", generation=Scripted(), clock=ManualClock())(scope, receive, send)
    return sent


async def echo(generation: Generation, asked: Asked) -> dict[str, Any]:
    return {"said": asked.data, "id": asked.id}


def test_an_object_is_answered_with_an_object() -> None:
    start, body = asyncio.run(exchange(echo, b'{"a": 1}'))
    told = json.loads(body["body"])
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert told["said"] == {"a": 1}
    assert told["id"].startswith("x-")


def test_an_answer_nobody_waits_for_is_given_up() -> None:
    ended: list[str] = []

    async def slow(generation: Generation, asked: Asked) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        raise AssertionError

    assert asyncio.run(exchange(slow, b"{}", leaves=True)) == []
    assert ended == ["cancelled"]


@pytest.mark.parametrize(
    ("body", "refusal"),
    [(b"[]", BadRequest), (b'{"model": "tiny"}', BadParameter), (b"{}", BadParameter), (b'{"model": 5}', BadParameter),
     (b'{"model": "other"}', ModelNotFound)],
)  # fmt: skip
def test_a_model_that_is_not_here_is_told_before_a_wrong_field(body: bytes, refusal: type[Exception]) -> None:
    async def refuse(generation: Generation, asked: Asked) -> dict[str, Any]:
        raise BadParameter("x: wrong", param="x")

    with pytest.raises(refusal):
        asyncio.run(exchange(refuse, body))
