"""Three services behind memory that holds one and a half of them: `python -m benchmarks.three_services FOLDER TRACE`.

A node runs in a memory control group of its own (so the kernel says whether it was enough) beside nothing else. A
service needs its weights, its process and keys and values for sixteen whole contexts; the group holds one and a half of
that beyond the node itself. TRACE is the Azure conversation trace: each service replays a stretch of its own, arrivals
as far apart as there (`--rate` thins them), tokens cut to `--cut` of their number. Arms, one after the other in every
round, on the same requests:

* lent: the services lend each other what they do not use, which is what `thaloom serve` does;
* static: what is beyond weights and processes is split into three equal parts for keys and values;
* whole: each has all of its sixteen contexts, so that only one is loaded at a time: whoever is asked and is not there
  has the others unloaded as soon as they are idle.

Told: time to the first token from the moment the request was due (waiting for a model included; who is asked to come
back comes back), refusals met, requests that never got an answer, and what the control group counted as failures.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import http.client
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.grouped_node import group, node, out_of_memory, used
from benchmarks.node import PORT, machine, write_record
from benchmarks.random_models import SHAPES, make

from thaloom.base.errors import OutOfMemory
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import PullRequest, ServeRequest

CONTEXT = 2048
CONTEXTS = 16
SERVICES = ("a", "b", "c")
PATIENCE_S = 120.0
MARGIN = 24 << 20
"""Of the control group's, for what the system itself counts there (sockets, page tables, files just read)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One request of the trace."""

    at_s: float
    service: str
    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    first_token_s: float | None
    """From when it was due; None: there was no answer."""
    refusals: int
    error: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the trace, for each arm in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.06, help="of the trace's requests, for each service")
    parser.add_argument("--cut", type=float, default=0.25, help="of the trace's tokens")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-three-services.json")
    asked = parser.parse_args()
    model = make(SHAPES["llama-135m"], asked.folder / "llama-135m")
    with group() as bare, node(asked.folder, bare) as home:
        sizes = measured_sizes(home, model, bare)
    budget = int(sizes["node"] + 1.5 * (sizes["service"] + sizes["kv"])) + MARGIN
    rest = int(1.5 * (sizes["service"] + sizes["kv"]) - len(SERVICES) * sizes["service"])
    print(json.dumps({"sizes": sizes, "budget": budget, "rest": rest}), flush=True)
    wishes = {"lent": None, "static": rest // len(SERVICES), "whole": int(sizes["kv"])}
    answers: dict[str, list[Answer]] = {arm: [] for arm in wishes}
    failures: dict[str, int] = dict.fromkeys(wishes, 0)
    for number in range(asked.rounds):
        trace = requests(asked.trace, number, seconds=asked.seconds, rate=asked.rate, cut=asked.cut)
        for arm, kv_bytes in wishes.items():
            with group(budget) as limited, node(asked.folder, limited) as home:
                serve(home, model, kv_bytes)
                found = replay(trace)
                failures[arm] += out_of_memory(limited)
            answers[arm] += found
            print(number, arm, json.dumps(told(found)), flush=True)
    record = {
        **machine(), "shape": "llama-135m", "weights": "int8", "sizes": sizes, "budget_bytes": budget,
        "kv_bytes": wishes, "rounds": asked.rounds, "seconds": asked.seconds, "rate": asked.rate, "cut": asked.cut,
        "arms": {arm: {**told(found), "out_of_memory": failures[arm]} for arm, found in answers.items()},
    }  # fmt: skip
    lent = record["arms"]["lent"]["first_token_s"]["p99"]
    record["p99_over_lent"] = {arm: record["arms"][arm]["first_token_s"]["p99"] / lent for arm in ("static", "whole")}
    if asked.record:
        write_record("three-services", record)
    else:
        print(json.dumps(record, indent=1))
    return 0


def requests(path: Path, number: int, *, seconds: float, rate: float, cut: float) -> list[Due]:
    """What the services are asked in round `number`: each has stretches of the trace that no other has."""
    with gzip.open(path, "rt") as file:
        rows = [
            (
                datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                int(row["ContextTokens"]),
                int(row["GeneratedTokens"]),
            )
            for row in csv.DictReader(file)
        ]
    length = rows[-1][0] - rows[0][0]
    due = []
    for index, service in enumerate(SERVICES):
        start = rows[0][0] + (length * index / len(SERVICES) + number * seconds) % (length - seconds)
        taken = 0.0
        for at, prompt, answer in rows:
            if not start <= at < start + seconds:
                continue
            taken += rate
            if taken < 1:
                continue
            taken -= 1
            tokens = max(1, int(answer * cut))
            begins = max(1, min(int(prompt * cut), CONTEXT - 1 - tokens))
            due.append(Due(at_s=at - start, service=service, prompt_tokens=begins, max_tokens=tokens))
    return sorted(due, key=lambda one: one.at_s)


def replay(trace: Sequence[Due]) -> list[Answer]:
    begin = time.monotonic()
    answers: list[Answer] = []

    def ask(due: Due, number: int) -> None:
        answers.append(answered(due, begin + due.at_s, number))

    threads = []
    for number, due in enumerate(trace):
        time.sleep(max(0.0, begin + due.at_s - time.monotonic()))
        threads.append(threading.Thread(target=ask, args=(due, number)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return answers


def answered(due: Due, since: float, number: int) -> Answer:
    """The answer to one request, asked again as often and as late as the node says."""
    body = json.dumps({
        "model": due.service, "prompt": [(number * 31 + i * 7) % 40_000 + 1 for i in range(due.prompt_tokens)],
        "max_tokens": due.max_tokens, "temperature": 0, "stream": True, "ignore_eos": True,
    })  # fmt: skip
    for refusals in itertools.count():
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE_S)
        try:
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status in (429, 503, 507) and time.monotonic() - since < PATIENCE_S:
                time.sleep(float(response.headers.get("retry-after") or 1))
                continue
            if response.status != 200:
                return Answer(first_token_s=None, refusals=refusals, error=response.read(300).decode())
            first = None
            for line in response:
                if line.startswith(b"data: {"):
                    if b'"error"' in line:
                        return Answer(first_token_s=None, refusals=refusals, error=line.decode())
                    first = first or time.monotonic() - since
                elif line.startswith(b"data: [DONE]"):
                    return Answer(first_token_s=first, refusals=refusals)
            return Answer(first_token_s=None, refusals=refusals, error="the answer was cut off")
        except OSError as error:
            return Answer(first_token_s=None, refusals=refusals, error=f"{type(error).__name__}: {error}")
        finally:
            connection.close()
    raise AssertionError


def told(answers: Sequence[Answer]) -> dict[str, Any]:
    first = sorted(answer.first_token_s or PATIENCE_S for answer in answers)  # none at all: as late as patience goes
    errors = [answer.error for answer in answers if answer.first_token_s is None]
    return {
        "requests": len(answers), "failed": len(errors), "errors": sorted(set(errors))[:3],
        "refusals": sum(answer.refusals for answer in answers),
        "first_token_s": {
            "median": statistics.median(first), "p90": first[int(0.9 * len(first))],
            "p99": first[int(0.99 * len(first))], "most": first[-1],
        },
    }  # fmt: skip


def measured_sizes(home: Path, model: Path, group: Path) -> dict[str, int]:
    """Bytes of the node alone, of a service without its keys and values, and of sixteen contexts of these."""
    with ControlClient(home) as client:
        client.pull(PullRequest(source=str(model), name="m"))
        time.sleep(3)
        alone = used(group)
        client.serve("a", wish(None))
        client.wait_ready("a", timeout_s=120)
        for number in range(3):
            answered(Due(at_s=0, service="a", prompt_tokens=64, max_tokens=4), time.monotonic(), number)
        one = used(group) - alone
        client.stop("a")
    shape = SHAPES["llama-135m"]
    kv = CONTEXTS * CONTEXT * shape.layers * shape.kv_heads * shape.head_size * 2 * 2
    return {"node": alone, "service": one, "kv": kv}


def wish(kv_bytes: int | None) -> ServeRequest:
    return ServeRequest(
        model="m",
        weights="int8",
        kv_dtype="bf16",
        context_length=CONTEXT,
        max_sequences=CONTEXTS,
        kv_bytes=kv_bytes,
        num_threads=2,
    )


def serve(home: Path, model: Path, kv_bytes: int | None) -> None:
    with ControlClient(home) as client:
        client.pull(PullRequest(source=str(model), name="m"))
        for service in SERVICES:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    client.serve(service, wish(kv_bytes))
                    client.wait_ready(service, timeout_s=PATIENCE_S)
                    break
                except OutOfMemory:  # of whole ones one is there at a time: when the last is idle for long enough
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
