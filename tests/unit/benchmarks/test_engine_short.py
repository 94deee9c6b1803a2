"""`make bench-engine SHORT=1`: the whole harness on a toy model, our own engine, no peers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_harness_works_from_end_to_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engine", "--short", "--classes", "16 bit"],
        cwd=ROOT,
        env={**os.environ, "THALOOM_BENCH_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for cell in ("decode 1 at 32", "decode 4 at 32", "prefill 64"):
        assert f"| {cell} |" in done.stdout
    assert not list((ROOT / "benchmarks" / "records").glob("*toy*"))
