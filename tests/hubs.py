"""A hub on loopback for tests: it speaks as Hugging Face's and ModelScope's do, and can lie in every way it is told to.

It writes its answers byte by byte, so that it can break rules that a real server keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0" * 20


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stated_length: int | None = None
    """Content-Length, if not that of the body."""
    chunked: bool = False
    cut_at: int | None = None
    """Close the connection after so many bytes of the body."""
    endless: bool = False
    pause_s: float = 0.0
    """Between pieces of the body."""
    silence_s: float = 0.0
    """Before the body."""


Twist = Callable[[Asked, Reply], Reply]


class FakeHub:
    """`files`: what the repository holds. `twist` may change any answer. `asked` is what was asked so far."""

    def __init__(self, files: dict[str, bytes], *, repo: str = "org/name", large: int = 1000) -> None:
        self.files = dict(files)
        self.repo = repo
        self.commit = COMMIT
        self.large = large
        self.asked: list[Asked] = []
        self.twist: Twist = lambda asked, reply: reply
        self.token: str | None = None
        """Who does not send it gets 401."""
        self.page_size = 1000
        self.most_at_once = self._at_once = 0
        self.url = ""

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def files_asked(self) -> list[Asked]:
        return [asked for asked in self.asked if "/resolve/" in asked.path or "FilePath=" in asked.path]

    def reply(self, asked: Asked) -> Reply:
        parts = urlsplit(asked.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if self.token is not None and asked.headers.get("authorization") != f"Bearer {self.token}":
            return _error(401, "GatedRepo")
        if path.startswith(f"/api/v1/models/{self.repo}/repo"):
            return self._model_scope(asked, path, query)
        base = f"/api/models/{self.repo}"
        if path == base or path.startswith(f"{base}/revision/"):
            if path != base and path.rpartition("/")[2] not in ("main", self.commit):
                return _error(404, "RevisionNotFound")
            return _json({"id": self.repo, "sha": self.commit, "siblings": []})
        if path.startswith(f"{base}/tree/"):
            return self._tree(path, query)
        if path.startswith(f"/{self.repo}/resolve/{self.commit}/"):
            name = path.removeprefix(f"/{self.repo}/resolve/{self.commit}/")
            return self.file(asked, name) if name in self.files else _error(404, "EntryNotFound")
        return _error(404, "RepoNotFound")

    def _tree(self, path: str, query: dict[str, list[str]]) -> Reply:
        entries = [self.entry(name) for name in sorted(self.files)]
        at = int(query.get("cursor", ["0"])[0])
        reply = _json(entries[at : at + self.page_size])
        if at + self.page_size < len(entries):
            reply.headers["link"] = f'<{self.url}{path}?cursor={at + self.page_size}>; rel="next"'
        return reply

    def entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": sha1}
        if len(data) >= self.large:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            entry["oid"] = "a" * 40
        return entry

    def _model_scope(self, asked: Asked, path: str, query: dict[str, list[str]]) -> Reply:
        if path.endswith("/repo/files"):
            found = [
                {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for name, data in self.files.items()
            ]
            return _json({"Code": 200, "Success": True, "Data": {"Files": found}})
        name = query["FilePath"][0]
        return self.file(asked, name) if name in self.files else _error(404, "")

    def file(self, asked: Asked, name: str) -> Reply:
        data = self.files[name]
        headers = {"etag": '"x"', "accept-ranges": "bytes"}
        if "/resolve/" in asked.path:
            headers["x-repo-commit"] = self.commit
        wanted = asked.headers.get("range")
        if wanted is None:
            return Reply(headers=headers, body=data)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, len(data))
        headers["content-range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return Reply(status=206, headers=headers, body=data[start:stop])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._at_once += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._at_once -= 1
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        pairs = (line.partition(":") for line in head[1:] if line)
        asked = Asked(method, path, {name.lower(): value.strip() for name, _, value in pairs})
        self.asked.append(asked)
        self.most_at_once = max(self.most_at_once, self._at_once)
        reply = self.twist(asked, self.reply(asked))
        headers = {"content-type": "application/octet-stream"} | reply.headers
        if reply.chunked or reply.endless:
            headers["transfer-encoding"] = "chunked"
        else:
            length = len(reply.body) if reply.stated_length is None else reply.stated_length
            headers.setdefault("content-length", str(length))
        lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        await writer.drain()
        await asyncio.sleep(reply.silence_s)
        body = reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
        while True:
            for at in range(0, len(body), 4096):
                piece = body[at : at + 4096]
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if "transfer-encoding" in headers else piece)
                await writer.drain()
                if reply.pause_s:
                    await asyncio.sleep(reply.pause_s)
            if not reply.endless:
                break
        if reply.chunked and reply.cut_at is None:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return reply.cut_at is None and reply.stated_length is None


@contextlib.contextmanager
def serving_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """`hub` on a port of its own, in a thread of its own, until the block ends."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(hub.serve, "127.0.0.1", 0, limit=64 * 1024)
        hub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def in_thread() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(run())

    thread = threading.Thread(target=in_thread, name="fake-hub")
    thread.start()
    assert started.wait(30)
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def _json(value: Any) -> Reply:
    return Reply(headers={"content-type": "application/json"}, body=json.dumps(value).encode())


def _error(status: int, code: str) -> Reply:
    return Reply(status=status, headers={"x-error-code": code} if code else {}, body=b'{"error":"no"}')
