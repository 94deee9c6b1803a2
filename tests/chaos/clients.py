"""Clients: sixteen who stream and know what must come, and some who leave things with the door. They behave as good
clients do: told to come again, they come again; refused, they wait a moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.chaos.facts import Served
from tests.chaos.stage import SERVICES, Stage

NUM_STREAMS = 16
NUM_WRITERS = 2
DEADLINE_S = 60.0
"""No request takes as long; one that does hangs."""
CONNECT_S = 5.0
PROMPTS = ("The socket option", "A garden in spring is", "Once the file is open,")
LENGTHS = (48, 160, 420)
THINK_S = (0.02, 0.5)
PATHS = ("/v1/completions", "/v1/chat/completions")
KEY_COMES_S = 0.25
NO_DOOR_S = 0.25
Question = tuple[str, str, str, int]
"""Service, path, prompt, number of tokens."""


def questions() -> list[Question]:
    return [(s, path, prompt, n) for s in SERVICES for path in PATHS for prompt in PROMPTS for n in LENGTHS]


def body_of(question: Question, *, stream: bool) -> dict[str, Any]:
    service, path, prompt, num_tokens = question
    body: dict[str, Any] = {"model": service, "max_tokens": num_tokens, "ignore_eos": True, "temperature": 0}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    asked = {"prompt": prompt} if path.endswith("/completions") and "chat" not in path else None
    return body | (asked or {"messages": [{"role": "user", "content": prompt}]})


class Refused(Exception):
    """Nobody listens."""


class CutOff(Exception):
    """The connection ended in the middle."""


@dataclass(slots=True)
class Reply:
    """What has come so far."""

    status: int = 0
    headers: dict[str, str] | None = None
    text: str = ""
    num_tokens: int | None = None
    error: dict[str, Any] | None = None
    done: bool = False
    content: bytes = b""


class Keys:
    """Who holds which key just now. Taken back ones are replaced by whoever took them."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self._secrets = secrets
        self._names = list(secrets)

    def of(self, client: int) -> tuple[str, str]:
        """(name, key)."""
        name = self._names[client]
        return name, self._secrets[name]

    def __len__(self) -> int:
        return len(self._names)

    def replace(self, client: int, name: str, secret: str) -> None:
        self._names[client] = name
        self._secrets[name] = secret

    def names(self) -> set[str]:
        return set(self._names)


