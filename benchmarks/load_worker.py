"""A worker that computes nothing: what the door costs, and leaves behind, is seen when nothing else does.

    python -m benchmarks.load_worker SOCKET

It answers a request for N tokens with N tokens, all at once; one for HELD_TOKENS is held: it gets one each PACE_S,
until its client leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from thaloom.work.runtime.messages import (
    Accepted,
    Finished,
    Generate,
    GetStatus,
    Started,
    Tokens,
    WorkerStats,
    encode,
    read_request,
)

PACE_S = 0.5
TOKEN = 72
HELD_TOKENS = 1_000
BACKLOG = 4096


async def serve(socket: Path) -> None:
    server = await asyncio.start_unix_server(attend, socket, backlog=BACKLOG)
    await server.serve_forever()


async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        request = await read_request(reader)
        if isinstance(request, GetStatus):
            writer.write(encode(status()))
        elif isinstance(request, Generate) and request.max_tokens == HELD_TOKENS:
            await hold(reader, writer)
        elif isinstance(request, Generate):
            writer.write(b"".join(encode(reply) for reply in answer(request)))
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    gone = asyncio.create_task(reader.read(1))
    writer.write(encode(Accepted(waiting=0)))
    while not gone.done():
        writer.write(encode(Tokens(tokens=[TOKEN], logprobs=None)))
        await asyncio.wait([gone], timeout=PACE_S)
    gone.exception()  # however it left


def answer(request: Generate) -> list[Accepted | Tokens | Finished]:
    started = Started(cached_tokens=0, queue_s=0.0, prefill_s=0.001)
    return [
        Accepted(waiting=0),
        *(
            Tokens(tokens=[TOKEN], logprobs=None, started=started if index == 0 else None)
            for index in range(request.max_tokens)
        ),
        Finished(
            reason="length", prompt_tokens=len(request.prompt), completion_tokens=request.max_tokens, cached_tokens=0,
            queue_s=0.0, prefill_s=0.001, decode_s=0.001,
        ),
    ]  # fmt: skip


def status() -> WorkerStats:
    return WorkerStats(
        worker="load", service="tiny", model="tiny", model_digest="0" * 64, pid=1, ready=True, device="cpu",
        driver="cpu", num_threads=1, context_length=4096, vocab_size=4096, exact=True, operator_levels={},
        degraded=None, weight_bytes=0, kv_bytes=0, scratch_bytes=0, num_blocks=1, free_blocks=1, cached_blocks=0,
        running=0, waiting=0, requests_total=0, cancelled_total=0, prompt_tokens_total=0, cached_tokens_total=0,
        completion_tokens_total=0, steps_total=0, step_seconds_total=0.0, preemptions_total=0,
    )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
