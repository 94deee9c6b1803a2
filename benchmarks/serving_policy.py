"""Adaptive chunks beside fixed ones, and guessed tokens beside none: `python benchmarks/serving_policy.py`.

Writes benchmarks/records/<date>-chunks.json and <date>-guesses.json. One random model, in this process; every pair of
runs answers the same requests, A B, B A, A B ...; what is quoted are medians of ratios within pairs.

* `chunks`: a closed loop of clients, who ask again as soon as they are answered. Lengths are log-normal with the means
  of the Azure LLM inference trace of conversations (1,155 tokens in, 211 out; Patel et al., Splitwise, ISCA 2024), or
  those of `--trace`, a CSV file with the columns ContextTokens and GeneratedTokens; all times `--scale`. Fixed chunks
  fill every step with as many prompt rows as fit; adaptive ones are what a service uses unless told otherwise.
* `guesses`: greedy answers of one and of four clients (random models soon repeat themselves: the best case), and drawn
  ones (which never do: the worst case, nothing but the cost of looking).
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from in_process import Bench, ask
from node import machine, write_record

from thaloom.kernel.sched.chunks import StepTargets
from thaloom.kernel.sched.drafts import DRAFT_ROWS
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.messages import Finished, Generate, Tokens

FIXED = StepTargets(stretch=1e9)
LIMITS = StepLimits(max_sequences=16, chunk_tokens=512, draft_rows=DRAFT_ROWS)
PLAIN = StepLimits(max_sequences=16, chunk_tokens=512)
MOST_PROMPT, MOST_ANSWER = 3000, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tokens/s of answers, and of answers and prompts; time between two tokens of an answer, and to the first."""

    output_tokens_per_s: float
    tokens_per_s: float
    token_ms_p50: float
    token_ms_p99: float
    first_ms_p50: float
    drafted: int
    accepted: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="llama-135m")
    parser.add_argument("--weights", default="stored", choices=["stored", "int8", "int4"])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--parts", nargs="+", default=["chunks", "guesses"], choices=["chunks", "guesses"])
    given = parser.parse_args()
    bench = Bench(given.shape, weights=given.weights, num_threads=2, limits=LIMITS, context=4096, contexts=16)
    loop(bench.engine(LIMITS, FIXED), [ask([1] * 600, 8)] * 4, clients=4)  # warm
    record: dict[str, Any] = {**machine(), "shape": given.shape, "weights": given.weights, "scale": given.scale}
    if "chunks" in given.parts:
        lengths = traced(given.trace) if given.trace else drawn_lengths()
        found = chunks(bench, lengths, given.pairs, given.requests, given.scale)
        write_record("chunks", record | {"chunks": found, "requests": given.requests, "pairs": given.pairs})
    if "guesses" in given.parts:
        found = {
            f"{kind}, {clients}": guesses(bench, given.pairs, clients, temperature)
            for kind, temperature in (("greedy", 0.0), ("drawn", 1.0))
            for clients in (1, 4)
        }
        write_record("guesses", record | {"guesses": found, "pairs": given.pairs})


def chunks(
    bench: Bench, lengths: Iterator[tuple[int, int]], pairs: int, num_requests: int, scale: float
) -> dict[str, Any]:
    drawn = random.Random(1)
    found = []
    for pair in range(pairs):
        requests = [
            ask(
                [drawn.randrange(bench.vocab) for _ in range(max(8, min(MOST_PROMPT, round(prompt * scale))))],
                max(4, min(MOST_ANSWER, round(answer * scale))),
                temperature=1.0,
                seed=number,
            )
            for number, (prompt, answer) in zip(range(num_requests), lengths, strict=False)
        ]
        found.append(
            turns(
                pair,
                lambda asked=requests: loop(bench.engine(PLAIN, FIXED), asked, clients=16),  # type: ignore[misc]
                lambda asked=requests: loop(bench.engine(PLAIN, StepTargets()), asked, clients=16),  # type: ignore[misc]
            )
        )
    return compared(found, "fixed", "adaptive")


def guesses(bench: Bench, pairs: int, clients: int, temperature: float) -> dict[str, Any]:
    drawn = random.Random(2)
    requests = [
        ask([drawn.randrange(bench.vocab) for _ in range(128)], 200, temperature=temperature, seed=number)
        for number in range(clients)
    ]
    return compared(
        [
            turns(
                pair,
                lambda: loop(bench.engine(PLAIN, StepTargets()), requests, clients=clients),
                lambda: loop(bench.engine(LIMITS, StepTargets()), requests, clients=clients),
            )
            for pair in range(pairs)
        ],
        "none",
        "auto",
    )


def turns(pair: int, first: Any, second: Any) -> tuple[Run, Run]:
    if pair % 2:
        later, sooner = second(), first()
        return sooner, later
    return first(), second()


def compared(pairs: list[tuple[Run, Run]], first: str, second: str) -> dict[str, Any]:
    """Medians of both, and of the ratios second / first within pairs, with their spread."""
    result: dict[str, Any] = {name: {} for name in (first, second, "ratio")}
    for figure in asdict(pairs[0][0]):
        values = [(getattr(a, figure), getattr(b, figure)) for a, b in pairs]
        result[first][figure] = statistics.median(a for a, _ in values)
        result[second][figure] = statistics.median(b for _, b in values)
        ratios = [b / a for a, b in values if a]
        if len(ratios) == len(values):
            result["ratio"][figure] = [min(ratios), statistics.median(ratios), max(ratios)]
    return result


def loop(engine: Engine, requests: list[Generate], *, clients: int) -> Run:
    """All requests, as many at a time as there are clients."""
    waiting = list(requests)
    asked: dict[Ticket, float] = {}
    latest: dict[Ticket, float] = {}
    gaps: list[float] = []
    first: list[float] = []
    num_tokens = 0
    started = time.perf_counter()

    def submit() -> None:
        if waiting:
            ticket, _ = engine.submit(waiting.pop(0))
            asked[ticket] = time.perf_counter()

    for _ in range(clients):
        submit()
    while engine.busy:
        for ticket, reply in engine.step():
            now = time.perf_counter()
            if isinstance(reply, Tokens):
                num_tokens += len(reply.tokens)
                if ticket in latest:
                    gaps += [now - latest[ticket]] + [0.0] * (len(reply.tokens) - 1)
                else:
                    first.append(now - asked[ticket])
                latest[ticket] = now
            elif isinstance(reply, Finished):
                submit()
    seconds = time.perf_counter() - started
    return Run(
        output_tokens_per_s=num_tokens / seconds,
        tokens_per_s=(num_tokens + sum(len(request.prompt) for request in requests)) / seconds,
        token_ms_p50=1e3 * float(np.percentile(gaps, 50)),
        token_ms_p99=1e3 * float(np.percentile(gaps, 99)),
        first_ms_p50=1e3 * float(np.percentile(first, 50)),
        drafted=engine.counters.drafted_tokens,
        accepted=engine.counters.accepted_tokens,
    )


def drawn_lengths() -> Iterator[tuple[int, int]]:
    random_ = np.random.default_rng(3)
    spread = 0.8
    while True:
        prompt, answer = np.exp(random_.normal(-spread * spread / 2, spread, size=2)) * (1155, 211)
        yield int(prompt), int(answer)


def traced(path: Path) -> Iterator[tuple[int, int]]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield int(row["ContextTokens"]), int(row["GeneratedTokens"])


if __name__ == "__main__":
    main()
