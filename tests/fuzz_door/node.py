"""The node that is thrown at, and what it holds: before, and when all is over."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.fuzz_door.sound import LINE
from tests.system.node import Node, free_port
from thaloom.base.errors import ServiceNotFound
from thaloom.edge.api.entrance.room import CALM_S
from thaloom.edge.wire.control import PullRequest, ServeRequest

PATIENCE_S = 600.0
"""Only what never happens takes so long."""
SETTLE_S = CALM_S + 2.0
MOST_GROWN_MB = 24
"""From half-way to the end, of any process when it is calm. A leak of one kilobyte a request is 50 in 100,000 requests;
what remains below this is pieces of memory that are in use among others that are not."""
CONTEXT_TOKENS = 256
"""Of the bundled model, so that an answer without a bound ends soon."""
SERVICE = "tiny"
_BAD_EVENTS = ("RequestCrashed", "InternalError", "ConnectionFailed")
_LIBRARY = "Exception in callback Future.set_result(None)"
"""asyncio's word for a race in anyio (UNIXSocketStream): a socket becomes readable in the turn in which the one who
waited for it is cancelled. It harms nobody: whoever waited is gone."""
_POOLS = 8
"""So many more threads or descriptors of a process are pools that grow with what happens at the same time. What leaked
with requests would be hundreds."""
_BAD_WORDS = (
    "Traceback (most recent call last)",
    "was never retrieved",
    "was never awaited",
    "Exception in ",
    "Segmentation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`held`: what must be as before. `figures`: what is only told."""

    held: dict[str, int]
    figures: dict[str, int]
    pids: dict[str, int]


