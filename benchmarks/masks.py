"""What a constraint costs a step: `python benchmarks/masks.py`. Writes benchmarks/records/<date>-masks.json.

Two engines take turns, step by step, on one model with 16 answers each: one free, one held to a JSON schema. The cost
is the mean over pairs of neighbouring steps without the slowest tenth, so that what the machine does meanwhile meets
both. Beside it what compiling takes: the first answer of a schema waits for that, later ones do not.

Random weights give nearly flat rows of logits, from which every draw goes over the whole vocabulary; at a tenth of the
temperature (entropy 3 nats a token) they are as steep as a trained model's. Both are measured, and the steep ones with
the filters that many models come with.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from in_process import SHAPES, Bench, ask
from node import machine, write_record

from thaloom.kernel.sched.chunks import StepTargets
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.core.grammars import Grammars
from thaloom.work.runtime.messages import Grammar
from thaloom.work.runtime.text.tokenizer import read_vocabulary

SCHEMAS: dict[str, Any] = {
    "texts": {"type": "array", "items": {"type": "string"}, "minItems": 1000},
    "records": {
        "type": "array",
        "minItems": 1000,
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "summary": {"type": "string", "maxLength": 400},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "kind": {"enum": ["person", "animal", "thing"]},
                "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,12}$"}},
            },
            "required": ["name", "summary", "age", "kind", "tags"],
            "additionalProperties": False,
        },
    },
    # What is dearest: short texts, and patterns that may match anywhere.
    "bounded": {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 1000},
    "patterns": {"type": "array", "items": {"type": "string", "pattern": "[a-z]{1,12}"}, "minItems": 1000},
}

SAMPLINGS: dict[str, dict[str, Any]] = {
    "steep": {"temperature": 0.1},
    "steep, filtered": {"temperature": 0.1, "top_k": 20, "top_p": 0.95},
    "flat": {"temperature": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="qwen2.5-0.5b")
    parser.add_argument("--weights", default="int8", choices=["stored", "int8", "int4"])
    parser.add_argument("--tokenizer", type=Path, default=Path("models/tiny/tokenizer.json"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    limits = StepLimits(max_sequences=given.batch, chunk_tokens=256)
    vocabulary = read_vocabulary(given.tokenizer.read_bytes(), SHAPES[given.shape].vocab)
    # A trained model never draws what is there only to round the vocabulary up.
    SHAPES["measured"] = dataclasses.replace(SHAPES[given.shape], vocab=len(vocabulary.tokens))
    bench = Bench(
        "measured", weights=given.weights, num_threads=2, limits=limits, context=1024, contexts=2 * given.batch
    )
    known = vars(given) | {"tokenizer": given.tokenizer.name}
    record: dict[str, Any] = {**machine(), **known, "samplings": {}}
    for kind, sampling in SAMPLINGS.items():
        grammars = Grammars(lambda: vocabulary, bench.vocab)
        record["samplings"][kind] = {
            "sampling": sampling,
            **{name: measure(bench, grammars, name, given, limits, sampling) for name in SCHEMAS},
        }
    bench.executable.close()
    write_record("masks", record)


def measure(
    bench: Bench,
    grammars: Grammars,
    name: str,
    given: argparse.Namespace,
    limits: StepLimits,
    sampling: dict[str, Any],
) -> dict[str, float]:
    grammar = Grammar(kind="json_schema", text=json.dumps(SCHEMAS[name]), param="response_format", ends=[1])
    begun = time.perf_counter()
    grammars.matcher(grammar)
    compile_s = time.perf_counter() - begun
    engines = [bench.engine(limits, StepTargets()) for _ in range(2)]
    for number in range(given.batch):
        drawn = random.Random(number)
        request = ask([drawn.randrange(bench.vocab) for _ in range(64)], 900, seed=number, **sampling)
        engines[0].submit(request)
        engines[1].submit(request, grammars.matcher(grammar))
    for engine in engines:
        while engine.counters.completion_tokens < 2 * given.batch:
            engine.step()
    pairs = [[timed(engine) for engine in engines] for _ in range(given.steps)]
    usual = sorted(pairs, key=max)[: len(pairs) * 9 // 10]
    free_ms = statistics.mean(free for free, _ in usual) * 1e3
    cost = statistics.mean(held - free for free, held in usual) * 1e3
    found = {"compile_ms": compile_s * 1e3, "step_ms": free_ms, "mask_ms": cost, "share": cost / free_ms}
    print(
        f"{given.shape}, {name}, {sampling}, {given.batch} rows: step {free_ms:.2f} ms, "
        f"masks {cost:.2f} ms, {cost / free_ms:.1%}; "
        f"compiled in {compile_s * 1e3:.1f} ms"
    )
    return found


def timed(engine: Engine) -> float:
    begun = time.perf_counter()
    engine.step()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
