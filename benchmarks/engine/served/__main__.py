"""Servers side by side: `python -m benchmarks.engine.served`. Writes benchmarks/records/<date>-served.{json,md}.

The same client works through the same requests at each server in turn, A B, B A, A B ...; ratios are made within
pairs, of output tokens per second.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine import environments
from benchmarks.engine.cells import WeightClass
from benchmarks.engine.engines import Unavailable, end_in_order
from benchmarks.engine.models import random_model, vocabulary
from benchmarks.engine.pairs import Pair, Run, judge, order
from benchmarks.engine.peers.llama_cpp import LlamaCpp
from benchmarks.engine.peers.vllm import Vllm
from benchmarks.engine.probe import Probe, waited_s
from benchmarks.engine.record import ratio_text
from benchmarks.engine.served.client import Ask, Figures, ServerFailed, drive, figures
from benchmarks.engine.served.loads import CONTEXT, LOADS, SHORT_LOADS, Load
from benchmarks.engine.served.servers import LlamaServer, Running, Server, ThaloomNode, VllmServer
from benchmarks.node import machine

RECORDS = Path(__file__).resolve().parents[2] / "records"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.engine.served", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a toy model, no peers, no record: does the harness work")
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="begin no pair after this many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="", help="only peers with one of these words in their name, by commas")
    parser.add_argument("--loads", default="", help="only loads with one of these words in their name, by commas")
    parser.add_argument("--suffix", default="")
    asked = parser.parse_args()
    end_in_order()
    record = compare(asked)
    text = table(record)
    print(text)
    if not asked.short:
        stem = RECORDS / f"{record['when'][:10]}-served{asked.suffix}"
        stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        stem.with_suffix(".md").write_text(text)
    return 0


def our_servers(threads: int) -> dict[WeightClass, Server]:
    return {
        "8 bit": ThaloomNode(
            name="Thaloom int8", weight_class="8 bit", num_threads=threads, options=("--weights", "int8")
        ),
        "4 bit": ThaloomNode(
            name="Thaloom int4", weight_class="4 bit", num_threads=threads, options=("--weights", "int4")
        ),
        "16 bit": ThaloomNode(name="Thaloom stored", weight_class="16 bit", num_threads=threads),
    }


def all_peers(threads: int) -> list[Server]:
    return [
        LlamaServer(engine=LlamaCpp(project="llama.cpp", quantisation="Q8_0", num_threads=threads)),
        VllmServer(engine=Vllm(weight_class="8 bit", num_threads=threads)),
        LlamaServer(engine=LlamaCpp(project="llama.cpp", quantisation="Q4_0", num_threads=threads)),
    ]


@dataclass(slots=True)
class Measured:
    """Pairs and figures of a run, by load and server."""

    pairs: dict[tuple[str, str], list[Pair]] = field(default_factory=dict)
    figures: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        loads: dict[str, Any] = {}
        for (load, server), told in self.figures.items():
            loads.setdefault(load, {})[server] = _medians(told)
        for (load, server), pairs in self.pairs.items():
            loads[load][server]["ratio"] = dataclasses.asdict(judge(pairs, follows_memory=False))
        return {"loads": loads, "left_out": self.left_out, "peak_bytes": self.peak_bytes}


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    began = datetime.datetime.now(datetime.UTC)
    model = random_model("toy" if asked.short else asked.model)
    load_before = os.getloadavg()
    measured = measure(asked, model)
    return {
        "when": began.isoformat(timespec="seconds"),
        **machine(),
        "threads": asked.threads,
        "model": model.name,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        **measured.as_record(),
    }


def measure(asked: argparse.Namespace, model: Path) -> Measured:
    deadline = time.monotonic() + 60 * (asked.minutes or 1e9)
    probe = Probe(asked.threads, environments.cache())
    peers = [] if asked.short else [peer for peer in all_peers(asked.threads) if picked(peer.name, asked.peers)]
    loads = [load for load in (SHORT_LOADS if asked.short else LOADS) if picked(load.name, asked.loads)]
    context, slots = (256, 4) if asked.short else (CONTEXT, 32)
    classes: list[WeightClass] = list(dict.fromkeys(peer.weight_class for peer in peers)) or ["16 bit"]
    measured = Measured()
    with ExitStack() as stack:
        ours = {
            name: stack.enter_context(our_servers(asked.threads)[name].open(model, context=context, slots=slots))
            for name in classes
        }
        rivals = _open_all(peers, model, context, slots, stack, measured.left_out)
        for number, sides in enumerate(order(1 if asked.short else asked.pairs)):
            for load in loads:
                asks = load.asks(vocabulary(model), seed=number)
                if not rivals:
                    _, told = _run(ours[classes[0]], load, asks, probe)
                    measured.figures.setdefault((load.name, "ours"), []).append(told)
                for peer, other in rivals:
                    if time.monotonic() > deadline:
                        break
                    both = {"ours": ours[peer.weight_class], "peer": other}
                    try:
                        runs = {side: _run(both[side], load, asks, probe) for side in sides}
                    except ServerFailed as error:
                        measured.left_out[f"{peer.name}, {load.name}"] = str(error)
                        continue
                    pair = Pair(ours=runs["ours"][0], peer=runs["peer"][0])
                    measured.pairs.setdefault((load.name, peer.name), []).append(pair)
                    measured.figures.setdefault((load.name, f"ours, {peer.weight_class}"), []).append(runs["ours"][1])
                    measured.figures.setdefault((load.name, peer.name), []).append(runs["peer"][1])
                    print(f"{number + 1}: {load.name}: {peer.name}: {pair.ratio:.2f}", file=sys.stderr, flush=True)
        measured.peak_bytes = {f"ours, {name}": running.peak_bytes() for name, running in ours.items()}
        measured.peak_bytes |= {peer.name: running.peak_bytes() for peer, running in rivals}
    return measured


def _open_all(
    peers: Sequence[Server], model: Path, context: int, slots: int, stack: ExitStack, left_out: dict[str, str]
) -> list[tuple[Server, Running]]:
    """Those that start, stopped. One that does not is told."""
    opened = []
    for peer in peers:
        try:
            print(f"open {peer.name}", file=sys.stderr, flush=True)
            peer.prepare(model)
            running = stack.enter_context(peer.open(model, context=context, slots=slots))
        except Unavailable as error:
            left_out[peer.name] = str(error)
            continue
        running.pause()
        opened.append((peer, running))
    return opened


def _run(running: Running, load: Load, asks: Sequence[Ask], probe: Probe) -> tuple[Run, Figures]:
    bytes_per_s = probe.read()
    running.resume()
    try:
        begin, waited = time.monotonic(), waited_s()
        told = figures(drive(running.endpoint, asks, load.num_clients))
        share = None if waited is None else ((waited_s() or waited) - waited) / (time.monotonic() - begin)
    finally:
        running.pause()
    return Run(rate=told.tokens_per_s, probe=bytes_per_s, waited=share), told


def _medians(told: Sequence[Figures]) -> dict[str, float]:
    names = [one.name for one in dataclasses.fields(Figures)]
    return {name: statistics.median(getattr(one, name) for one in told) for name in names}


def picked(name: str, words: str) -> bool:
    return not words or any(word.strip() in name for word in words.split(","))


def table(record: dict[str, Any]) -> str:
    lines = [f"# Served, {record['when'][:10]}, {record['model']}", ""]
    lines += [f"Load average before {record['load_before'][0]:.1f}, after {record['load_after'][0]:.1f}.", ""]
    for load, told in record["loads"].items():
        lines += [
            f"**{load}**",
            "",
            "| server | output tokens/s | ms per token, p50 / p99 | ms to first token, p50 / p99 | ours over it |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, one in told.items():
            ratio = ratio_text(one["ratio"]) if "ratio" in one else ""
            times = f"{_ms(one, 'per_token')} | {_ms(one, 'first_token')}"
            lines.append(f"| {name} | {one['tokens_per_s']:,.0f} | {times} | {ratio} |")
        lines.append("")
    lines.append("Most memory ever resident, all processes of a server added up:")
    lines += ["", *(f"* {name}: {size / 1e6:,.0f} MB" for name, size in record["peak_bytes"].items()), ""]
    if record["left_out"]:
        lines += ["Not measured:", ""]
        lines += [f"* {name}: {why.splitlines()[0]}" for name, why in record["left_out"].items()]
    return "\n".join(lines) + "\n"


def _ms(told: dict[str, float], what: str) -> str:
    return f"{told[what + '_p50_s'] * 1e3:,.1f} / {told[what + '_p99_s'] * 1e3:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
