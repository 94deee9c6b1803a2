"""What our Python costs around a step: `python benchmarks/overhead.py`. Writes benchmarks/records/<date>-overhead.json.

One engine on a random model, decoding: what `Engine.step` takes without what it spends inside the native library (the
forward pass and the choice of tokens). Our part is the thread's own processor time, median over steps, so that
neighbours do not count as ours; the share is of a fast step (the tenth percentile of wall time), so that they do not
hide it either.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

from in_process import Bench, ask
from node import machine, write_record

from thaloom.kernel.sched.chunks import StepTargets
from thaloom.kernel.sched.drafts import DRAFT_ROWS
from thaloom.kernel.sched.steps import StepLimits


class Stopwatch:
    """Counts this thread's processor seconds inside the calls of a native library; the rest of it is as it was."""

    def __init__(self, library: Any) -> None:
        self.seconds = 0.0
        for name in ("step", "draw"):
            setattr(library, name, self._timed(getattr(library, name)))

    def _timed(self, call: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*arguments)
            finally:
                self.seconds += time.thread_time() - started

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["llama-135m", "qwen2.5-0.5b"])
    parser.add_argument("--weights", default="stored", choices=["stored", "int8", "int4"])
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    record: dict[str, Any] = {**machine(), "weights": given.weights, "shapes": {}}
    for shape in given.shapes:
        record["shapes"][shape] = measure(shape, given.weights, given.steps)
    write_record("overhead", record)


def measure(shape: str, weights: Any, steps: int) -> dict[str, Any]:
    limits = StepLimits(max_sequences=16, chunk_tokens=256, draft_rows=DRAFT_ROWS)
    bench = Bench(shape, weights=weights, num_threads=2, limits=limits, context=1024, contexts=16)
    watch = Stopwatch(bench.executable._library)  # type: ignore[attr-defined]  # the border that is measured
    found: dict[str, Any] = {}
    for batch in (1, 4, 16):
        engine = bench.engine(limits, StepTargets())
        drawn = random.Random(batch)
        for number in range(batch):
            prompt = [drawn.randrange(bench.vocab) for _ in range(128)]
            engine.submit(ask(prompt, 800, temperature=1.0, seed=number))  # drawn: nothing repeats, nothing is guessed
        while engine.counters.completion_tokens < 2 * batch:
            engine.step()
        whole, outside = [], []
        for _ in range(steps):
            watch.seconds = 0.0
            wall, own = time.perf_counter(), time.thread_time()
            engine.step()
            outside.append(time.thread_time() - own - watch.seconds)
            whole.append(time.perf_counter() - wall)
        step_s, python_s = statistics.quantiles(whole, n=10)[0], statistics.median(outside)
        share = python_s / step_s
        found[str(batch)] = {"step_ms": step_s * 1e3, "python_us": python_s * 1e6, "share": share}
        print(f"{shape:14} batch {batch:2}: step {step_s * 1e3:7.2f} ms, Python {python_s * 1e6:5.0f} us, {share:.1%}")
    bench.executable.close()
    bench.pool.free()
    return found


if __name__ == "__main__":
    main()
