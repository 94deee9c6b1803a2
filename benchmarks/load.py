"""The door under load, with a worker that computes nothing: what it holds, and what it leaves behind.

    python -m benchmarks.load                  # 1,000 streams, 10,000 abandoned connections, a million requests
    python -m benchmarks.load --short          # as CI runs it (tests/system/test_door_load.py)

Three things, one after the other, on one door process:

- streams: so many at the same time, each getting a token every half second. All must get theirs; memory for each.
- abandoned: connections opened and left in every way (silent, half a head, half a body, in the middle of an answer).
- trend: requests at the highest rate, one half of them streamed. Memory, descriptors, threads and tasks are looked at
  twenty times; what matters is whether they grow, by half-way to the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.load_worker import HELD_TOKENS

from thaloom.base.ids import ServiceName
from thaloom.kernel.state.routes import publish
from thaloom.kernel.state.types import Route, Routes

ROOT = Path(__file__).resolve().parents[1]
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json")
SILENCE_S = 60.0
"""Nobody waits longer for anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The door's process at one moment. `num_tasks`: of its event loop."""

    rss_bytes: int
    num_descriptors: int
    num_threads: int
    num_tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    pid: int
    port: int

    def look(self) -> Look:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=SILENCE_S) as page:
            tasks = re.search(r"^thaloom_tasks (\S+)", page.read().decode(), re.MULTILINE)
        assert tasks is not None
        status = Path(f"/proc/{self.pid}/status").read_text()
        return Look(
            rss_bytes=int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024,  # type: ignore[index]  # proc(5)
            num_descriptors=self._num_descriptors(),
            num_threads=int(re.search(r"Threads:\s+(\d+)", status)[1]),  # type: ignore[index]
            num_tasks=int(float(tasks[1])),
        )

    def _num_descriptors(self) -> int:
        """The least of some listings: the connection that asked for the page of metrics is still there in the first."""
        counts = []
        for _ in range(10):
            counts.append(len(list(Path(f"/proc/{self.pid}/fd").iterdir())))
            time.sleep(0.02)
        return min(counts)

    async def at_rest(self) -> Look:
        """The most of each in a second without a request: what comes and goes by itself is no trace of one."""
        looks = []
        for _ in range(10):
            looks.append(await asyncio.to_thread(self.look))
            await asyncio.sleep(0.1)
        names = [field.name for field in fields(Look)]
        return Look(**{name: max(getattr(look, name) for look in looks) for name in names})

    async def until_calm(self, like: Look) -> Look:
        """A look when no more descriptors and tasks are there than in `like`, or what there is when patience ends."""
        deadline = time.monotonic() + SILENCE_S
        look = await asyncio.to_thread(self.look)
        while time.monotonic() < deadline and (
            look.num_descriptors > like.num_descriptors or look.num_tasks > like.num_tasks
        ):
            await asyncio.sleep(0.05)
            look = await asyncio.to_thread(self.look)
        return look


