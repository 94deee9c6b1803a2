"""One asyncio client for every OpenAI-compatible server: streams completions of token ids and looks at the clock.

Speaks HTTP/1.1 by hand, for it shares two cores with the server it measures: a request is one write, an answer is
read line by line, and an event costs a search for one word.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 300.0


class ServerFailed(Exception):
    """It answered something else than a stream of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server listens, and what it calls the model."""

    port: int
    model: str
    extra: tuple[tuple[str, Any], ...] = ()
    """Fields of the request that only this server knows (how it turns its prefix cache off)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    prompt: tuple[int, ...]
    new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One stream as the client saw it; seconds since the load began."""

    begun_s: float
    first_s: float
    last_s: float
    num_tokens: int

    @property
    def first_token_s(self) -> float:
        return self.first_s - self.begun_s

    @property
    def per_token_s(self) -> float | None:
        """From the first token to the last, a token. None for an answer of one."""
        return (self.last_s - self.first_s) / (self.num_tokens - 1) if self.num_tokens > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One load in figures. Seconds."""

    tokens_per_s: float
    per_token_p50_s: float
    per_token_p99_s: float
    first_token_p50_s: float
    first_token_p99_s: float


def figures(answers: Sequence[Answer]) -> Figures:
    """Output tokens over the time from the first request to the last token, and what single requests saw."""
    per_token = [answer.per_token_s for answer in answers if answer.per_token_s is not None]
    first = [answer.first_token_s for answer in answers]
    spent = max(answer.last_s for answer in answers) - min(answer.begun_s for answer in answers)
    return Figures(
        tokens_per_s=sum(answer.num_tokens for answer in answers) / spent,
        per_token_p50_s=quantile(per_token, 0.50),
        per_token_p99_s=quantile(per_token, 0.99),
        first_token_p50_s=quantile(first, 0.50),
        first_token_p99_s=quantile(first, 0.99),
    )


def quantile(values: Iterable[float], share: float) -> float:
    """By linear interpolation between the two nearest. Raises ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    if len(ordered) == 1:
        return ordered[0]
    return statistics.quantiles(ordered, n=1000, method="inclusive")[round(share * 1000) - 1]


def drive(endpoint: Endpoint, asks: Sequence[Ask], num_clients: int) -> list[Answer]:
    """`num_clients` at once, each with its next request as soon as its last is answered. Raises ServerFailed."""
    try:
        return asyncio.run(_drive(endpoint, asks, num_clients))
    except TimeoutError as error:
        raise ServerFailed(f"not answered within {TIMEOUT_S:.0f} s") from error
    except ExceptionGroup as group:
        raise ServerFailed(str(group.exceptions[0])) from group


async def _drive(endpoint: Endpoint, asks: Sequence[Ask], num_clients: int) -> list[Answer]:
    begin = time.perf_counter()
    waiting = list(reversed(asks))
    answers: list[Answer] = []

    async def client() -> None:
        while waiting:
            answers.append(await stream(endpoint, waiting.pop(), begin))

    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(client())
    return answers


async def stream(endpoint: Endpoint, ask: Ask, begin: float) -> Answer:
    """Send one request and read its stream to the end."""
    begun_s = time.perf_counter() - begin
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port, limit=1 << 20)
    try:
        writer.write(request(endpoint, ask))
        status = (await reader.readline()).split()
        if len(status) < 2 or status[1] != b"200":
            raise ServerFailed((b" ".join(status) + b" " + await reader.read(2000)).decode(errors="replace"))
        first_s = last_s = 0.0
        num_tokens = 0
        async for line in reader:
            if not line.startswith(b"data: {"):
                if line.startswith(b"data: [DONE]"):
                    break
                continue
            if b'"error"' in line:
                raise ServerFailed(line.decode(errors="replace"))
            if b'"completion_tokens"' in line and (usage := json.loads(line[6:]).get("usage")):
                num_tokens = int(usage["completion_tokens"])
            if b'"text"' in line:
                last_s = time.perf_counter() - begin
                first_s = first_s or last_s
    finally:
        writer.close()
    if num_tokens != ask.new_tokens or not first_s:
        raise ServerFailed(f"{ask.new_tokens} tokens were asked for, {num_tokens} came")
    return Answer(begun_s=begun_s, first_s=first_s, last_s=last_s, num_tokens=num_tokens)


def request(endpoint: Endpoint, ask: Ask) -> bytes:
    body = json.dumps(
        {
            "model": endpoint.model,
            "prompt": ask.prompt,
            "max_tokens": ask.new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **dict(endpoint.extra),
        }
    ).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{endpoint.port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
