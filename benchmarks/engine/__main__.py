"""`make bench-engine`: engines side by side on this machine. What is measured and how: README.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.engine import environments
from benchmarks.engine.cells import CELLS, SHORT_CELLS, WEIGHT_CLASSES, WeightClass
from benchmarks.engine.engines import Engine, end_in_order
from benchmarks.engine.interleave import Plan, measure
from benchmarks.engine.models import random_model
from benchmarks.engine.peers.llama_cpp import LlamaCpp
from benchmarks.engine.peers.openvino import OpenVino
from benchmarks.engine.peers.thaloom import Thaloom
from benchmarks.engine.peers.transformers import Transformers
from benchmarks.engine.peers.vllm import Vllm
from benchmarks.engine.probe import Probe
from benchmarks.engine.record import crowded, table, to_record
from benchmarks.engine.roofline import Roofline, program_of
from benchmarks.node import machine

RECORDS = Path(__file__).resolve().parent.parent / "records"


def main() -> int:
    end_in_order()
    asked = arguments()
    record = compare(asked)
    title = f"# Engines, {record['when'][:10]}, {record['model']}"
    text = "\n\n".join([title, notes(record), crowded(record), table(record)])
    print(text)
    if not asked.short:
        stem = RECORDS / f"{record['when'][:10]}-engine{asked.suffix}"
        stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        stem.with_suffix(".md").write_text(text)
        print(f"written: {stem}.json, {stem}.md", file=sys.stderr)
    return 1 if record["ended_early"] else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.engine", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a toy model, no peers, no record: does the harness work")
    parser.add_argument("--model", default="qwen2.5-0.5b", help="a shape of benchmarks/random_models.py")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="begin no pair after this many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="", help="only peers with one of these words in their name, by commas")
    parser.add_argument("--cells", default="", help="only cells of these names, by commas")
    parser.add_argument("--classes", default="", help="only these classes of weights, by commas")
    parser.add_argument("--suffix", default="", help="put after the record's name")
    return parser.parse_args()


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Run it all; the record as it is written."""
    began = datetime.datetime.now(datetime.UTC)
    model = random_model("toy" if asked.short else asked.model)
    probe = Probe(asked.threads, environments.cache())
    peaks = probe.peaks()
    ours = {name: engine for name, engine in our_engines(asked).items() if not asked.classes or name in asked.classes}
    cells = [
        cell for cell in (SHORT_CELLS if asked.short else CELLS) if not asked.cells or cell.name in words(asked.cells)
    ]
    plan = Plan(
        model=model,
        ours=ours,
        peers=[] if asked.short else [peer for peer in all_peers(asked.threads) if wanted(peer, asked)],
        cells=cells,
        num_pairs=1 if asked.short else asked.pairs,
        deadline=time.monotonic() + 60 * asked.minutes if asked.minutes else None,
    )  # fmt: skip
    load_before = os.getloadavg()
    measured = measure(plan, probe.read)
    program = program_of(model)
    rooflines = {name: Roofline(program=program, weight_class=name, peaks=peaks) for name in WEIGHT_CLASSES}
    return {
        "when": began.isoformat(timespec="seconds"),
        "minutes": round((datetime.datetime.now(datetime.UTC) - began).total_seconds() / 60, 1),
        **machine(),
        "threads": asked.threads,
        "model": model.name,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "probe": probe.how,
        "peaks": dataclasses.asdict(peaks),
        **to_record(measured, rooflines),
    }


def our_engines(asked: argparse.Namespace) -> dict[WeightClass, Engine]:
    small: dict[str, Any] = {"max_batch": 4, "context": 256} if asked.short else {}
    formats: dict[WeightClass, str] = {"8 bit": "int8", "4 bit": "int4", "16 bit": "stored"}
    return {
        weight_class: Thaloom(
            name=f"Thaloom {weight_format}",
            weight_class=weight_class,
            num_threads=asked.threads,
            spec={} if weight_format == "stored" else {"weights": weight_format},
            **small,
        )
        for weight_class, weight_format in formats.items()
    }


def all_peers(threads: int) -> list[Engine]:
    """In the order in which they matter most."""
    return [
        LlamaCpp(project="llama.cpp", quantisation="Q8_0", num_threads=threads),
        LlamaCpp(project="llama.cpp", quantisation="Q4_0", num_threads=threads),
        LlamaCpp(project="llama.cpp", quantisation="BF16", num_threads=threads),
        Vllm(weight_class="8 bit", num_threads=threads),
        Vllm(weight_class="16 bit", num_threads=threads),
        OpenVino(num_threads=threads),
        LlamaCpp(project="ik_llama.cpp", quantisation="Q8_0", num_threads=threads),
        LlamaCpp(project="ik_llama.cpp", quantisation="Q4_0", num_threads=threads),
        LlamaCpp(project="ik_llama.cpp", quantisation="BF16", num_threads=threads),
        Transformers(num_threads=threads),
    ]


def wanted(peer: Engine, asked: argparse.Namespace) -> bool:
    in_class = not asked.classes or peer.weight_class in words(asked.classes)
    return in_class and (not asked.peers or any(word in peer.name for word in words(asked.peers)))


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def notes(record: dict[str, Any]) -> str:
    """What a reader must know beside the figures."""
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in record["peaks"].items() if value)
    engines = "; ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{record['cpu']}, {record['threads']} threads of {record['cores']} cores; {record['minutes']} minutes. "
        f"Load average before {record['load_before'][0]:.1f}, after {record['load_after'][0]:.1f}: an engine makes "
        f"{record['threads']} of it, the rest was other work beside. "
        f"Peaks of all threads in Gop/s: {peaks or 'not known'}. Engines: {engines}."
    )


if __name__ == "__main__":
    sys.exit(main())