@contextlib.contextmanager
def door() -> Iterator[Door]:
    """A door process, and a worker behind it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as home:
        run = Path(home, "run")
        run.mkdir()
        socket = run / "w.sock"
        model = ROOT / "models" / "tiny"
        route = Route(
            name=ServiceName("tiny"), model="tiny", phase="ready", sockets=(str(socket),), context_length=4096,
            created_at=1.0, tokenizer_files={name: str(model / name) for name in TEXT_FILES},
        )  # fmt: skip
        publish(run / "routes.json", Routes(version=1, published_at=0.0, control_socket="", routes=(route,)))
        worker = subprocess.Popen([sys.executable, "-m", "benchmarks.load_worker", str(socket)], env=environment)
        command = [sys.executable, "-m", "thaloom.door", "--home", home, "--port", "0"]
        with (
            Path(home, "door.log").open("w+") as log,
            subprocess.Popen(command, env=environment, stderr=log) as process,
        ):
            try:
                yield Door(pid=process.pid, port=_port(Path(home, "door.log")))
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(SILENCE_S)
                worker.kill()
                worker.wait()


def _port(log: Path) -> int:
    deadline = time.monotonic() + SILENCE_S
    while time.monotonic() < deadline:
        if match := re.search(r"127\.0\.0\.1:(\d+)", log.read_text()):
            return int(match[1])
        time.sleep(0.02)
    raise TimeoutError(f"no door: {log.read_text()!r}")


# -- what is done to it


async def hold_streams(door: Door, num_streams: int, seconds: float) -> dict[str, Any]:
    """`num_streams` at the same time for so long."""
    await ask(door, stream=True)
    before = await door.at_rest()
    begun = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(held_stream(door)) for _ in range(num_streams)]
        await asyncio.gather(*(next_token(stream) for stream in streams))
        all_begun_s = time.monotonic() - begun
        until = time.monotonic() + seconds
        gaps: list[float] = []

        async def read(stream: asyncio.StreamReader) -> int:
            count, last = 0, time.monotonic()
            while time.monotonic() < until:
                await next_token(stream)
                now = time.monotonic()
                gaps.append(now - last)
                count, last = count + 1, now
            return count

        counts = await asyncio.gather(*(read(stream) for stream in streams))
        during = await asyncio.to_thread(door.look)
    after = await door.until_calm(before)
    return {
        "streams": num_streams,
        "all_begun_s": all_begun_s,
        "fewest_tokens": min(counts),
        "longest_gap_s": max(gaps),
        "rss_bytes_per_stream": (during.rss_bytes - before.rss_bytes) / num_streams,
        "before": asdict(before),
        "during": asdict(during),
        "after": asdict(after),
    }


async def abandon_connections(door: Door, num_connections: int, at_once: int = 100) -> dict[str, Any]:
    """So many connections, left in every way."""
    chance = random.Random(4)
    await ask(door, stream=True)
    before = await door.at_rest()

    async def abandon() -> None:
        reader, writer = await connect(door)
        whole = request(stream=bool(chance.getrandbits(1)), max_tokens=HELD_TOKENS)
        say = chance.choice((b"", whole[:20], whole[:-20], whole, whole))
        writer.write(say)
        if say == whole and chance.getrandbits(1):
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(reader.read(100), 0.05)
        if chance.getrandbits(1):
            writer.transport.abort()  # a reset
        writer.close()

    for start in range(0, num_connections, at_once):
        await asyncio.gather(*(abandon() for _ in range(min(at_once, num_connections - start))))
    after = await door.until_calm(before)
    return {"connections": num_connections, "before": asdict(before), "after": asdict(after)}


async def follow_trend(door: Door, num_requests: int, at_once: int = 32, looks: int = 20) -> dict[str, Any]:
    """So many requests at the highest rate on connections that are kept; the door is looked at now and then."""
    seen: list[Look] = []
    begun = time.monotonic()

    async def work(count: int) -> None:
        reader, writer = await connect(door)
        for index in range(count):
            await ask(door, stream=index % 2 == 0, on=(reader, writer))
        writer.close()

    for _ in range(looks):
        await asyncio.gather(*(work(num_requests // looks // at_once) for _ in range(at_once)))
        seen.append(await asyncio.to_thread(door.look))
    done = num_requests // looks // at_once * at_once * looks
    middle, late = seen[looks // 4 : looks // 2], seen[3 * looks // 4 :]
    grown: dict[str, float] = {
        # A connection that was just closed may still be there in one look or another, and in none what leaks is not.
        name: min(getattr(look, name) for look in late) - min(getattr(look, name) for look in middle)
        for name in ("num_descriptors", "num_threads", "num_tasks")
    }
    grown["rss_bytes"] = statistics.median(look.rss_bytes for look in late) - statistics.median(
        look.rss_bytes for look in middle
    )
    return {
        "requests": done,
        "requests_per_s": done / (time.monotonic() - begun),
        "grown": grown,
        "rss_bytes_grown_per_request": grown["rss_bytes"] / (done / 2),
        "looks": [asdict(look) for look in seen],
    }


# -- a client that costs as little as one can


def request(*, stream: bool, max_tokens: int) -> bytes:
    body = {"model": "tiny", "prompt": "The socket option", "max_tokens": max_tokens, "stream": stream}
    content = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


async def connect(door: Door) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", door.port), SILENCE_S)


async def ask(door: Door, *, stream: bool, on: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None) -> None:
    """One request and its whole answer."""
    reader, writer = on or await connect(door)
    writer.write(request(stream=stream, max_tokens=4))
    async with asyncio.timeout(SILENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head + await reader.read(1000)
        if stream:
            body = await reader.readuntil(b"0\r\n\r\n")
            assert b"[DONE]" in body, body
        else:
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None, head
            await reader.readexactly(int(length[1]))
    if on is None:
        writer.close()


@contextlib.asynccontextmanager
async def held_stream(door: Door) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await connect(door)
    writer.write(request(stream=True, max_tokens=HELD_TOKENS))
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SILENCE_S)
        assert head.startswith(b"HTTP/1.1 200"), head
        yield reader
    finally:
        writer.close()


async def next_token(stream: asyncio.StreamReader) -> None:
    await asyncio.wait_for(stream.readuntil(b"\n\n"), SILENCE_S)


async def measure(num_streams: int, num_abandoned: int, num_requests: int, seconds: float) -> dict[str, Any]:
    with door() as here:
        return {
            "streams": await hold_streams(here, num_streams, seconds),
            "abandoned": await abandon_connections(here, num_abandoned),
            "trend": await follow_trend(here, num_requests),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--abandoned", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="to hold the streams for")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    sizes = (100, 500, 4_000, 2.0) if given.short else (given.streams, given.abandoned, given.requests, given.seconds)
    found = asyncio.run(measure(*sizes))
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from benchmarks.node import machine, write_record

    write_record("load", {**machine(), "note": given.note, "load_average": os.getloadavg(), **found})


if __name__ == "__main__":
    main()