@contextlib.contextmanager
def running_node(context_length: int = CONTEXT_TOKENS) -> Iterator[Node]:
    """The bundled model behind a door on loopback, air-gapped, in a home of its own; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        node = Node(Path(folder) / "h", free_port())
        node.environment["THALOOM_AIRGAP"] = "1"
        try:
            node.start()
            with node.client() as client:
                client.pull(PullRequest(source=str(Path(__file__).parents[2] / "models" / "tiny"), name="tiny"))
                client.serve(SERVICE, ServeRequest(model="tiny", num_threads=1, context_length=context_length))
                client.wait_ready(SERVICE, timeout_s=PATIENCE_S)
            node.wait_for_door()
            yield node
        finally:
            node.clean_up()


def ask(node: Node, path: str, body: Any = None, content_type: str = "application/json") -> Any:
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(node.url + path, data, {"content-type": content_type})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def first_event(node: Node, path: str, body: Any) -> Any:
    """Of a stream that is read to its end."""
    request = urllib.request.Request(node.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(next(line for line in answer.read().splitlines() if line.startswith(b"data: "))[6:])


def keep_some(node: Node) -> dict[str, str]:
    """Something of each kind that is kept: by the names that `sound` has for their ids."""
    form = (
        b'--e\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--e\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n%b\n\r\n--e--\r\n'
    ) % json.dumps(LINE).encode()
    file = ask(node, "/v1/files", form, "multipart/form-data; boundary=e")["id"]
    wish = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    response = ask(node, "/v1/responses", {"model": SERVICE, "input": "hi", "max_output_tokens": 2})
    streamed = {"model": SERVICE, "input": "hi", "max_output_tokens": 2, "background": True, "stream": True}
    return {
        "FILE": file,
        "BATCH": ask(node, "/v1/batches", wish)["id"],
        "RESPONSE": response["id"],
        "STREAM": first_event(node, "/v1/responses", streamed)["response"]["id"],
    }


def greedy(node: Node) -> str:
    messages = [{"role": "user", "content": "Tell me a story about a cat."}]
    body = {"model": SERVICE, "messages": messages, "max_tokens": 60, "temperature": 0}
    return str(ask(node, "/v1/chat/completions", body)["choices"][0]["message"]["content"])


def look(node: Node) -> Look:
    with urllib.request.urlopen(f"{node.url}/metrics?names=own", timeout=PATIENCE_S) as page:
        metrics = page.read().decode()
    held = {
        "kv_blocks_used": _metric(metrics, f'thaloom_worker_kv_blocks_used{{model="tiny",service="{SERVICE}"}}'),
        "running": _metric(metrics, f'thaloom_worker_running_requests{{model="tiny",service="{SERVICE}"}}'),
        "waiting": _metric(metrics, f'thaloom_worker_waiting_requests{{model="tiny",service="{SERVICE}"}}'),
        "open_requests": sum(
            int(float(n)) for n in re.findall(r"^thaloom_open_requests\S* (\S+)", metrics, re.MULTILINE)
        ),
        "door_tasks": _metric(metrics, "thaloom_tasks"),
    }
    figures = {
        name: _metric(metrics, f'thaloom_worker_{name}{{model="tiny",service="{SERVICE}"}}')
        for name in (
            "kv_blocks",
            "kv_blocks_cached",
            "requests_total",
            "completion_tokens_total",
            "cancelled_requests_total",
        )
    }
    with node.client() as client:
        there = [p for p in client.processes() if p.role != "standby"]  # that one comes and goes by itself
        processes = {f"{p.role} {p.service or ''}".strip(): p.pid for p in there}
        held["keys"], held["services"] = len(client.keys().keys), len(client.services())
    for name, pid in processes.items():
        held[f"{name}: descriptors"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        held[f"{name}: threads"] = len(list(Path(f"/proc/{pid}/task").iterdir()))
        status = Path(f"/proc/{pid}/status").read_text()
        figures[f"{name}: rss_kb"] = int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]  # proc(5)
    return Look(held=held, figures=figures, pids=processes)


def resident(node: Node) -> dict[str, int]:
    """MB of each process that is there for long."""
    with node.client() as client:
        there = [p for p in client.processes() if p.role != "standby" and p.service in (None, SERVICE)]
        return {p.role: (p.resident_bytes or 0) // 1_000_000 for p in there}


def resident_when_calm(node: Node, like: dict[str, int] | None = None) -> dict[str, int]:
    """MB of each process when the door has had time to give back what large requests took; the least that is seen. Or
    as soon as none has more than in `like` and what it may grow by: a busy machine gets all the time it needs."""
    least = resident(node)
    begun = time.monotonic()
    while time.monotonic() - begun < (SETTLE_S if like is None else PATIENCE_S):
        if like is not None and not grown(least, like):
            break
        time.sleep(0.5)
        least = {role: min(mb, least.get(role, mb)) for role, mb in resident(node).items()}
    return least


def grown(now: dict[str, int], before: dict[str, int]) -> list[str]:
    """Who has more memory than it may have, in words."""
    return [
        f"{role}: {mb} MB, half-way {before[role]} MB"
        for role, mb in now.items()
        if role in before and mb > before[role] + MOST_GROWN_MB
    ]


def _metric(page: str, name: str) -> int:
    match = re.search(rf"^{re.escape(name)} (\S+)", page, re.MULTILINE)
    assert match is not None, name
    return int(float(match[1]))


def look_when_calm(node: Node, like: Look | None = None) -> Look:
    """When nothing runs any more and no more is held than in `like`; or what there is when patience ends."""
    with node.client() as client, contextlib.suppress(ServiceNotFound):
        client.stop("spare")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        now = look(node)
        more = more_than(now, like) if like is not None else []
        busy = [name for name in ("kv_blocks_used", "running", "waiting") if now.held[name]]
        if not more and not busy and now.held["services"] == 1 and now.held["open_requests"] <= 1:
            return now
        if time.monotonic() > deadline:
            return now
        time.sleep(0.5)


def more_than(now: Look, before: Look) -> list[str]:
    """What there is more of than before, in words; and who is not the same process."""
    found = [
        f"{name}: {count}, before {before.held.get(name, 0)}"
        for name, count in now.held.items()
        if count > before.held.get(name, 0) + (_POOLS if ": " in name else 0)
    ]
    return found + [f"{name}: pid {pid}, now {now.pids.get(name)}" for name, pid in before.pids.items()
                    if now.pids.get(name) != pid]  # fmt: skip


def complaints(node: Node) -> list[str]:
    """Lines of the logs that no request should bring about."""
    found = []
    for path in (*sorted((node.home / "logs").iterdir()), node.home / "daemon-test.log"):
        for line in path.read_text(errors="replace").splitlines():
            if _LIBRARY in line:
                continue
            if any(word in line for word in _BAD_WORDS) or any(f'"event": "{name}"' in line for name in _BAD_EVENTS):
                found.append(f"{path.name}: {line[:400]}")
    return found


def as_record(before: Look, after: Look) -> dict[str, Any]:
    return {"before": asdict(before), "after": asdict(after)}
