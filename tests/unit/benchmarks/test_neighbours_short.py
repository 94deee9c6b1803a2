"""`benchmarks/neighbours.py --short`: every arm runs beside a real node, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_every_arm_runs() -> None:
    records = set((ROOT / "benchmarks" / "records").iterdir())
    done = subprocess.run(
        [sys.executable, "benchmarks/neighbours.py", "--short"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout[done.stdout.index("{") :])
    assert set(record["arms"]) == {"behaved", "memory", "forks", "disk"}
    assert record["arms"]["behaved"]["p99_over_behaved"] == 1.0
    assert set((ROOT / "benchmarks" / "records").iterdir()) == records