class Crowd:
    """All clients. `known` is filled by `learn`, while nothing strikes."""

    def __init__(self, stage: Stage, keys: Keys, seed: int) -> None:
        self._stage = stage
        self._keys = keys
        self._seed = seed
        self.known: dict[Question, str] = {}
        self.most_at_once = 0
        self._at_once = 0
        self.leaving = False

    async def learn(self) -> None:
        """The answers, asked for whole and one after the other."""
        for question in questions():
            reply = Reply()
            await self._ask(question[1], body_of(question, stream=False), self._keys.of(0)[1], reply)
            choice = json.loads(reply.content)["choices"][0]
            self.known[question] = choice["text"] if "text" in choice else choice["message"]["content"]

    async def stream(self, number: int) -> None:
        """One client, until `leaving`."""
        chance = random.Random(f"{self._seed} stream {number}")
        favourite = list(SERVICES)[number % len(SERVICES)]
        while not self.leaving:
            await asyncio.sleep(chance.uniform(*THINK_S))
            service = favourite if chance.random() < 0.8 else chance.choice(list(SERVICES))
            question = (service, chance.choice(PATHS), chance.choice(PROMPTS), chance.choice(LENGTHS))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                served = await self._streamed(number, question)
            finally:
                self._at_once -= 1
            await self._heed(served)

    async def write(self, number: int) -> None:
        """Leaves responses with the door and takes them back, until `leaving`."""
        chance = random.Random(f"{self._seed} write {number}")
        client = NUM_STREAMS + number
        while not self.leaving:
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            body = {"model": chance.choice(list(SERVICES)), "input": "hello", "max_output_tokens": 4, "store": True}
            served, reply = await self._judged(client, "write", body["model"], "/v1/responses", body)
            if served.outcome == "whole" and not self.leaving:
                kept = json.loads(reply.content)["id"]
                await self._judged(client, "write", body["model"], f"/v1/responses/{kept}", None, "DELETE")
            await self._heed(served)

    async def _heed(self, served: Served) -> None:
        if served.outcome == "error":
            await asyncio.sleep(1.0 if served.told_again else KEY_COMES_S)
        elif served.outcome in ("refused", "closed"):
            await asyncio.sleep(NO_DOOR_S)

    async def _streamed(self, number: int, question: Question) -> Served:
        return (await self._judged(number, "stream", question[0], question[1], body_of(question, stream=True),
                                   question=question))[0]  # fmt: skip

    async def _judged(
        self,
        number: int,
        what: str,
        service: str,
        path: str,
        body: dict[str, Any] | None,
        method: str = "POST",
        *,
        question: Question | None = None,
    ) -> tuple[Served, Reply]:
        name, secret = self._keys.of(number)
        reply, begun_at, words = Reply(), self._stage.clock(), ""
        outcome = "whole"
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._ask(path, body, secret, reply, method)
        except Refused:
            outcome = "refused"
        except CutOff as cut:
            outcome, words = "closed", f"{cut} after {len(reply.text)} characters, status {reply.status}"
        except TimeoutError:
            outcome, words = "hung", f"after {len(reply.text)} characters"
        in_order, error = True, reply.error or {}
        if outcome == "whole" and error:
            outcome, words = "error", str(error.get("message"))[:300]
        if question is not None:
            known = self.known[question]
            in_order = known.startswith(reply.text)
            if outcome == "whole" and (reply.text != known or reply.num_tokens != question[3] or not reply.done):
                outcome = "wrong"
            if not in_order or outcome == "wrong":
                words += f" {question}: {reply.num_tokens} tokens, {reply.text[-120:]!r}, known {known[:60]!r}..."
        headers = reply.headers or {}
        served = Served(
            client=f"{what} {number}",
            what="stream" if what == "stream" else "write",
            service=service,
            key=name,
            begun_at=round(begun_at, 4),
            ended_at=round(self._stage.clock(), 4),
            outcome=outcome,  # type: ignore[arg-type]
            code=str(error.get("code", "")) if outcome == "error" else "",
            told_again="retry-after" in headers or error.get("retry_after_s") is not None,
            in_order=in_order,
            num_chars=len(reply.text),
            words=words,
        )
        self._stage.facts.requests.append(served)
        return served, reply

    async def _ask(
        self, path: str, body: dict[str, Any] | None, secret: str, reply: Reply, method: str = "POST"
    ) -> None:
        """One request on a connection of its own. Raises Refused, CutOff."""
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._stage.node.port)
        except (OSError, TimeoutError) as error:
            raise Refused(str(error)) from error
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\nauthorization: Bearer {secret}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + content)
            await writer.drain()
            await self._read(reader, reply)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise CutOff(type(error).__name__) from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, reply: Reply) -> None:
        first = await _line(reader)
        reply.status = int(first.split(b" ", 2)[1])
        reply.headers = {}
        while line := await _line(reader):
            name, _, value = line.decode("latin-1").partition(":")
            reply.headers[name.strip().lower()] = value.strip()
        if "text/event-stream" in reply.headers.get("content-type", ""):
            await _read_events(_pieces(reader, reply.headers), reply)
            return
        async for piece in _pieces(reader, reply.headers):
            reply.content += piece
        if reply.status >= 400:
            reply.error = _error(reply.content)


async def _read_events(pieces: AsyncIterator[bytes], reply: Reply) -> None:
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]":
                reply.done = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                reply.error = event["error"]
                continue
            for choice in event.get("choices", ()):
                reply.text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if event.get("usage"):
                reply.num_tokens = event["usage"]["completion_tokens"]


def _error(content: bytes) -> dict[str, Any]:
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return {"code": "not_typed", "message": repr(content[:200])}
    return error if isinstance(error, dict) else {"code": "not_typed", "message": repr(content[:200])}


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readuntil(b"\r\n")
    return line[:-2]


async def _pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body, as it comes. Raises IncompleteReadError where it ends early."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int(await _line(reader), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await _line(reader)
    else:
        yield await reader.readexactly(int(headers.get("content-length", "0")))
